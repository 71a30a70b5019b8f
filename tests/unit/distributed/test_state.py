"""State without a layout: a training saved in one layout goes on in another, and files in shards."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from model.hybrid import load_model, save_model
from model.packed import Rows
from model.sharding import files
from model.sharding.core import whole_tensors
from pretrain.config import PretrainConfig, ScheduleConfig
from pretrain.prefetch import SharedRows
from pretrain.rows import RowStream
from pretrain.train import Trainer, TrainingHooks
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from tests.tiny import wait_until
from workbench.checkpoint import Checkpoints, states
from workbench.distributed import group
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import make_mesh
from workbench.distributed.state import ShardedCheckpoints, load_latest
from workbench.errors import UserError

STEPS = 6


class Counting:
    """Documents 0, 1, 2, ... of one to thirty tokens, which only their number decides."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, progress: float) -> list[int]:
        made = torch.Generator().manual_seed(self.drawn)
        self.drawn += 1
        length = int(torch.randint(1, 30, (), generator=made))
        return torch.randint(3, 65, (length,), generator=made).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def config(**changes: Any) -> PretrainConfig:
    fields: dict[str, Any] = {
        "total_tokens": STEPS * 4 * 48, "row_tokens": 48, "rows_per_step": 4, "microbatch_rows": 1,
        "schedule": ScheduleConfig(peak_lr=1e-3, min_lr=1e-4, warmup_share=0.2),
        "precision": "fp32", "threads": 1, "checkpoint_every_steps": 2, **changes,
    }  # fmt: skip
    return PretrainConfig.model_construct(
        **{n: f.default for n, f in PretrainConfig.model_fields.items()} | fields
    )


