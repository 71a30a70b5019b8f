"""The evaluation loop with a scripted engine: what is asked, kept, judged and asked again."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.protocol import Completion, Sampling
from engine.scripted import ScriptedEngine
from environments.protocol import Step, Task, ToolCall
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.config import EvalsConfig
from evals.console import table
from evals.jobs import Job, jobs_of
from evals.models import Model
from evals.registry import BENCHMARKS
from evals.responder import LocalResponder
from evals.run import Progress, evaluate
from evals.sources import Data, Loading
from evals.sweep import sweep
from reward.verdict import Verdict, decided
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import StopRequested, UserError
from workbench.rundir import Manifest, RunDir, read_json_lines
from workbench.statistics import mean_interval

# Question i is "i + i = ?". The script is right on even i, cut on i = 3, fails on i = 5.
NUM = 8


def _question(i: int) -> Conversation:
    return Conversation(
        id=f"q{i}",
        domain="even" if i % 2 == 0 else "odd",
        messages=[{"role": "user", "content": f"{i} + {i} = ?"}],
        check=CheckSpec("math", str(2 * i)),
    )


SUMS = Benchmark(
    "sums",
    "sums",
    Data("here"),
    lambda loading: [_question(i) for i in range(loading.limit or NUM)],
    BenchmarkSampling(0.0, 1.0, 64, 1, source="test"),
)


class Answers:
    """Replies by the question in the prompt; counts, and may die after some replies."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.asked, self.seeds = tokenizer, 0, list[int]()
        self.die_after: int | None = None

    def responder(self, identity: str = "model-a") -> LocalResponder:
        def reply(prompt: Sequence[int], sample: int) -> list[int]:
            i = int(self.tokenizer.decode(list(prompt)).partition("User\n")[2].split(" ")[0])
            value = 2 * i if i % 2 == 0 else 2 * i + 1
            text = f"so\n</think>\n\nThe total is {value}."
            return [int(t) for t in self.tokenizer.encode(text, add_special_tokens=False)]

        engine = _Dying(ScriptedEngine(reply, self.tokenizer.decode), self)
        return LocalResponder(self.tokenizer, identity, lambda longest: engine, 4096)  # type: ignore[arg-type,return-value]


class _Dying:
    def __init__(self, engine: ScriptedEngine, counter: Answers) -> None:
        self.engine, self.counter = engine, counter

    def stream(self, requests: Sequence[Any]) -> Iterator[tuple[int, Completion]]:
        for place, completion in self.engine.stream(requests):
            if self.counter.die_after is not None and self.counter.asked >= self.counter.die_after:
                raise KeyboardInterrupt  # nothing in the loop may catch it
            self.counter.asked += 1
            self.counter.seeds.append(requests[place].seed)
            text = self.counter.tokenizer.decode(list(requests[place].prompt))
            if "\n5 + 5" in text:
                completion = replace(completion, finish_reason="error", error="engine lost it")
            if "\n3 + 3" in text:
                completion = replace(completion, finish_reason="length")
            yield place, completion

    def close(self) -> None:
        self.engine.close()


def _job(samples: int = 1, seed: int = 7, limit: int | None = None) -> Job:
    sampling = Sampling(max_tokens=64, n=samples, temperature=0.0, seed=seed, logprobs=False)
    return Job(SUMS, None, limit, sampling)


@pytest.fixture
def answers(tokenizer: Any) -> Answers:
    return Answers(tokenizer)


def _run(answers: Answers, out: Path, job: Job | None = None, **more: Any) -> dict[str, Any]:
    (result,) = evaluate(
        answers.responder(more.pop("identity", "model-a")),
        [job or _job()],
        model="m",
        out=out,
        data=out,
        **more,
    )
    return result


