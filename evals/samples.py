"""Samples to make, and the row that each becomes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.protocol import Completion, Sampling, sample_seed
from environments.episode import Episode, as_task
from environments.question import checked
from evals.jobs import Job
from evals.responder import Ask, Responder
from evals.sources import Loading, own_file
from reward import Verdict
from reward.dispatch import CHECKERS
from reward.plugin import is_plugin, source_digest
from reward.versions import CHECK_VERSIONS
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError, one_line
from workbench.identity import must_be_own
from workbench.provenance import digest
from workbench.rundir import utc_now

Row = dict[str, Any]
_LONGEST_REFERENCE = 100_000
# Room for what the prompts of later turns hold besides the first one: replies and tools' results.
_LATER_TURNS = 16_384
# Of a judge's settings, those that change what it says.
_JUDGE_DECIDES = ("endpoint", "temperature", "max_tokens", "seed")
_PLACES = ("targets",)  # options that only say where a file lies on this machine


@dataclass
class PendingSample:
    """One sample of a question: what to ask next, and what has been replied."""

    job: Job
    question: Conversation
    number: int
    prompt: Any
    problem: str
    """Why it cannot be asked; "" where it can."""
    key: str = ""
    turns: list[Row] = field(default_factory=list)
    episode: Episode | None = None

    @property
    def sampling(self) -> Sampling:
        """The job's sampling, with the question's own limit and temperature where its task has them."""
        sampling, benchmark = self.job.sampling, self.job.benchmark
        if benchmark.reply_tokens is not None:
            fixed = benchmark.reply_tokens(self.question)
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, fixed))
        if benchmark.temperature is not None:
            sampling = replace(sampling, temperature=benchmark.temperature(self.question))
        return sampling

    def ask(self, turn: int = 0) -> Ask:
        """The request for its next reply; a seed of its own for every turn."""
        seed = self.job.sampling.seed or 0
        name = f"{self.job.benchmark.name}/{self.question.id}"
        return Ask(
            self.prompt,
            self.sampling,
            sample_seed(seed, name if turn == 0 else f"{name}/{turn}", self.number),
        )


def samples_of(
    job: Job, responder: Responder, data: Path, judge: Mapping[str, Any] | None = None
) -> list[PendingSample]:
    """Every sample of a job with its prompt and its key."""
    samples: list[PendingSample] = []
    loading = Loading(data, job.limit, responder.tokenizer, judge)
    questions = job.benchmark.load(loading)
    # Seeds, stored replies and intervals go by them.
    must_be_own([question.id for question in questions], what=f"benchmark {job.benchmark.name!r}")
    for question in questions:
        prompt, problem = _prepared(job, question, responder)
        for number in range(job.sampling.n):
            samples.append(PendingSample(job, question, number, prompt, problem))
    if not samples:
        raise UserError(f"benchmark {job.benchmark.name!r} has no questions")
    if any(own_file(data, name) for name in job.benchmark.data.files):
        _must_differ(job, samples)
    longest = job.sampling.max_tokens + (_LATER_TURNS if job.benchmark.world is not None else 0)
    fits = responder.fits([s.prompt for s in samples if not s.problem], longest)
    for sample, problem in zip((s for s in samples if not s.problem), fits, strict=True):
        sample.problem = problem
    for sample in samples:
        sample.key = _key(sample, responder.identity)
    return samples


def _must_differ(job: Job, samples: Sequence[PendingSample]) -> None:
    """Two questions of one id would be counted, paired and drawn as one. (Official data are taken as
    they are: one id of BFCL's live relevance stands for two.)"""
    count = Counter(sample.question.id for sample in samples if sample.number == 0)
    twice = [id for id, number in count.items() if number > 1]
    if twice:
        raise UserError(
            f"benchmark {job.benchmark.name!r}: {len(twice)} ids stand for more than one question "
            f"({', '.join(twice[:3])}); give each question an id of its own"
        )


def _prepared(job: Job, question: Conversation, responder: Responder) -> tuple[Any, str]:
    try:
        episode = _episode(job, question)
        opening = question if episode is None else episode.ask()
        assert opening is not None
        return responder.prepare(opening, thinking=job.thinking), ""
    except UserError as error:
        return None, str(error)


def _episode(job: Job, question: Conversation) -> Episode | None:
    """A fresh one, for a question of several replies."""
    make = job.benchmark.world
    world = make(question) if make is not None else None
    if world is None:
        return None
    return Episode(world, as_task(question), max_turns=job.benchmark.max_turns)


def _key(sample: PendingSample, identity: str) -> str:
    """What a reply depends on: the model, the prompt, the sampling, its own seed."""
    sampling = sample.sampling
    settings = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({"top_k": sampling.top_k} if sampling.top_k > 0 else {}),
        **({"min_p": sampling.min_p} if sampling.min_p else {}),
        "budget": [sampling.thinking_budget, sampling.thinking_grace, sampling.thinking_rule],
    }
    if sampling.thinking_budget is None:
        settings.pop("budget")
    seed = sample.ask().seed
    episode = _episode(sample.job, sample.question)
    play = sample.job.benchmark.version if episode is not None else ""
    whole = [identity, sample.prompt, settings, seed, play, sample.question.id]
    if episode is not None:
        # Its prompt is the first turn's alone, and it keeps no reply to be judged again: other turns,
        # another gold or another judge are another sample.
        spec = sample.question.check
        assert spec is not None
        whole.append([_decides(spec), _versions(spec.kind)])
    return digest(whole)


