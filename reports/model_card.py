"""A model card from what a run wrote down: how the model was made, and what was measured, with intervals."""

from pathlib import Path

import yaml

from reports.read import Evaluation, RunFacts, StageFacts
from workbench.errors import UserError


def card(facts: RunFacts, stage: StageFacts, *, title: str, licence: str = "other") -> str:
    """README.md of a published model. Nothing in it that the run directory does not say."""
    head = {"license": licence, "library_name": "transformers", "tags": ["anneal", stage.kind]}
    if base := _base(facts, stage):
        head["base_model"] = base
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {title}", ""]
    about = str(facts.recipe.get("about") or "").strip()
    lines += [about, ""] if about else []
    lines += ["## How it was made", "", *_making(facts, stage), ""]
    lines += ["## What was measured", "", *_results(facts, stage.name), ""]
    return "\n".join([*lines, *_warnings(stage)])


def _base(facts: RunFacts, stage: StageFacts) -> str:
    """The hub id that the model began as; "" where the run built it, or took it from a folder."""
    for name in _line_of(facts, stage):
        source = facts.stages[name].config.get("source")
        if facts.stages[name].kind == "convert" and isinstance(source, dict):
            path = str(source.get("path") or "")
            return path if path.count("/") == 1 and not Path(path).exists() else ""
    return ""


def _line_of(facts: RunFacts, stage: StageFacts) -> list[str]:
    """The stages behind a model, the first one first: each one's first need is its parent."""
    names = [stage.name]
    while (needs := facts.stages[names[-1]].config.get("needs")) and needs[0] not in names:
        names.append(str(needs[0]))
    return names[::-1]


def _making(facts: RunFacts, stage: StageFacts) -> list[str]:
    lines = [f"Run `{facts.name}` of Anneal, stage by stage:", ""]
    for name in _line_of(facts, stage):
        one = facts.stages[name]
        manifest = one.manifest
        said = [f"`{name}` ({one.kind})"]
        if manifest is not None:
            said += [f"seed {manifest.seed}"]
            if commit := manifest.git.get("commit"):
                said.append(
                    f"commit {str(commit)[:12]}{' with changes' if manifest.git.get('dirty') else ''}"
                )
            said += [f"{name} {v}" for name, v in manifest.versions.items() if name in _PACKAGES]
        lines.append(f"- {', '.join(said)}")
    parameters = stage.result.parameters
    return [*lines, *([f"- {parameters:,} parameters"] if parameters is not None else [])]


_PACKAGES = ("torch", "transformers", "vllm", "trl")


def _results(facts: RunFacts, model: str) -> list[str]:
    found = [e for (owner, _, _), e in facts.results.items() if owner == model and not e.stale]
    if not found:
        return ["Nothing, in this run."]
    lines = ["| benchmark | metric | % | 95% interval | questions | no verdict |"]
    lines += ["| --- | --- | --- | --- | --- | --- |", *(_row(one) for one in found)]
    return [*lines, "", "Intervals are by question. Samples without a verdict count in no figure."]


def _row(found: Evaluation) -> str:
    result, metric = found.result, found.headline
    low, high = (f"{100 * x:.1f}" if x == x else "?" for x in metric.ci95)
    samples = f" x {result.num_samples}" if result.num_samples > 1 else ""
    return (
        f"| {found.folder.name} | {result.headline} | {100 * metric.value:.1f} | {low} to {high} "
        f"| {result.n}{samples} | {result.failed} |"
    )


def _warnings(stage: StageFacts) -> list[str]:
    told = stage.result.warnings
    return ["## What to know", "", *(f"- {line}" for line in told), ""] if told else []


def published_stage(facts: RunFacts, name: str) -> StageFacts:
    """The stage whose model is to be published. Raises: UserError where it has none that is whole."""
    made = [n for n in facts.stages if (facts.root / n / "model" / "config.json").is_file()]
    if name not in facts.stages or name not in made:
        raise UserError(
            f"stage {name!r} has no model; stages with one: {', '.join(made) or 'none'}"
        )
    stage = facts.stages[name]
    if stage.status != "done":
        raise UserError(
            f"stage {name!r} is {stage.status}; finish it first (anneal run {name} ...)"
        )
    return stage