def test_failed_samples_are_apart_and_cut_ones_are_counted(
    tmp_path: Path, answers: Answers
) -> None:
    result = _run(answers, tmp_path)
    assert result["n"] == 7  # of 8: question 5 has no verdict
    assert result["failed"] == 1
    assert result["failures"] == {"engine lost it": 1}
    assert result["truncated"] == 1
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(4 / 7)
    # A cut reply is ill-formed; a sample without a reply has no form, and no length.
    assert result["well_formed_rate"] == pytest.approx(6 / 7)
    rows = list(read_json_lines(tmp_path / "sums" / "samples.jsonl"))
    answers_tokens = [row["tokens"]["answer"] for row in rows if row["id"] != "q5"]
    assert result["tokens"]["answer_mean"] == pytest.approx(sum(answers_tokens) / 7)
    assert json.loads((tmp_path / "sums" / "results.json").read_text()) == result


def test_a_killed_run_continues_with_the_same_scores(tmp_path: Path, answers: Answers) -> None:
    whole = _run(answers, tmp_path / "whole")
    answers.asked, answers.die_after = 0, 4
    with pytest.raises(KeyboardInterrupt):
        _run(answers, tmp_path / "killed")
    kept = list(read_json_lines(tmp_path / "killed" / "sums" / "samples.jsonl"))
    assert len(kept) == 4
    assert not (tmp_path / "killed" / "sums" / "results.json").exists()
    # The line that was being written when the process died.
    with (tmp_path / "killed" / "sums" / "samples.jsonl").open("ab") as lines:
        lines.write(b'{"id": "q4", "key": "half a li')
    answers.asked, answers.die_after = 0, None
    again = _run(answers, tmp_path / "killed")
    assert answers.asked == 4
    assert again["metrics"] == whole["metrics"]
    first, second = (_but_for_times(tmp_path / name / "sums") for name in ("whole", "killed"))
    assert first == second


def _but_for_times(folder: Path) -> list[dict[str, Any]]:
    return [line | {"sampled_at": ""} for line in read_json_lines(folder / "samples.jsonl")]


def test_only_failed_samples_are_asked_again(tmp_path: Path, answers: Answers) -> None:
    first = _run(answers, tmp_path)
    answers.asked = 0
    second = _run(answers, tmp_path)
    assert answers.asked == 1  # question 5
    assert second["metrics"] == first["metrics"]


def test_another_model_or_seed_shares_nothing(tmp_path: Path, answers: Answers) -> None:
    _run(answers, tmp_path)
    for changed in ({"identity": "model-b"}, {"job": _job(seed=8)}):
        answers.asked = 0
        _run(answers, tmp_path, **changed)
        assert answers.asked == 8


def test_a_smaller_limit_takes_nothing_away(tmp_path: Path, answers: Answers) -> None:
    whole = _run(answers, tmp_path)
    answers.asked = 0
    again = _run(answers, tmp_path, _job(limit=2))
    assert (again["n"], again["sampling"]["limit"]) == (7, None)
    assert again["metrics"] == whole["metrics"]
    assert len(list(read_json_lines(tmp_path / "sums" / "samples.jsonl"))) == 8
    assert not (tmp_path / "sums" / ".kept.jsonl").exists()
    assert answers.asked == 1  # question 5, which had failed
    # Fewer questions, more samples of each: both are extended, none is dropped.
    more = _run(answers, tmp_path, _job(limit=2, samples=2))
    assert (more["n"], more["num_samples"]) == (7, 2)


def test_a_larger_limit_adds_and_a_stop_on_the_way_leaves_the_result(
    tmp_path: Path, answers: Answers
) -> None:
    _run(answers, tmp_path, _job(limit=4))
    files = [tmp_path / "sums" / name for name in ("results.json", "samples.jsonl")]
    before = [path.read_bytes() for path in files]
    answers.asked, answers.die_after = 0, 2
    with pytest.raises(KeyboardInterrupt):
        _run(answers, tmp_path)
    assert [path.read_bytes() for path in files] == before
    # What is asked for after the stop may be less again.
    answers.asked, answers.die_after = 0, None
    assert _run(answers, tmp_path, _job(limit=2))["n"] == 4
    assert answers.asked == 0
    assert _run(answers, tmp_path)["n"] == 7
    assert answers.asked == 3  # of the four new ones, one had a verdict before the stop
    assert not list((tmp_path / "sums").glob(".more*"))
    assert (
        _run(answers, tmp_path / "other")["metrics"] == json.loads(files[0].read_text())["metrics"]
    )


