"""Bounded staleness: whatever the speeds, no token is older than the bound, none is lost or twice."""

import random
import threading
import time
from collections.abc import Sequence

import pytest

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from rl.metrics import overlap_s, staleness
from rl.prefetch import Prefetch, StalenessError, check_versions
from rl.sample import Rollout, Sampled


def group_of(
    engine: ScriptedEngine, prompt: int, made: random.Random | None = None
) -> list[Rollout]:
    """Two replies; with `made` the weights may change in the middle of one, as in a live engine."""
    done = []
    for completion in engine.generate([[prompt]], Sampling(max_tokens=6, n=2))[0]:
        if made is not None:
            versions = []
            for _ in completion.token_ids:
                time.sleep(made.random() * 5e-4)
                versions.append(engine.version)
            object.__setattr__(completion, "versions", versions)
        done.append(Rollout([prompt], completion, 1.0, 0.5, "ok"))
    return done


def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, sample: [prompt[0]] * 6, lambda ids: "")


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_older_than_the_bound_and_every_prompt_once(max_staleness: int, seed: int) -> None:
    engine, made = scripted(), random.Random(f"{max_staleness}/{seed}")
    sampling = random.Random(seed)
    rollouts_slow = seed % 2 == 0

    def collect(position: int) -> Sampled:
        began = time.perf_counter()
        groups = [group_of(engine, p, sampling) for p in range(position, position + 3)]
        if rollouts_slow:
            time.sleep(sampling.random() * 0.004)
        return Sampled(groups, [], position + 3, began, time.perf_counter())

    feed = Prefetch(collect, max_staleness=max_staleness, step=0, num_steps=12, position=0)
    seen: list[int] = []
    ages = []
    for step in range(12):
        batch = feed.take(step)
        seen += [group[0].prompt[0] for group in batch.groups]
        ages.append(step - min(v for g in batch.groups for r in g for v in r.completion.versions))
        time.sleep(made.random() * (0.001 if rollouts_slow else 0.006))
        engine.update_weights([], version=step + 1)
        feed.published(step + 1)
    feed.close()
    assert seen == list(range(36))
    assert max(ages) <= max_staleness
    if max_staleness == 0:
        assert ages == [0] * 12


@pytest.mark.parametrize("bound", [1, 2, 5])
def test_a_slow_trainer_is_sampled_ahead_of_up_to_the_bound(bound: int) -> None:
    engine, begun = scripted(), []

    def collect(position: int) -> Sampled:
        begun.append(position)
        return Sampled([group_of(engine, position)], [], position + 1, 0.0, 1.0)

    feed = Prefetch(collect, max_staleness=bound, step=0, num_steps=12, position=0)
    ages = []
    for step in range(12):
        deadline = time.monotonic() + 5
        while len(begun) < min(12, step + bound + 1) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002)
        assert begun == list(range(min(12, step + bound + 1)))
        (group,) = feed.take(step).groups
        ages.append(step - group[0].completion.versions[0])
        engine.update_weights([], version=step + 1)
        feed.published(step + 1)
    feed.close()
    assert ages == [min(step, bound) for step in range(12)]


def test_sampling_and_training_overlap() -> None:
    engine = scripted()
    sampling, training = threading.Event(), threading.Event()
    both = []

    def collect(position: int) -> Sampled:
        if position == 1:
            sampling.set()
            both.append(training.wait(5))  # step 1 is sampled while step 0 is trained on
        return Sampled([group_of(engine, position)], [], position + 1, 0.0, 1.0)

    feed = Prefetch(collect, max_staleness=1, step=0, num_steps=2, position=0)
    feed.take(0)
    assert sampling.wait(5)
    training.set()
    feed.published(1)
    feed.take(1)
    feed.close()
    assert both == [True]


def test_an_error_of_the_sampling_reaches_the_trainer() -> None:
    def collect(position: int) -> Sampled:
        raise RuntimeError("no engine")

    for bound in (0, 2):
        feed = Prefetch(collect, max_staleness=bound, step=0, num_steps=2, position=0)
        with pytest.raises(RuntimeError, match="no engine"):
            feed.take(0)
        feed.close()


def with_versions(versions: Sequence[int]) -> list[list[Rollout]]:
    engine = scripted()
    (one, other) = group_of(engine, 4)
    object.__setattr__(other.completion, "versions", list(versions))
    object.__setattr__(one.completion, "versions", [7] * 6)
    return [[one, other]]


def test_a_token_outside_the_bound_is_refused() -> None:
    check_versions(with_versions([5, 6, 7, 7, 7, 7]), 7, 2)
    for versions, says in (
        ([4, 6, 7, 7, 7, 7], "policy version 4; allowed: 5 to 7"),
        ([7, 7, 7, 7, 7, 8], "policy version 8"),
        ([7, 7, 7], "do not all carry"),
    ):
        with pytest.raises(StalenessError, match=says):
            check_versions(with_versions(versions), 7, 2)
    assert staleness(with_versions([5, 6, 7, 7, 7, 7]), 7) == pytest.approx(3 / 12)


def test_overlap_by_hand() -> None:
    batch = Sampled([], [], 0, began=2.0, ended=10.0)
    assert overlap_s(batch, [(0.0, 1.0), (1.0, 3.0), (9.5, 12.0)]) == pytest.approx(1.5)