def _decides(spec: CheckSpec) -> list[Any]:
    """What of a check can change its verdict."""
    options = {key: value for key, value in spec.options.items() if key not in _PLACES}
    if "judge" in options:
        options["judge"] = {name: options["judge"][name] for name in _JUDGE_DECIDES}
    return [spec.kind, spec.reference, options]


def checks_of(sample: PendingSample) -> dict[str, CheckSpec]:
    """The sample's checks by name; "" is the one behind its value."""
    more = sample.job.benchmark.more_checks
    own = {"": sample.question.check} if sample.question.check is not None else {}
    return {**own, **(more(sample.question) if more is not None else {})}


def checks_digest(sample: PendingSample) -> str:
    """Digest of the checks and of the checkers' versions: an old verdict stands while it is the same."""
    checks = checks_of(sample)
    kinds = sorted({spec.kind for spec in checks.values() if spec.kind in CHECKERS})
    code: dict[str, Any] = {kind: [CHECK_VERSIONS[kind], _versions(kind)] for kind in kinds}
    own = {spec.kind for spec in checks.values() if is_plugin(spec.kind)}
    code |= {kind: source_digest(kind) for kind in own}
    return digest([{name: _decides(spec) for name, spec in checks.items()}, code])


# Kind of check -> the packages whose rules it applies. Another version judges anew.
_RULES = {
    "math": ("math-verify",),
    "tools": ("bfcl-eval",),
    "bfcl": ("bfcl-eval",),
    "instructions": ("lm_eval", "nvidia-ifbench", "langdetect", "nltk"),
}


@cache
def _versions(kind: str) -> dict[str, str]:
    return installed(_RULES.get(kind, ()))


def installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of these packages; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def take(sample: PendingSample, completion: Completion, responder: Responder) -> Row | None:
    """Take a reply. Returns the finished row, or None where the sample goes on with another turn."""
    row = _taken(sample, completion, responder)
    if row is not None and sample.episode is not None:
        sample.episode.close()  # thousands of them would hold a process and a file each
    return row


def _taken(sample: PendingSample, completion: Completion, responder: Responder) -> Row | None:
    row = _replied(sample, completion, responder)
    if row["finish_reason"] == "error":
        return judged(sample, row)
    if sample.episode is None:
        sample.episode = _episode(sample.job, sample.question)
        if sample.episode is None:
            return judged(sample, row)
    sample.turns.append(row)
    try:
        sample.episode.answer(
            Reply(
                row["thinking"], row["answer"], row["tool_calls"], row["well_formed"],
                text=_checkable(row), opened=row["thought"],
            )
        )  # fmt: skip
        following = sample.episode.ask()
        if following is not None:
            sample.prompt = responder.prepare(following, thinking=sample.job.thinking)
            problem = responder.fits([sample.prompt], sample.job.sampling.max_tokens)[0]
            if not problem:
                return None
            return _failed(_joined(sample), problem)
        return _with_verdict(_joined(sample), sample.episode.verdict())
    except Exception as error:  # noqa: BLE001 - a broken world is a failed sample, never a score
        return _failed(_joined(sample), one_line(error))


def judged(sample: PendingSample, row: Row) -> Row:
    """The row with its verdicts. A generation that failed is not judged."""
    row["checked"] = checks_digest(sample)
    if row["finish_reason"] == "error":
        return row
    more = {}
    for name, spec in checks_of(sample).items():
        verdict = _verdict(spec, row, sample.question)
        if name == "":
            _with_verdict(row, verdict)
        else:
            more[name] = {"value": verdict.value, "status": verdict.status, "why": verdict.parts}
    if more:
        row["more"] = more
    return row