def test_a_result_says_what_it_is_of(tmp_path: Path, answers: Answers) -> None:
    result = _run(answers, tmp_path, completion="c0ffee")
    assert (result["model_digest"], result["completion"]) == ("model-a", "c0ffee")
    assert json.loads((tmp_path / "sums" / "results.json").read_text()) == result


def test_a_sweep_writes_down_which_result_of_its_stage_it_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    run.write_manifest(Manifest("sft", "sft", "done", {}, "c", 1, completion="c0ffee"))
    seen: dict[str, Any] = {}

    def noted(responder: Any, jobs: Any, *, model: str, **more: Any) -> list[dict[str, Any]]:
        seen[model] = more["completion"]
        return []

    monkeypatch.setattr("evals.sweep.evaluate", noted)
    models = [
        Model("sft", str(run.stage("sft") / "model")),
        Model("bare", str(tmp_path / "bare")),
        Model("served", "http://host/v1#served"),
    ]
    config = EvalsConfig(kind="evals", benchmarks=["mini-math"])
    closing = SimpleNamespace(close=lambda: None)
    sweep(models, config, out=run.root / "evals", seed=1, respond=lambda *_: closing)  # type: ignore[arg-type,return-value]
    assert seen == {"sft": "c0ffee", "bare": None, "served": None}


def test_a_result_of_other_weights_or_settings_is_kept_aside(
    tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "sums", SUMS)

    def run(identity: str, **more: Any) -> None:
        config = EvalsConfig(kind="evals", benchmarks=["sums"], **more)
        responder = answers.responder(identity)
        sweep(
            [Model("m", "nowhere")],
            config,
            out=tmp_path / "evals",
            seed=7,
            respond=lambda *_: responder,
        )

    aside = tmp_path / ".replaced" / "evals" / "m" / "sums" / "results.json"
    run("model-a")
    run("model-a", limit=4)  # of fewer questions: the one that stands has them
    assert not aside.exists()
    run("model-b")
    assert json.loads(aside.read_text())["model_digest"] == "model-a"
    run("model-b", temperature=0.5)
    kept = json.loads(aside.read_text())
    assert (kept["model_digest"], kept["sampling"]["temperature"]) == ("model-b", 0.0)


def test_replies_that_were_taken_over_from_another_run_are_found(
    tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "sums", SUMS)
    _run(answers, tmp_path / ".taken" / "0" / "m")
    answers.asked = 0
    sweep(
        [Model("m", "nowhere")],
        EvalsConfig(kind="evals", benchmarks=["sums"]),
        out=tmp_path / "evals",
        seed=7,
        respond=lambda *_: answers.responder(),
    )
    assert answers.asked == 1  # question 5, which had failed


