"""The mismatch gate: it stops before the optimizer does, and names the kinds of layers that differ."""

import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.protocol import Request, Sampling
from rl.advantage import advantages
from rl.config import GrpoConfig
from rl.diagnosis import compare, diagnose
from rl.loop import Grpo, GrpoHooks, MismatchError
from rl.sample import Rollout
from tests.sync_faults import RUNNING, layer, replaced, skipped
from tests.sync_pair import MAX_LEN, Pair
from workbench.checkpoint import Checkpoints

pytestmark = pytest.mark.integration
PROMPT = [7, 9, 30, 31, 32, 80, 4, 9, 9, 61]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    made.sync()
    yield made
    made.engine.close()


def says(pair: Pair) -> str:
    request = Request(PROMPT, Sampling(max_tokens=12, stop_token_ids=(0,)), seed=5)
    return diagnose(pair.model, pair.engine.trace(request), "float32")


def test_layers_that_agree_agree_to_rounding(pair: Pair) -> None:
    request = Request(PROMPT, Sampling(max_tokens=12, stop_token_ids=(0,)), seed=5)
    (trace,) = pair.engine.trace(request)
    assert trace.token_ids[:10] == PROMPT
    assert len(trace.logprobs) == len(trace.token_ids) - 10 > 4
    found = compare(pair.model, trace)
    kinds = {"M": "Mamba-2", "*": "attention", "-": "feed-forward"}
    assert [e.kind for e in found] == [
        "embedding", *(kinds[letter] for letter in "M*-M*-M-"), "head"
    ]  # fmt: skip
    assert max(e.worst for e in found) < 2e-5
    assert says(pair).startswith("fed the same inputs at temperature 1, every layer agrees")


@pytest.mark.parametrize(
    ("fault", "expected", "decoding_only"),
    [
        (RUNNING["another attention scale"], "attention (layer 1) by", False),
        (skipped, "feed-forward (layer 2) by 1 on prompts, 1 in decoding", False),
        (RUNNING["another epsilon in a norm"], "Mamba-2 (layer 3) by", False),
        (RUNNING["D left out of one-token steps"], "Mamba-2 (layer 0, 3, 6) by", True),
        (RUNNING["logits scaled"], "head by", False),
    ],
)
def test_the_kind_of_the_layer_that_differs_is_named(
    pair: Pair, fault: Any, expected: str, decoding_only: bool
) -> None:
    with fault(pair.engine):
        told = says(pair)
    assert told.startswith(f"layers that differ: {expected}")
    assert told.count(" by ") == 1  # nothing else is blamed
    agree = told.split("The others agree: ")[1]
    assert all(float(part.split()[-1]) < 1e-4 for part in agree.split(", "))
    if decoding_only:
        on_prompts, in_decoding = told.split(" by ")[1].split(" on prompts, ")
        assert float(on_prompts) < 1e-5 and float(in_decoding.split()[0]) > 1e-2


def test_an_embedding_that_differs_is_named(pair: Pair) -> None:
    def plus_one(table: torch.nn.Parameter) -> torch.nn.Parameter:
        return torch.nn.Parameter(table + 1, requires_grad=False)

    find = lambda engine: engine.live_model().model.embed_tokens  # noqa: E731
    with replaced(find, "weight", plus_one)(pair.engine):
        assert "embedding by" in says(pair)


class Players:
    """Samples as `Sampler` does, with rewards of its own."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.made = random.Random(2)

    def roll_out(self, questions: Sequence[Any], *, seed: int) -> list[list[Rollout]]:
        prompts = [[*PROMPT, 10 + number] for number in range(len(questions))]
        sampling = Sampling(max_tokens=12, n=4, seed=seed, stop_token_ids=(0,))
        out = []
        for prompt, group in zip(prompts, self.engine.generate(prompts, sampling), strict=True):
            rewards = [self.made.random() for _ in group]
            gains = advantages(rewards, "group")
            out.append(
                [
                    Rollout(prompt, c, r, a, "ok")
                    for c, r, a in zip(group, rewards, gains, strict=True)
                ]
            )
        return out


def grpo(pair: Pair, **settings: Any) -> Grpo:
    world = {"type": "world", "domain": "math"}
    config = GrpoConfig(
        kind="grpo", needs=["sft"], prompts=world, held_out=world, num_steps=2, prompts_per_step=2,
        group_size=4, max_tokens=12, engine={"max_model_len": MAX_LEN}, **settings,
    )  # fmt: skip
    pool: Any = [SimpleNamespace(id=str(n)) for n in range(4)]
    return Grpo(pair.model, Players(pair.engine), pool, config, seed=1)  # type: ignore[arg-type]


def fit(trainer: Grpo, folder: Any, lines: list[dict[str, float]]) -> bool:
    hooks = GrpoHooks(lambda step, metrics, tokens: lines.append(metrics), lambda step: None, bool)
    return trainer.fit(hooks, Checkpoints(folder))


def test_a_run_stops_before_it_trains_on_another_policy(pair: Pair, tmp_path: Any) -> None:
    lines: list[dict[str, float]] = []
    assert fit(grpo(pair, lr=1e-5, mismatch_kl_limit=1e-6), tmp_path / "a", lines)
    assert len(lines) == 2
    for line in lines:
        assert line["mismatch_kl"] < 1e-8
        assert line["probe_error"] < 1e-4
        assert line["sync_share"] == pytest.approx(line["sync_s"] / line["step_s"])
    # What the stage measures afterwards is sampled from the last step's weights.
    ((done,),) = pair.engine.generate([PROMPT], Sampling(max_tokens=3, seed=1))
    assert set(done.versions) == {2}
    trainer = grpo(pair, mismatch_kl_limit=1e-6)
    before = pair.state()
    roll_out = trainer.sampler.roll_out

    def sabotaged(*args: Any, **options: Any) -> Any:
        layer(pair.engine, 1).attn.impl.scale *= 2  # after the sync has been checked
        return roll_out(*args, **options)

    trainer.sampler.roll_out = sabotaged  # type: ignore[method-assign]
    try:
        with pytest.raises(
            MismatchError,
            match=r"at step 1: mean KL .* limit 1e-06; layers that differ: attention \(layer 1\)",
        ):
            fit(trainer, tmp_path / "b", lines)
    finally:
        layer(pair.engine, 1).attn.impl.scale /= 2
    assert len(lines) == 2
    assert all(torch.equal(v, before[k]) for k, v in pair.state().items())
