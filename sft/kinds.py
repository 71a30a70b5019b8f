"""The stage kind of supervised fine-tuning. Imports no torch."""

from workbench.panels import MetricPanel
from workbench.registry import Kind

KINDS = {
    "sft": Kind(
        config="sft.config:SftConfig",
        run="sft.stage:run",
        plan="sft.plan:plan_sft",
        result="sft.results:SftResult",
        about="supervised fine-tuning (stage 1, 2 or 3 of the recipe)",
        version=1,
        inputs="sft.inputs:check_sft",
        panels=(MetricPanel("loss", "Loss", x="step"),),
    ),
}