def _verdict(spec: CheckSpec, row: Row, question: Conversation) -> Verdict:
    try:
        return checked(spec, _checkable(row), opened=row["thought"], asked=question.prompt)
    except UserError as error:  # a question whose check is broken is a failed sample, not a stop
        return Verdict(None, "error", {"reason": str(error)})


def _checkable(row: Row) -> str:
    """The whole reply in our one syntax, which checks and worlds read."""
    return str(row.get("normal", row["reply"]))


def _with_verdict(row: Row, verdict: Verdict) -> Row:
    row["value"], row["status"], row["why"] = verdict.value, verdict.status, verdict.parts
    return row


def about(sample: PendingSample) -> Row:
    """What of a sample's row the question says whatever was replied, and no key does."""
    question = sample.question
    return {
        "sample": sample.number,
        "domain": question.domain,
        "problem": question.problem,
        "reference": _shown(question.check.reference) if question.check else None,
    }


def blank(sample: PendingSample) -> Row:
    """The row of a sample without a reply."""
    question = sample.question
    return {
        "id": question.id,
        "key": sample.key,
        **about(sample),
        "prompt": question.prompt,
        "reply": "",
        "thinking": "",
        "answer": "",
        "tool_calls": None,
        "thought": False,
        "well_formed": False,
        "finish_reason": "error",
        "sampled_at": None,
        "tokens": {"thinking": 0, "answer": 0},
        "adheres": None,
        "value": None,
        "status": "error",
        "why": {"reason": sample.problem},
    }


def _shown(reference: Any) -> Any:
    """The reference in a sample's row; a contest problem's megabytes of tests are only counted."""
    size = len(json.dumps(reference, default=str))
    return reference if size <= _LONGEST_REFERENCE else f"({size:,} characters)"


def _replied(sample: PendingSample, done: Completion, responder: Responder) -> Row:
    if done.finish_reason == "error":
        return {**blank(sample), "why": {"reason": done.error or "generation failed"}}
    form = responder.format
    normal, reply = form.lenient(done.text, asked=sample.job.thinking)
    # Calls of our own syntax that had to be put in order were in none.
    in_order = reply.well_formed and (normal == done.text or form.calls != "nano-v2")
    thinking = responder.num_tokens(reply.thinking) if reply.thinking else 0
    if done.thinking_tokens is not None and reply.thinking:
        thinking = done.thinking_tokens
    return {
        **blank(sample),
        "reply": done.text,
        **({"normal": normal} if normal != done.text else {}),
        "thinking": reply.thinking,
        "answer": reply.answer,
        "tool_calls": reply.tool_calls,
        "thought": reply.opened,
        "well_formed": in_order and done.finish_reason == "stop",
        "finish_reason": done.finish_reason,
        "sampled_at": utc_now(),
        "tokens": {"thinking": thinking, "answer": max(len(done.token_ids) - thinking, 0)}
        | ({} if done.prompt_tokens is None else {"prompt": done.prompt_tokens}),
        "adheres": _adheres(sample, done, thinking, responder),
        "status": "unscored",
        "why": {},
    }


def _adheres(
    sample: PendingSample, done: Completion, thinking: int, responder: Responder
) -> bool | None:
    """A told budget is counted in the trace alone; an enforced one as its rule counts."""
    budget = sample.job.budget
    if sample.job.told is not None and budget is not None:
        return thinking <= budget
    return responder.adheres(sample.ask(), done)


def _joined(sample: PendingSample) -> Row:
    """One row of all turns: texts of the last, tokens of all, cut or ill-formed if any was."""
    turns = sample.turns
    last = turns[-1]
    return {
        **last,
        "tokens": {
            k: sum(t["tokens"][k] for t in turns)
            for k in ("thinking", "answer", "prompt")
            if all(k in t["tokens"] for t in turns)
        },
        "well_formed": all(t["well_formed"] for t in turns),
        "finish_reason": "length"
        if any(t["finish_reason"] == "length" for t in turns)
        else last["finish_reason"],
        "turns": [{k: t[k] for k in ("reply", "finish_reason", "tokens")} for t in turns],
    }


def _failed(row: Row, why: str) -> Row:
    return {**row, "value": None, "status": "error", "why": {"reason": why}}


def unasked(samples: Sequence[PendingSample]) -> list[Row]:
    """Rows of the samples that cannot be asked: failed, with the reason."""
    return [blank(sample) for sample in samples if sample.problem]
