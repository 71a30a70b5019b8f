"""The stage kind of evaluation. Imports no torch."""

from workbench.registry import Kind

KINDS = {
    "evals": Kind(
        config="evals.config:EvalsConfig",
        run="evals.stage:run",
        plan="evals.plan:plan_evals",
        about="evaluate models of the run on benchmarks",
        version=1,
        inputs="evals.inputs:check_evals",
        checks=True,
        engine=True,
        on_card=False,
        reads="evals.plan:reads",
    ),
}
