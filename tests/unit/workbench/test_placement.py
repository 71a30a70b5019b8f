"""Who computes where: reservations chosen, shown, refused, and followed. No card is needed."""

from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from tests import tiny
from workbench import placement, provenance
from workbench.errors import UserError
from workbench.graph.dag import config_digest
from workbench.placement import Node, Seat, check_room, room, settle
from workbench.recipe import Recipe, build

TASKS = {"type": "world", "domain": "math"}


def recipe(grpo: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    """A tokenizer, an SFT, a GRPO and an evaluation, with what is given laid over."""
    stages = {
        "tokenizer": tiny.tokenizer_stage(),
        "sft": {**tiny.sft_stage(needs=["tokenizer"]), **sections.get("sft", {})},
        "grpo": {
            "kind": "grpo", "needs": ["sft"], "prompts": TASKS, "held_out": TASKS, **(grpo or {}),
        },
        "evals": {"kind": "evals", "needs": ["grpo"], "benchmarks": ["mini-math"]},
    }  # fmt: skip
    return build({"name": "x", "stages": stages, "cluster": sections.get("cluster", {})})


def chosen(made: Recipe, *nodes: Node) -> dict[str, tuple[float | None, float | None]]:
    """Stage -> cards of its task, cards of each of its engines."""
    found = settle(made, nodes).stages
    return {
        name: (stage.gpus, getattr(getattr(stage, "engine", None), "gpus", None))
        for name, stage in found.items()
    }


def test_one_card_is_shared_without_a_word_and_none_is_asked_for_where_none_is() -> None:
    assert chosen(recipe(), Node(8, 1)) == {
        "tokenizer": (0.0, None), "sft": (1.0, None), "grpo": (0.35, 0.6), "evals": (0.0, 1.0),
    }  # fmt: skip
    assert chosen(recipe(), Node(8, 0)) == {
        "tokenizer": (0.0, None), "sft": (0.0, None), "grpo": (0.0, 0.0), "evals": (0.0, 0.0),
    }  # fmt: skip
    # Eight cards: the trainer has one; three engines one each, nine at most two to a card.
    three, nine = ({"engine": {"replicas": n}} for n in (3, 9))
    assert chosen(recipe(three), Node(8, 8))["grpo"] == (1.0, 1.0)
    assert chosen(recipe(nine), Node(8, 8))["grpo"] == (1.0, 0.5)
    spanning = {"engine": {"tensor_parallel_size": 4}}
    assert chosen(recipe(spanning), Node(8, 8))["grpo"] == (1.0, 4.0)


def test_what_a_recipe_says_is_left_and_the_rest_fits_round_it() -> None:
    assert chosen(recipe({"gpus": 0}), Node(8, 1))["grpo"] == (0.0, 1.0)
    assert chosen(recipe({"gpus": 0.5}), Node(8, 1))["grpo"] == (0.5, 0.5)
    assert chosen(recipe({"engine": {"gpus": 0.9}}), Node(8, 1))["grpo"] == (0.1, 0.9)
    assert chosen(recipe({"engine": {"gpus": 0}}), Node(8, 1))["grpo"] == (1.0, 0.0)
    two = {"gpus": 0.5, "engine": {"replicas": 2}}
    assert chosen(recipe(two), Node(8, 1))["grpo"] == (0.5, 0.25)


def test_workers_have_a_card_each_and_their_stage_none() -> None:
    spread = {"distributed": {"workers": 2, "strategy": "ddp"}, "rows_per_step": 8}
    made = settle(recipe(sft=spread), [Node(8, 2)]).stages["sft"]
    assert (made.reserved, made.distributed.gpus_per_worker) == ((0.0, 0.0), 1.0)  # type: ignore[attr-defined]
    without = settle(recipe(sft=spread), [Node(8, 0)]).stages["sft"]
    assert without.distributed.gpus_per_worker == 0.0  # type: ignore[attr-defined]


def test_an_engine_takes_its_share_of_the_memory_and_never_all() -> None:
    assert EngineConfig(gpus=0.6).memory_share == 0.6
    assert EngineConfig(gpus=1).memory_share == 0.9
    assert EngineConfig(gpus=4, tensor_parallel_size=4).memory_share == 0.9
    assert EngineConfig(gpus=1, gpu_memory_utilization=0.95).memory_share == 0.95


def test_one_and_eight_cards_are_refused_on_eight() -> None:
    """The recipe that waited for ever: a trainer on a card, and eight engines on a card each."""
    greedy = recipe({"gpus": 1, "engine": {"replicas": 8, "gpus": 1}})
    with pytest.raises(UserError) as caught:
        check_room("grpo", greedy.stages["grpo"], [Node(16, 8)])
    line = str(caught.value)
    assert "(stage: 1 CPUs, 1 GPUs) + 8 x (engine: 0 CPUs, 1 GPUs)" in line
    assert "no room for the engine" in line
    assert "lower stages.grpo.engine.replicas" in line
    check_room("grpo", greedy.stages["grpo"], [Node(16, 8), Node(16, 1)])


@pytest.mark.parametrize(
    ("seats", "fits"),
    [
        ([("a", 2, 0.6)], False),  # two shares of more than half do not lie on one card
        ([("a", 1, 0.6), ("b", 1, 0.4)], True),
        ([("a", 3, 0.3333), ("b", 1, 0.0001)], True),
        ([("a", 1, 0.6), ("b", 1, 0.5)], False),
        ([("a", 1, 2)], False),  # whole cards lie on one node
        ([("a", 1, 1.5)], False),
    ],
)
def test_room_on_one_card(seats: list[tuple[str, int, float]], fits: bool) -> None:
    asked = [Seat(who, copies, 0.0, gpus) for who, copies, gpus in seats]
    assert (room([Node(4, 1)], asked) is None) == fits


def test_processes_without_a_card_leave_the_nodes_with_cards_alone() -> None:
    asked = [Seat("cpu", 1, 4.0, 0.0), Seat("gpu", 1, 4.0, 1.0)]
    assert room([Node(4, 1), Node(4, 0)], asked) is None


def test_where_something_runs_does_not_make_it_another_stage() -> None:
    here = recipe()
    there = settle(recipe({"engine": {"gpu_memory_utilization": 0.5}}), [Node(8, 1)])
    for name in here.stages:
        assert config_digest(here, name) == config_digest(there, name)
    other = recipe({"engine": {"max_num_seqs": 7}})
    assert config_digest(here, "grpo") != config_digest(other, "grpo")


def test_the_plan_says_who_sits_where() -> None:
    made = settle(recipe({"engine": {"replicas": 2}}), [Node(8, 1)])
    assert placement.lines(made.stages["grpo"]) == (
        "on: stage: 35% of a card; 2 engines: 30% of a card",
    )
    assert placement.lines(made.stages["evals"]) == ("on: stage: CPU; engine: 1 card",)
    assert placement.lines(settle(recipe(), [Node(8, 0)]).stages["grpo"]) == ()


def test_cards_count_where_torch_can_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(placement, "hardware", lambda: {"gpus": ["H200", "H200"]})
    monkeypatch.setattr(placement.metadata, "version", lambda name: "2.13.0+cpu")
    assert placement.local_cards() == 0
    monkeypatch.setattr(placement.metadata, "version", lambda name: "2.13.0+cu130")
    assert placement.local_cards() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert placement.local_cards() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert placement.local_cards() == 0


@pytest.mark.parametrize(
    ("named", "cards"),
    [
        ("-1", 0), ("NoDevFiles", 0), (" , ", 0), ("0,-1,1", 1), ("1, 0", 2), ("7", 0), ("0,0", 0),
        ("GPU-8932f937-d72c", 1),
    ],
)  # fmt: skip
def test_cards_are_hidden_by_the_rule_of_cuda(
    named: str, cards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's programming guide: only the devices before the first invalid one are seen."""
    monkeypatch.setattr(placement, "hardware", lambda: {"gpus": ["H200", "H200"]})
    monkeypatch.setattr(placement.metadata, "version", lambda name: "2.13.0+cu130")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert placement.local_cards() == cards
    settled = settle(recipe(), [Node(8, placement.local_cards())])
    assert bool(settled.stages["sft"].gpus) == bool(cards)  # without a card: on the CPU


@pytest.mark.parametrize(
    ("named", "order", "gb"),
    [
        (None, "", [4, 80]), ("1", "PCI_BUS_ID", [80]), ("0", "PCI_BUS_ID", [4]), ("1,0", "PCI_BUS_ID", [80, 4]),
        # By default CUDA's number 1 is the slower card, and which that is cannot be told from here.
        ("1", "", [80]), ("0,1", "", [80, 4]),
        ("GPU-4a", "", [4]), ("GPU-80b", "", [80]), ("GPU-", "", []), ("GPU-7", "", []),
        ("MIG-80b", "", []), ("GPU-4a,MIG-80b", "", []), ("-1", "", []),
    ],
)  # fmt: skip
def test_only_visible_cards_are_judged_by(
    named: str | None, order: str, gb: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A display card of 4 GB beside one of 80 (as nvidia-smi lists them, by the bus)."""
    said = {"uuid,memory.total": ["GPU-4a, 4096 MiB", "GPU-80b, 81920 MiB"]}
    monkeypatch.setattr(provenance, "_nvidia_smi", lambda field: said[field])
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert placement.local_memory() == [size * 2**30 for size in gb]


def test_a_card_that_does_not_tell_its_memory_is_not_judged_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provenance, "_nvidia_smi", lambda field: ["GPU-4a, [N/A]"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert placement.local_memory() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert placement.local_memory() == []


def test_one_process_sees_the_cards_or_not() -> None:
    local = {"backend": "local"}
    made = settle(recipe(cluster=local), [Node(8, 1)])
    assert placement.check_one_process(made, ["tokenizer", "sft", "grpo"])
    assert not placement.check_one_process(settle(recipe(cluster=local), [Node(8, 0)]), ["sft"])
    mixed = settle(recipe(sft={"gpus": 0}, cluster=local), [Node(8, 1)])
    with pytest.raises(UserError, match="share one process"):
        placement.check_one_process(mixed, ["sft", "grpo"])


def test_a_stage_with_a_card_that_torch_cannot_see_does_not_run_on_the_cpu() -> None:
    from workbench.distributed import group

    with pytest.raises(UserError, match="reserves 0.35 GPUs and torch sees none"):
        group.place(settle(recipe(), [Node(8, 1)]).stages["grpo"])
    assert group.place(recipe({"gpus": 0}).stages["grpo"]).type == "cpu"


def test_a_share_of_a_card_is_the_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no stage is held to the share of an earlier one of its process. An engine in the stage's own process
    (backend local) is not held to the stage's share: it would get 35% where it takes 60%."""
    from workbench.distributed import group

    limits = card_of(monkeypatch)
    made = settle(recipe(sft={"gpus": 0.5}), [Node(8, 1)]).stages
    monkeypatch.setattr(group.cluster, "is_in_use", lambda: True)
    assert str(group.place(made["grpo"])) == "cuda:0"
    group.place(made["sft"])
    group.place(settle(recipe(), [Node(8, 1)]).stages["sft"])
    assert limits == [0.35, 0.5, 1.0]
    monkeypatch.setattr(group.cluster, "is_in_use", lambda: False)
    group.place(made["grpo"])
    group.place(made["sft"])
    assert limits[3:] == [1.0, 0.5]


def test_an_engine_in_this_process_is_not_held_to_what_an_earlier_stage_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from engine import remote

    limits = card_of(monkeypatch)
    monkeypatch.setattr(remote, "checkpoint_specs", lambda model: {})
    remote.start_engine(tmp_path, EngineConfig(gpus=1), engine_class=lambda model, config: None)  # type: ignore[arg-type]
    assert limits == [1.0]


def card_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A card that torch believes in; the shares of it that torch is held to."""
    from workbench.distributed import group

    cuda, limits = group.torch.cuda, list[float]()
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        cuda, "set_per_process_memory_fraction", lambda share, device: limits.append(share)
    )
    return limits
