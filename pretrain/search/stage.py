"""Stage kind `search`: reads what its parts made, measures throughput, picks, and writes the table."""

import os
import shutil
from pathlib import Path

from engine.throughput import tokens_per_second
from evals.ablation.expand import measured, trained
from evals.ablation.scores import scores_of
from evals.ablation.table import Measure, Scores, compare
from evals.config import EvalsConfig
from evals.jobs import jobs_of
from evals.responder import context_of
from model.presets import HybridShape
from model.sizes import GIB, parameters
from pretrain.compress.fitting import needs
from pretrain.compress.target import shape_of
from pretrain.search.choice import Candidate, by_accuracy, markdown, pick
from pretrain.search.config import SearchConfig
from workbench.errors import UserError
from workbench.panels import PointsPanel
from workbench.records import UNKNOWN, Estimate, to_json
from workbench.rundir import new_folder, write_json
from workbench.stage import StageContext
from workbench.statistics import mean_interval, mean_interval_normal, two_way_interval

TABLE = "table.md"


def run(context: StageContext) -> None:
    """Score every candidate, pick one by the rule, write table.md; the model is the one picked."""
    config: SearchConfig = context.config
    scores, left_out = shared(_scores(context, config))
    speeds = _throughput(context, config)
    candidates = [_candidate(context, config, name, scores[name], speeds) for name in config.labels]
    names = [c.name for c in by_accuracy(candidates)]
    asked = {name: _pooled(own) for name, own in scores.items()}
    found = compare([Measure("accuracy", "questions x seeds", True, True, asked)], names)
    picked = pick(candidates, within=config.within, least=config.least_tokens_per_s)
    text = markdown(context.name, candidates, found, picked, _rule(config, left_out))
    (context.stage_dir / TABLE).write_text(text, encoding="utf-8")
    write_json(context.stage_dir / "candidates.json", to_json(candidates))
    _take(context.inputs[_model_of(context, config, picked.name)], context.stage_dir / "model")
    context.note(
        differences=to_json(found), picked=picked.name, parameters=picked.parameters,
        panels=to_json(_panels(candidates, speeds)),
    )  # fmt: skip
    context.progress(message=f"picked {picked.name}; the table is in {TABLE}")


BenchmarkScores = dict[str, Scores]


def _scores(context: StageContext, config: SearchConfig) -> dict[str, BenchmarkScores]:
    """Candidate -> benchmark -> what its models scored."""
    evals: EvalsConfig = context.recipe.stages[measured(context.name)]  # type: ignore[assignment]
    stages = {
        label: {seed: trained(context.name, label, seed) for seed in config.seeds}
        for label in config.labels
    }
    found: dict[str, BenchmarkScores] = {label: {} for label in config.labels}
    for job in jobs_of(evals, seed=0):
        for label, own in scores_of(context.run.root / "evals", stages, job.folder).items():
            found[label][job.folder] = own
    return found


def shared(scores: dict[str, BenchmarkScores]) -> tuple[dict[str, BenchmarkScores], int]:
    """What every candidate has a verdict on, for only the same questions compare; and how many are left out.

    Raises: UserError where one candidate has none with the others.
    """
    seen = {
        label: {(job, key) for job, own in one.items() for key in own}
        for label, one in scores.items()
    }
    common = set.intersection(*seen.values())
    if not common:
        fewest = min(seen, key=lambda label: len(seen[label]))
        raise UserError(
            f"no question has a verdict for all candidates; {fewest} has {len(seen[fewest])}: see why its "
            "samples failed (evals/), and run the stage again"
        )
    kept: dict[str, BenchmarkScores] = {
        label: {
            job: {key: value for key, value in own.items() if (job, key) in common}
            for job, own in one.items()
        }
        for label, one in scores.items()
    }
    return kept, len(set.union(*seen.values()) - common)


def _pooled(scores: BenchmarkScores) -> Scores:
    """All benchmarks' questions as one; a question of one is none of another."""
    return {
        (seed, f"{job}/{key}"): (value, f"{job}/{asks}")
        for job, own in scores.items()
        for (seed, key), (value, asks) in own.items()
    }


def _level(scores: Scores) -> Estimate:
    """Mean accuracy; the interval has seeds in it where there are several."""
    values = [value for value, _ in scores.values()]
    problems = [asks for _, asks in scores.values()]
    seeds = [str(seed) for seed, _ in scores]
    if len(set(seeds)) < 2:
        return mean_interval(values, problems)
    return two_way_interval(values, seeds, problems)[0]