def test_a_sweep_of_one_model_takes_no_comparison_away(
    tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "sums", SUMS)
    config = EvalsConfig(kind="evals", benchmarks=["sums"], budgets=[8])

    def run(*names: str, limit: int | None = None) -> list[dict[str, Any]]:
        sweep(
            [Model(name, "nowhere") for name in names],
            config.model_copy(update={"limit": limit}),
            out=tmp_path,
            seed=7,
            respond=lambda model, *_: answers.responder(model.name),
        )
        found = json.loads((tmp_path / "comparisons.json").read_text())
        assert isinstance(found, list)
        return found

    def contrasts() -> list[tuple[str, str, int]]:
        rows = json.loads((tmp_path / "budget_contrasts.json").read_text())
        return [(row["against"], row["model"], row["points"][0]["questions"]) for row in rows]

    first = run("a", "b", limit=4)
    pairs = [(row["benchmark"], row["against"], row["model"]) for row in first]
    assert pairs == [("sums", "a", "b"), ("sums@8", "a", "b")]
    assert contrasts() == [("a", "b", 4)]
    assert run("b", limit=4) == first
    assert contrasts() == [("a", "b", 4)]
    # The other order replaces a pair, more models add theirs, and Holm's family is all of them.
    more = run("b", "a", "c", limit=4)
    assert [(row["against"], row["model"]) for row in more if row["benchmark"] == "sums"] == [
        ("b", "a"), ("b", "c"), ("a", "c"),
    ]  # fmt: skip
    # A name is no number.
    assert [row["model"] for row in run("b", "NaNo", limit=4) if "NaNo" in row["model"]]
    # What is taken over is worked out again from what there is now.
    assert {row["difference"]["n"] for row in run("a")} == {4}
    pair = [row for row in run("b") if {row["against"], row["model"]} == {"a", "b"}]
    assert {row["difference"]["n"] for row in pair} == {7}


def test_replies_are_found_under_another_name_of_the_model(
    tmp_path: Path, answers: Answers
) -> None:
    _run(answers, tmp_path / "one")
    answers.asked = 0
    _run(answers, tmp_path / "two", earlier=[tmp_path / "one"])
    assert answers.asked == 1


def test_changed_checks_judge_old_replies_anew(
    tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(answers, tmp_path)
    answers.asked = 0

    def doubled(loading: Loading) -> list[Conversation]:
        return [
            replace(_question(i), check=CheckSpec("math", str(2 * i + 1)), domain="all")
            for i in range(NUM)
        ]

    job = replace(_job(), benchmark=replace(SUMS, load=doubled))
    result = _run(answers, tmp_path, job)
    assert answers.asked == 1
    # Odd questions answered 2i + 1; number 5 failed.
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(3 / 7)
    # What was kept stands beside the reference that it is judged by now, in the domain of now.
    rows = read_json_lines(tmp_path / "sums" / "samples.jsonl")
    told = {row["id"]: (row["reference"], row["domain"]) for row in rows}
    assert told == {f"q{i}": (str(2 * i + 1), "all") for i in range(NUM)}


def test_samples_of_a_question_have_seeds_of_their_own(tmp_path: Path, answers: Answers) -> None:
    result = _run(answers, tmp_path, _job(samples=3))
    assert len(set(answers.seeds)) == 24
    assert result["num_samples"] == 3
    assert result["n"] == 7
    assert result["metrics"]["pass@1"]["value"] == pytest.approx(4 / 7)
    assert result["metrics"]["maj@3"]["value"] == pytest.approx(4 / 7)
    again = Answers(answers.tokenizer)
    _run(again, tmp_path / "again", _job(samples=1))
    assert set(again.seeds) < set(answers.seeds)  # more samples keep the first ones


def test_a_stop_keeps_what_has_ended(tmp_path: Path, answers: Answers) -> None:
    seen: list[int] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress.tokens)
        return len(seen) >= 3

    with pytest.raises(StopRequested):
        _run(answers, tmp_path, watch=watch)
    assert len(list(read_json_lines(tmp_path / "sums" / "samples.jsonl"))) == 3


def test_a_prompt_longer_than_the_context_is_a_failed_sample(
    tmp_path: Path, answers: Answers
) -> None:
    responder = answers.responder()
    responder.context = 16
    (result,) = evaluate(responder, [_job()], model="m", out=tmp_path, data=tmp_path)
    assert result["n"] == 0
    assert result["failed"] == 8
    assert answers.asked == 0
    assert "the model takes 16" in next(iter(result["failures"]))
    assert result["metrics"]["accuracy"]["value"] is None
    assert result["well_formed_rate"] is None


