"""The stage kinds of evaluation. Imports no torch."""

from workbench.registry import Kind

KINDS = {
    "evals": Kind(
        config="evals.config:EvalsConfig",
        run="evals.stage:run",
        plan="evals.plan:plan_evals",
        result="evals.results:EvalsResult",
        about="evaluate models of the run on benchmarks",
        makes=("results",),
        version=2,
        inputs="evals.inputs:check_evals",
        checks=True,
        engine=True,
        on_card=False,
        reads="evals.plan:reads",
        questions="evals.questions",
    ),
    "ablation": Kind(
        config="evals.ablation.config:AblationConfig",
        run="evals.ablation.stage:run",
        plan="evals.ablation.expand:plan_ablation",
        result="evals.results:AblationResult",
        about="arms of data by seeds: continued pretraining, benchmarks, one table with intervals",
        version=1,
        inputs="data_mix.inputs:check_data",
        uses=("pretrain", "evals"),
        checks=True,
        measures=True,
        expand="evals.ablation.expand:expand",
    ),
    "synthesize": Kind(
        config="evals.synthesis.config:SynthesizeConfig",
        run="evals.synthesis.stage:run",
        plan="evals.synthesis.plan:plan_synthesize",
        result="evals.results:SynthesizeResult",
        about="rows that models write from seeds, gated by the checkers that reward uses",
        version=1,
        inputs="evals.synthesis.plan:check_inputs",
        checks=True,
        on_card=False,
    ),
}