class Kept:
    """Every row that a trainer was given, by the number of its step."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.seen = rows, []  # type: ignore[var-annotated]

    def batch(self, num_rows: int, progress: float) -> Rows:
        found: Rows = self.rows.batch(num_rows, progress)
        self.seen.append(found)
        return found

    def state_dict(self) -> dict[str, Any]:
        return dict(self.rows.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows.load_state_dict(state)


def run(model: Path, folder: Path, where: DistributedConfig | None, until: int) -> Any:
    """Continue a training until a step: rows of the steps, losses, and the weights at the end."""
    if where is None:
        loaded, mesh = load_model(model), None
    else:
        mesh = make_mesh(where)
        loaded = files.read_sharded(model, mesh)
    stream = RowStream(Counting(), 48) if group.is_first() else None
    rows = Kept(SharedRows(stream) if mesh is not None else stream)
    trainer = Trainer(loaded, rows, config(), mesh=mesh)
    state = load_latest(folder, loaded, trainer.optimizer)
    if state is not None:
        trainer.load_state_dict(state)
    losses: list[float] = []
    hooks = TrainingHooks(
        log=lambda step, metrics, tokens: losses.append(metrics["loss"]),
        progress=lambda step, tokens: None,
        should_stop=lambda: trainer.step >= until,
    )
    trainer.fit(hooks, Checkpoints(folder) if mesh is None else ShardedCheckpoints(folder))
    moments = {
        f"{number}/{name}": tiny.whole(value).clone()
        for number, values in trainer.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    return rows.seen, losses, tiny.weights(trainer.core), moments


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(model, tmp_path_factory.mktemp("whole"), None, STEPS)


def test_a_training_goes_on_in_other_layouts(model: Path, undisturbed: Any, tmp_path: Path) -> None:
    """Two shards, then one process, then two processes that share rows: the same rows and weights."""
    rows, losses, weights, _ = undisturbed
    first = on_ranks(2, run, model, tmp_path, tiny.layout(2), 2)
    assert [path.name for path in states(tmp_path)] == ["step-00000002"]
    second = run(model, tmp_path, None, 4)
    assert [path.name for path in states(tmp_path)] == ["step-00000002", "step-00000004.pt"]
    third = on_ranks(2, run, model, tmp_path, tiny.layout(2, context=2), STEPS)
    for rank in (0, 1):
        seen = [*first[rank][0], *second[0], *third[rank][0]]
        assert len(seen) == STEPS
        for ours, theirs in zip(seen, rows, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        got = [*first[rank][1], *second[1], *third[rank][1]]
        assert got == pytest.approx(losses, rel=1e-5)
        assert tiny.apart(third[rank][2], weights) < 1e-5


def test_the_same_layout_goes_on_to_the_bit(model: Path, tmp_path: Path) -> None:
    where = tiny.layout(2)
    whole = on_ranks(2, run, model, tmp_path / "whole", where, STEPS)
    on_ranks(2, run, model, tmp_path / "cut", where, 3)
    (tmp_path / "cut" / ".step-00000009.writing").mkdir()  # a half of a killed process
    again = on_ranks(2, run, model, tmp_path / "cut", where, STEPS)
    for rank in (0, 1):
        for ours, theirs in zip(again[rank][2:], whole[rank][2:], strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list((tmp_path / "cut").glob(".step*"))


def saves_and_trains(model: Path, folder: Path) -> None:
    """A checkpoint that nobody waits for: a kill in the steps after it must find it."""
    core = tiny.sharded(model, tiny.layout(2))
    state = {"model": core.model.state_dict(), "optimizer": core.optimizer.state_dict()}
    ShardedCheckpoints(folder).save(7, state)
    wait_until((folder / "step-00000007" / ".metadata").is_file, "the checkpoint")


def test_a_checkpoint_appears_without_being_waited_for(model: Path, tmp_path: Path) -> None:
    on_ranks(2, saves_and_trains, model, tmp_path)


def reads(folder: Path, where: DistributedConfig, target: Path) -> Any:
    model = files.read_sharded(folder, make_mesh(where))
    held = sum(p.to_local().numel() for p in model.parameters())  # type: ignore[attr-defined]
    found = {name: tensor.clone() for name, tensor in whole_tensors(model)}
    files.write_sharded(model, target, like=folder, tokenizer=tiny.Words())
    return held, found


@pytest.mark.parametrize("file_bytes", [4 << 30, 20_000])
def test_files_and_shards_are_equal_to_the_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int
) -> None:
    """What shards read and write is what load_model and save_model read and write."""
    monkeypatch.setattr(files, "FILE_BYTES", file_bytes)
    plain = load_model(model)
    save_model(plain, tmp_path / "plain")
    found = on_ranks(2, reads, model, tiny.layout(2), tmp_path / "shards")
    sizes = [held for held, _ in found]
    assert sum(sizes) == sum(p.numel() for p in plain.parameters())
    assert max(sizes) < 0.6 * sum(sizes)
    for _, tensors in found:
        assert tensors.keys() == plain.state_dict().keys()
        assert all(torch.equal(t, tensors[n]) for n, t in plain.state_dict().items())
    again = load_model(tmp_path / "shards").state_dict()
    assert all(torch.equal(t, again[n]) for n, t in plain.state_dict().items())
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (tmp_path / place / name for place in ("shards", "plain"))
        assert json.loads(ours.read_text()) == json.loads(theirs.read_text())
    count = len(list((tmp_path / "shards").glob("*.safetensors")))
    assert count == 1 if file_bytes > 1 << 30 else count > 3


def test_a_checkpoint_of_another_model_is_one_line(
    model: Path, tmp_path: Path, undisturbed: Any
) -> None:
    on_ranks(2, run, model, tmp_path / "state", tiny.layout(2), 2)
    other = tiny.checkpoint(tmp_path, intermediate_size=40)
    with pytest.raises(UserError, match=r"of another model.*up_proj.weight \[48, 32\] instead of"):
        run(other, tmp_path / "state", None, STEPS)


def test_a_description_that_is_code_is_not_run(model: Path, tmp_path: Path) -> None:
    on_ranks(2, run, model, tmp_path, tiny.layout(2), 2)

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "step-00000002" / ".metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"damaged .*asks for pathlib"):
        run(model, tmp_path, None, STEPS)
    assert not (tmp_path / "ran").exists()


def test_sizes_that_do_not_share_out_are_one_line(model: Path, tmp_path: Path) -> None:
    def read(where: DistributedConfig) -> str:
        try:
            files.read_sharded(odd, make_mesh(where))
        except UserError as error:
            return str(error)
        return ""

    odd = tiny.checkpoint(tmp_path, n_groups=1)
    for line in on_ranks(2, read, tiny.layout(2, context=2)):
        assert line.startswith("distributed.context 2 does not divide the model's n_groups (1)")
    with pytest.raises(ValueError, match="must be a multiple of context"):
        DistributedConfig(workers=3, strategy="fsdp", context=2)
    with pytest.raises(ValueError, match="needs strategy fsdp"):
        DistributedConfig(workers=2, strategy="ddp", context=2)
