"""Stage kind `ablation`: reads what its parts made, and writes the table."""

from collections import Counter
from collections.abc import Iterator

from data_mix.results import BlendAccount
from data_mix.sources import open_source
from evals.ablation.config import AblationConfig
from evals.ablation.expand import measured, trained
from evals.ablation.held_out import bits_a_character
from evals.ablation.scores import ArmScores, scores_of
from evals.ablation.table import Measure, compare, markdown
from evals.config import EvalsConfig
from evals.jobs import jobs_of
from workbench.distributed import group
from workbench.records import questions_of, read_samples, to_json
from workbench.results import read_outputs
from workbench.rundir import write_json
from workbench.stage import StageContext
from workbench.statistics import mean_interval

TABLE = "table.md"


def run(context: StageContext) -> None:
    """Measure held-out texts, compare the arms, write table.md and comparisons.json."""
    config: AblationConfig = context.config
    measures = [*_benchmarks(context, config), *_held_out(context, config)]
    arms = list(config.arms)
    found = compare(measures, arms)
    tokens = _tokens(context, config)
    text = markdown(context.name, measures, found, tokens, len(config.seeds))
    (context.stage_dir / TABLE).write_text(text, encoding="utf-8")
    write_json(context.stage_dir / "comparisons.json", to_json(found))
    context.note(differences=to_json(found), tokens_by_source=tokens)
    context.progress(message="the table is in table.md")


def _benchmarks(context: StageContext, config: AblationConfig) -> Iterator[Measure]:
    if not config.benchmarks:
        return
    evals: EvalsConfig = context.recipe.stages[measured(context.name)]  # type: ignore[assignment]
    out = context.run.root / "evals"
    stages = {
        arm: {seed: trained(context.name, arm, seed) for seed in config.seeds}
        for arm in config.arms
    }
    for job in jobs_of(evals, seed=0):
        scores = scores_of(out, stages, job.folder)
        base = questions_of(read_samples(out / config.base / job.folder)).values()
        level = mean_interval([q.value for q in base], [q.asks for q in base])
        yield Measure(job.folder, "questions x seeds", True, True, scores, level)


def _held_out(context: StageContext, config: AblationConfig) -> Iterator[Measure]:
    device = str(group.place(config))
    for name, source in config.held_out.items():
        documents = open_source(source, name=name, seed=context.seed).take(
            config.held_out_documents
        )
        scores: ArmScores = {arm: {} for arm in config.arms}
        for arm in config.arms:
            for seed in config.seeds:
                stage = trained(context.name, arm, seed)
                context.progress(message=f"held-out {name}: {stage}")
                for place, bits in enumerate(
                    bits_a_character(context.inputs[stage] / "model", documents, device)
                ):
                    scores[arm][seed, str(place)] = (bits, str(place))
        base = bits_a_character(context.inputs[config.base] / "model", documents, device)
        yield Measure(
            f"{name}, bits a character",
            "documents x seeds",
            False,
            False,
            scores,
            mean_interval(base),
        )


def _tokens(context: StageContext, config: AblationConfig) -> dict[str, dict[str, float]]:
    """Arm -> source -> tokens that it saw, mean over seeds."""
    found: dict[str, dict[str, float]] = {}
    for arm in config.arms:
        seen: Counter[str] = Counter()
        for seed in config.seeds:
            manifest = context.run.manifest(trained(context.name, arm, seed))
            assert manifest is not None
            data = read_outputs(manifest.kind, manifest.outputs)[0].data
            assert isinstance(data, BlendAccount)
            for phase in data.phases:
                for source, own in phase.sources.items():
                    seen[source] += own.tokens
        found[arm] = {source: tokens / len(config.seeds) for source, tokens in seen.items()}
    return found
