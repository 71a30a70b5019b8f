"""The stage kinds of reinforcement learning and preferences. Imports no torch."""

from workbench.registry import Kind

KINDS = {
    "grpo": Kind(
        config="rl.config:GrpoConfig",
        run="rl.stage:run",
        plan="rl.plan:plan_grpo",
        about="GRPO on verifiable rewards with vLLM rollouts",
        inputs="rl.inputs:check_grpo",
        packages=("vllm",),
    ),
    "dpo": Kind(
        config="rl.dpo.config:DpoConfig",
        run="rl.dpo.stage:run",
        plan="rl.dpo.plan:plan_dpo",
        about="iterative on-policy DPO on a tool environment",
        inputs="rl.inputs:check_tasks",
        packages=("vllm",),
    ),
    "reward_model": Kind(
        config="rl.reward_model.config:RewardModelConfig",
        run="rl.reward_model.stage:run",
        plan="rl.reward_model.plan:plan_reward_model",
        about="a Bradley-Terry reward model on replies that checkers passed and failed",
        inputs="rl.inputs:check_reward_model",
        packages=("vllm",),
    ),
    "merge": Kind(
        config="rl.merge.config:MergeConfig",
        run="rl.merge.stage:run",
        plan="rl.merge.plan:plan_merge",
        about="the best point on the line between two models",
        packages=("vllm",),
    ),
}
