"""The stage kinds that make data. Imports no torch."""

from workbench.registry import Kind

KINDS = {
    "curate": Kind(
        config="data_mix.curate.config:CurateConfig",
        run="data_mix.curate.stage:run",
        plan="data_mix.curate.plan:plan_curate",
        result="data_mix.results:MadeData",
        about="rows in, rows out by named steps, shard by shard",
        version=5,
        on_card=False,
        inputs="data_mix.curate.plan:check_inputs",
    ),
    "dedup": Kind(
        config="data_mix.duplicates.config:DedupConfig",
        run="data_mix.duplicates.stage:run",
        plan="data_mix.duplicates.plan:plan_dedup",
        result="data_mix.results:MadeData",
        about="rows without exact and near duplicates, on disk, across stages",
        version=2,
        on_card=False,
    ),
    "quality": Kind(
        config="data_mix.quality.config:QualityConfig",
        run="data_mix.quality.stage:run",
        plan="data_mix.quality.stage:plan_quality",
        result="data_mix.results:QualityResult",
        about="a small classifier learns a model's ratings, measured on hosts that it has not seen",
        version=1,
        on_card=False,
    ),
}
