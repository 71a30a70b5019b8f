"""What a sample's key and its verdict's digest depend on, and what they must not depend on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.protocol import Sampling
from environments.protocol import Step, Task
from evals import samples
from evals.benchmark import Benchmark
from evals.jobs import Job
from evals.samples import checks_digest, samples_of
from evals.sources import Data
from workbench.conversation import CheckSpec, Conversation

JUDGE = {"endpoint": "http://h/v1#j", "temperature": 0.0, "max_tokens": 9, "seed": 0, "parallel": 8}


class _World:
    """Whose first turn is the question's."""

    def reset(self, task: Task) -> None:
        return

    def step(self, reply: Any) -> Step:
        return Step(done=True)


_RESPONDER: Any = SimpleNamespace(
    identity="m",
    tokenizer=None,
    prepare=lambda asked, thinking: asked.messages[0]["content"],
    fits=lambda prompts, longest: [""] * len(prompts),
)


def _sample(spec: CheckSpec, *, played: bool = False) -> samples.PendingSample:
    asked = Conversation("q", "d", [{"role": "user", "content": "hello"}], None, spec)
    world: Any = (lambda question: _World()) if played else None
    found = Benchmark("b", "b", Data("here"), lambda loading: [asked], world=world)
    job = Job(found, None, None, Sampling(max_tokens=8, seed=1))
    return samples_of(job, _RESPONDER, Path())[0]


@pytest.mark.parametrize(
    ("reference", "options"),
    [
        ([["cd()"], ["ls()"]], {"entry": {"question": ["hello", "later"]}}),
        ([["cd()"]], {"entry": {"question": ["hello", "other"]}}),
        ([["cd()"]], {"entry": {"question": ["hello", "later"], "initial_config": {"a": 1}}}),
    ],
)
def test_episodes_that_differ_after_their_first_prompt_share_no_key(
    reference: Any, options: dict[str, Any]
) -> None:
    """Their verdicts are never made anew, so an old one would have stood for the other question."""
    first = CheckSpec("tools", [["cd()"]], {"entry": {"question": ["hello", "later"]}})
    key = _sample(first, played=True).key
    assert _sample(first, played=True).key == key
    assert _sample(CheckSpec("tools", reference, options), played=True).key != key


def test_an_episode_keeps_its_key_where_only_places_and_manners_change() -> None:
    def key(targets: str = "/a/t.h5", **judge: Any) -> str:
        spec = CheckSpec("mt-bench", None, {"targets": targets, "judge": JUDGE | judge})
        return _sample(spec, played=True).key

    assert key(targets="/b/t.h5") == key()
    assert key(parallel=2) == key()
    assert key(temperature=1.0) != key()


def test_a_verdict_stands_while_its_own_checker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    math = _sample(CheckSpec("math", "4"))
    judged = _sample(CheckSpec("judged-match", {"answer": "4"}, {"judge": JUDGE}))
    before = checks_digest(math), checks_digest(judged)
    monkeypatch.setitem(samples.CHECK_VERSIONS, "math", 99)
    # A judge is paid: a change of another checker must not have all its opinions asked again.
    assert checks_digest(math) != before[0]
    assert checks_digest(judged) == before[1]


def test_a_judge_is_not_asked_again_for_how_many_requests_it_takes_at_once() -> None:
    def of(**judge: Any) -> str:
        return checks_digest(_sample(CheckSpec("judged-match", {}, {"judge": JUDGE | judge})))

    assert of(parallel=2) == of()
    assert of(endpoint="http://h/v1#k") != of()


def test_another_version_of_the_rules_judges_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    math, words = _sample(CheckSpec("math", "4")), _sample(CheckSpec("contains", ["4"]))
    before = checks_digest(math), checks_digest(words)
    monkeypatch.setattr(
        samples, "_versions", lambda kind: {"math-verify": "9"} if kind == "math" else {}
    )
    assert checks_digest(math) != before[0]
    assert checks_digest(words) == before[1]


def test_the_key_is_of_model_prompt_sampling_and_seed() -> None:
    first = _sample(CheckSpec("math", "4"))
    assert _sample(CheckSpec("math", "5")).key == first.key  # the reply is judged again
    for change in ({"max_tokens": 9}, {"temperature": 0.5}, {"top_p": 0.5}, {"seed": 2}):
        job = replace(first.job, sampling=replace(first.job.sampling, **change))
        assert samples_of(job, _RESPONDER, Path())[0].key != first.key
