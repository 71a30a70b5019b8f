"""The routers' loss and load in SFT and GRPO: two processes that share a model with experts say and learn
what one does, and one learns what the loss asks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from model.hybrid import load_model, save_model
from model.layers.routing import Routing
from model.sharding.core import whole_tensors
from model.sharding.files import read_sharded, write_sharded
from model.tokenizer import train_tokenizer
from rl.update import Updater
from sft.sharded import SftLoop
from sft.trainer import RowCollator, StrictSFTTrainer, trl_config
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from tests.unit.distributed.test_grpo_ranks import config, two_steps
from tests.unit.distributed.test_objectives import samples, sft
from tests.unit.model.test_families import config_of
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh

COEFFICIENT = 0.5
FAMILIES = ["nemotron, experts", "granite, experts"]
Steps = list[dict[str, float]]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_model(config_of(request.param), seed=0)
    return save_model(model, tmp_path_factory.mktemp("experts") / "model", tiny.Words())


def write(folder: Path, target: Path) -> None:
    mesh = make_mesh(tiny.layout(2))
    write_sharded(read_sharded(folder, mesh), target, like=folder, tokenizer=tiny.Words())


def test_experts_are_read_into_shards_and_written_as_they_were(
    folder: Path, tmp_path: Path
) -> None:
    """transformers' own files of it, to the bit; a file that lacks an expert is refused as it was."""
    on_ranks(2, write, folder, tmp_path / "again")
    given, found = (load_file(at / "model.safetensors") for at in (folder, tmp_path / "again"))
    assert given.keys() == found.keys()
    assert all(torch.equal(given[name], found[name]) for name in given)
    plain = load_model(folder).state_dict()
    assert all(
        torch.equal(t, plain[n]) for n, t in load_model(tmp_path / "again").state_dict().items()
    )


def of_routers(steps: Steps) -> Steps:
    """What a training logged of its routers."""
    return [
        {k: v for k, v in step.items() if k == "router_loss" or k.startswith("experts/")}
        for step in steps
    ]


def close(found: Steps, wanted: Steps) -> None:
    assert len(found) == len(wanted) > 1
    for mine, theirs in zip(of_routers(found), of_routers(wanted), strict=True):
        assert len(theirs) >= 1 + 2  # the loss, and a layer's peak and entropy
        assert mine == pytest.approx(theirs, rel=1e-6)


def sft_of(where: DistributedConfig | None, coefficient: float) -> Any:
    return sft(where).model_copy(update={"router_loss": coefficient})


def sft_loop(folder: Path, where: DistributedConfig | None, coefficient: float) -> Any:
    mesh = make_mesh(where) if where else None
    model = read_sharded(folder, mesh) if mesh else load_model(folder)
    training = SftLoop(model.train(), samples(), sft_of(where, coefficient), 7, mesh)
    steps = [training.train_step() for _ in range(training.order.num_steps)]
    return steps, tiny.weights(training.core)


def test_sft_on_ranks_is_that_of_one_and_trls(folder: Path, tmp_path: Path) -> None:
    """Eleven rows, four a step: the third step has a row of nobody, which no router may count."""
    wanted, weights = sft_loop(folder, None, COEFFICIENT)
    for steps, found in on_ranks(2, sft_loop, folder, tiny.layout(2), COEFFICIENT):
        close(steps, wanted)
        assert tiny.apart(found, weights) < 5e-6
    model, how = load_model(folder), sft_of(None, COEFFICIENT)
    written = getattr(model.config, "router_aux_loss_coef", None)
    trainer = StrictSFTTrainer(
        model=model, args=trl_config(how, tmp_path, 7), data_collator=RowCollator(0),
        train_dataset=Dataset.from_list(samples()),
        processing_class=train_tokenizer(["a line of text\n"] * 3, 300, tmp_path / "words"),
    )  # fmt: skip
    # TRL's own loss is off, and its coefficient stays in what is saved.
    assert not trainer.aux_loss_enabled
    assert getattr(model.config, "router_aux_loss_coef", None) == written
    routing = trainer.routing = Routing(model, coefficient=COEFFICIENT)
    trainer.threads = 1
    trainer.train()
    assert tiny.apart(dict(model.named_parameters()), weights) < 5e-6
    first = [step["router_loss"] for step in wanted]
    assert routing.metrics()["router_loss"] == pytest.approx(sum(first) / len(first), rel=0.05)


def grpo(folder: Path, on: bool, coefficient: float, settings: dict[str, Any]) -> Any:
    torch.manual_seed(5)
    mesh = make_mesh(tiny.layout(2)) if on else None
    model = read_sharded(folder, mesh) if mesh else load_model(folder)
    how = config(router_loss=coefficient, **settings)
    updater = Updater(model, how, mesh) if mesh else Updater(model, how)
    steps = two_steps(updater, 5)
    return steps, {name: tensor.clone() for name, tensor in whole_tensors(model)}


@pytest.mark.parametrize("settings", [{}, {"updates_per_step": 2, "activations": "checkpoint"}])
def test_grpo_on_ranks_is_that_of_one(folder: Path, settings: dict[str, Any]) -> None:
    wanted, state = grpo(folder, False, COEFFICIENT, settings)
    for steps, whole in on_ranks(2, grpo, folder, True, COEFFICIENT, settings):
        close(steps, wanted)
        filled = [name for name in state if bool(state[name].any())]
        assert tiny.apart(*({n: s[n] for n in filled} for s in (whole, state))) < 1e-5
    # It is the loss that moved the routers.
    _, plain = grpo(folder, False, 0.0, settings)
    moved = {name for name in state if not torch.equal(plain[name], state[name])}
    assert any("gate" in name or "router" in name for name in moved)


def test_grpo_with_the_loss_evens_out_its_experts(folder: Path) -> None:
    how = {"lr": 1e-2}
    model = load_model(folder)
    updater = Updater(model, config(router_loss=10.0, **how))
    losses = [step["router_loss"] for _ in range(6) for step in two_steps(updater, 3)]
    assert losses[-1] < losses[0]