def test_a_benchmark_without_one_scored_sample_is_still_a_line_of_the_table(
    tmp_path: Path, answers: Answers
) -> None:
    """Its headline is a metric of its own, which no scored sample has given."""
    responder = answers.responder()
    responder.context = 16
    quoted = replace(SUMS, headline="overall", metrics=lambda rows: {"overall": mean_interval([1])})
    (result,) = evaluate(
        responder, [replace(_job(), benchmark=quoted)], model="m", out=tmp_path, data=tmp_path
    )
    assert result["metrics"]["overall"]["value"] is None
    line = table({"m": [result]}).splitlines()[1].split()
    assert line == ["m", "sums", "overall", "-", "-", "0", "0", "8"]


class _Growing:
    """A world of two turns; the second prompt has `more` words more."""

    def __init__(self, more: int) -> None:
        self.more, self.turns = more, 0

    def reset(self, task: Task) -> None:
        self.task, self.turns = task, 0

    def step(self, reply: Reply) -> Step:
        self.turns += 1
        text = self.task.messages[0]["content"] + " so" * self.more * self.turns
        return Step([{"role": "user", "content": text}], done=self.turns == 2, anew=True)

    def verify(self) -> Verdict:
        return decided(1.0)

    def gold(self) -> list[list[ToolCall]]:
        return []


def _grown(answers: Answers, out: Path, more: int, **limits: int) -> tuple[dict[str, Any], int]:
    """The result of a run whose second prompts are that much longer, and what its engine took."""
    responder, takes = answers.responder(), list[int]()

    def start(longest: int) -> Any:
        takes.append(max(longest, limits.get("shortest", 0)))
        return _Strict(ScriptedEngine(lambda *_: [65], answers.tokenizer.decode), takes[-1])

    responder.start, responder.context = start, limits["context"]
    responder.shortest = limits.get("shortest", 0)
    played = replace(SUMS, world=lambda question: _Growing(more))
    job = replace(_job(limit=2), benchmark=played)
    (result,) = evaluate(responder, [job], model="m", out=out, data=out)
    (took,) = takes  # one start a model
    return result, took


class _Strict:
    """An engine that refuses a whole batch for one prompt that is too long, as vLLM's does."""

    def __init__(self, engine: ScriptedEngine, takes: int) -> None:
        self.engine, self.takes = engine, takes

    def stream(self, requests: Sequence[Any]) -> Iterator[tuple[int, Completion]]:
        for request in requests:
            if len(request.prompt) >= self.takes:
                raise UserError("a prompt is too long")
        yield from self.engine.stream(requests)

    def close(self) -> None:
        self.engine.close()


def test_later_turns_have_room_and_those_that_do_not_fit_are_failed_samples(
    tmp_path: Path, answers: Answers
) -> None:
    """They stopped the whole sweep, and its rerun again at the same place."""
    result, took = _grown(answers, tmp_path / "a", 500, context=4096)
    assert (result["n"], result["failed"], took) == (2, 0, 4096)
    result, took = _grown(answers, tmp_path / "b", 500, context=10**6)
    assert (result["n"], result["failed"]) == (2, 0)
    assert 16_384 < took < 20_000
    result, took = _grown(answers, tmp_path / "c", 30_000, context=10**6)
    assert (result["n"], result["failed"]) == (0, 2)
    assert f"engine.max_model_len is {took:,}" in next(iter(result["failures"]))
    # What the line names helps, and asks again only for what had failed.
    result, _ = _grown(answers, tmp_path / "c", 30_000, context=10**6, shortest=200_000)
    assert (result["n"], result["failed"]) == (2, 0)


def test_modes_and_budgets_become_folders() -> None:
    config = EvalsConfig(
        kind="evals", benchmarks=["mini-math"], thinking=["with", "without"], budgets=[0, 64]
    )
    jobs = jobs_of(config, seed=1)
    assert [job.folder for job in jobs] == ["mini-math", "mini-math@0", "mini-math@64"]
    assert [job.sampling.thinking_budget for job in jobs] == [None, None, 64]
    assert [job.thinking for job in jobs] == [True, False, True]