def _model_of(context: StageContext, config: SearchConfig, label: str) -> str:
    """The stage whose model stands for a candidate: that of the first seed."""
    return trained(context.name, label, config.seeds[0])


def _candidate(
    context: StageContext, config: SearchConfig, label: str, scores: BenchmarkScores,
    speeds: dict[str, list[float]],
) -> Candidate:  # fmt: skip
    shape = _shape(context.inputs[_model_of(context, config, label)] / "model")
    load = None if config.fit is None else config.fit.load
    rounds = speeds.get(label)
    return Candidate(
        name=label,
        shape=shape,
        parameters=parameters(shape),
        accuracy=_level(_pooled(scores)),
        tokens_per_s=mean_interval_normal(rounds) if rounds else UNKNOWN,
        memory_gib=None if load is None else needs(shape, load).total_bytes / GIB,
        by_benchmark={job: _level(own).value for job, own in scores.items()},
    )


def _shape(folder: Path) -> HybridShape:
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    return shape_of(AutoConfig.from_pretrained(folder))


def _throughput(context: StageContext, config: SearchConfig) -> dict[str, list[float]]:
    """Candidate -> output tokens a second of each round. One that was measured is not measured again."""
    from engine.remote import start_engine  # noqa: PLC0415 - heavy

    done: dict[str, list[float]] = {**context.outputs.get("tokens_per_s", {})}
    how = config.throughput
    for label in config.labels if how is not None else ():
        assert how is not None
        if label in done:
            continue
        context.progress(message=f"throughput of {label}")
        if context.should_stop():
            context.stop()
        folder = context.inputs[_model_of(context, config, label)] / "model"
        asked = config.engine.grown(
            how.prompt_tokens + how.new_tokens, context=context_of(folder), at_once=how.batch
        )
        engine = start_engine(folder, asked, log=context.stage_dir / "engine.log")
        try:
            done[label] = tokens_per_second(
                engine, vocab_size=_shape(folder).vocab_size, prompt_tokens=how.prompt_tokens,
                new_tokens=how.new_tokens, batch=how.batch, rounds=how.rounds, seed=context.seed,
            )  # fmt: skip
        finally:
            engine.close()
        context.note(tokens_per_s=done)
    return done


def _take(stage: Path, target: Path) -> None:
    """The picked model as this stage's own. Files are shared where the disk can: none is written to."""
    with new_folder(target) as half:
        for source in sorted((stage / "model").iterdir()):
            try:
                os.link(source, half / source.name)
            except OSError:  # another disk, or one without links
                shutil.copy2(source, half / source.name)


def _rule(config: SearchConfig, left_out: int) -> str:
    seeds = len(config.seeds)
    measured_how = "Throughput was not measured: the most accurate is picked."
    if config.throughput is not None:
        how = config.throughput
        measured_how = (
            f"The fastest within {100 * config.within:g} points of the most accurate is picked. "
            f"Tokens a second: {how.batch} prompts of {how.prompt_tokens:,} tokens, {how.new_tokens:,} new "
            f"ones each, {how.rounds} rounds."
        )
    spread = (
        "paired by question and clustered by seed and problem" if seeds > 1 else "over questions"
    )
    fewer = (
        f" {left_out} questions x seeds lack a verdict of some candidate and count for none."
        if left_out
        else ""
    )
    return f"{seeds} {'seeds' if seeds > 1 else 'seed'} a candidate; 95% intervals {spread}. {measured_how}{fewer}"


def _panels(candidates: list[Candidate], speeds: dict[str, list[float]]) -> list[PointsPanel]:
    places, names = [float(i) for i in range(len(candidates))], [c.name for c in candidates]
    accuracy = PointsPanel(
        "Accuracy of the candidates", places, [c.accuracy for c in candidates], x_names=names,
        note="mean over all questions, after the short distillation",
    )  # fmt: skip
    if not speeds:
        return [accuracy]
    speed = PointsPanel(
        "Output tokens a second", places, [c.tokens_per_s for c in candidates], x_names=names,
        share=False, note="vLLM, one candidate after the other",
    )  # fmt: skip
    return [accuracy, speed]
