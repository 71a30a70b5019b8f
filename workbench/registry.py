"""The stage kinds: one table from a recipe's `kind:` to its configuration, run and plan.

The targets are strings so that the workbench imports no stage, and reading a recipe imports only
configuration modules (which import no torch).
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from workbench.errors import unknown_name


@dataclass(frozen=True)
class Kind:
    """Where a stage kind's parts live, as "package.module:name".

    config: a `StageConfig` subclass.  run: `(StageContext) -> None`.
    plan: `(config, Recipe) -> StagePlan`, importing no torch.
    inputs: `(config) -> lines for the plan, or None`, a UserError where a file or package that the stage
    reads is not there, a row is bad or an option is none; importing no torch. Asked before a run begins,
    of stages that will run.
    """

    config: str
    run: str
    plan: str
    about: str
    inputs: str | None = None


KINDS: dict[str, Kind] = {
    "tokenizer": Kind(
        config="pretrain.config:TokenizerConfig",
        run="pretrain.tokenizer_stage:run",
        plan="pretrain.plan:plan_tokenizer",
        about="train a byte-level BPE tokenizer with the chat format's special tokens",
        inputs="data_mix.inputs:check_data",
    ),
    "convert": Kind(
        config="pretrain.convert.config:ConvertConfig",
        run="pretrain.convert.stage:run",
        plan="pretrain.convert.plan:plan_convert",
        about="a GGUF file or a Hugging Face checkpoint becomes the run's base model",
        inputs="pretrain.convert.inputs:check_origin",
    ),
    "pretrain": Kind(
        config="pretrain.config:PretrainConfig",
        run="pretrain.stage:run",
        plan="pretrain.plan:plan_pretrain",
        about="pretrain the hybrid base model on a phased blend",
        inputs="data_mix.inputs:check_data",
    ),
    "prune": Kind(
        config="pretrain.compress.config:PruneConfig",
        run="pretrain.compress.stage:run",
        plan="pretrain.compress.plan:plan_prune",
        about="cut layers and widths of a hybrid by importance, without training",
        inputs="data_mix.inputs:check_data",
    ),
    "distill": Kind(
        config="pretrain.compress.config:DistillConfig",
        run="pretrain.compress.distill:run",
        plan="pretrain.compress.plan:plan_distill",
        about="a student learns the next-token distributions of a teacher",
        inputs="data_mix.inputs:check_data",
    ),
    "sft": Kind(
        config="sft.config:SftConfig",
        run="sft.stage:run",
        plan="sft.plan:plan_sft",
        about="supervised fine-tuning (stage 1, 2 or 3 of the recipe)",
        inputs="data_mix.inputs:check_rows",
    ),
    "grpo": Kind(
        config="rl.config:GrpoConfig",
        run="rl.stage:run",
        plan="rl.plan:plan_grpo",
        about="GRPO on verifiable rewards with vLLM rollouts",
        inputs="rl.inputs:check_grpo",
    ),
    "dpo": Kind(
        config="rl.dpo.config:DpoConfig",
        run="rl.dpo.stage:run",
        plan="rl.dpo.plan:plan_dpo",
        about="iterative on-policy DPO on a tool environment",
        inputs="rl.inputs:check_tasks",
    ),
    "reward_model": Kind(
        config="rl.reward_model.config:RewardModelConfig",
        run="rl.reward_model.stage:run",
        plan="rl.reward_model.plan:plan_reward_model",
        about="a Bradley-Terry reward model on replies that checkers passed and failed",
        inputs="rl.inputs:check_reward_model",
    ),
    "merge": Kind(
        config="rl.merge.config:MergeConfig",
        run="rl.merge.stage:run",
        plan="rl.merge.plan:plan_merge",
        about="the best point on the line between two models",
    ),
    "evals": Kind(
        config="evals.config:EvalsConfig",
        run="evals.stage:run",
        plan="evals.plan:plan_evals",
        about="evaluate models of the run on benchmarks",
    ),
}

# What checks the recipe's `model` section: (preset, **overrides) -> a shape, or a UserError.
MODEL_SHAPE = "model.presets:shape"


def kind(name: str) -> Kind:
    """The kind of this name. Raises: UserError naming the nearest one."""
    if name not in KINDS:
        raise unknown_name("stage kind", name, KINDS)
    return KINDS[name]


def resolve(target: str) -> Any:
    """Import "package.module:name" and return the named object."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
