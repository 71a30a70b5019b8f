"""The stage kinds of reinforcement learning and preferences. Imports no torch."""

from workbench.panels import MetricPanel
from workbench.registry import Kind

KINDS = {
    "grpo": Kind(
        config="rl.config:GrpoConfig",
        run="rl.stage:run",
        plan="rl.plan:plan_grpo",
        result="rl.results:GrpoResult",
        about="GRPO on verifiable rewards with vLLM rollouts",
        version=2,
        inputs="rl.inputs:check_grpo",
        checks=True,
        engine=True,
        measures=True,
        panels=(
            MetricPanel("reward", "Reward of the step's rollouts"),
            MetricPanel(
                "checker_reward", "Checker on the same replies, never trained on", colour="second"
            ),
            MetricPanel(
                "mismatch_kl",
                "Mismatch KL, engine against trainer",
                "on the same weights and tokens: it should stay near 0",
                colour="second",
                log=True,
            ),
        ),
    ),
    "dpo": Kind(
        config="rl.dpo.config:DpoConfig",
        run="rl.dpo.stage:run",
        plan="rl.dpo.plan:plan_dpo",
        result="rl.results:DpoResult",
        about="iterative on-policy DPO on a tool environment",
        version=2,
        inputs="rl.inputs:check_tasks",
        checks=True,
        engine=True,
        measures=True,
        panels=(MetricPanel("pair_margin", "Margin of the pairs", colour="second"),),
    ),
    "offline_dpo": Kind(
        config="rl.preference.config:OfflineDpoConfig",
        run="rl.preference.stage:run",
        plan="rl.preference.plan:plan_preference",
        result="rl.results:PreferenceResult",
        about="DPO and its variants on given pairs of replies",
        version=1,
        inputs="rl.preference.rows:check_given",
        measures=True,
        panels=(MetricPanel("pair_margin", "Margin of the pairs", colour="second"),),
    ),
    "kto": Kind(
        config="rl.preference.config:KtoConfig",
        run="rl.preference.stage:run",
        plan="rl.preference.plan:plan_preference",
        result="rl.results:PreferenceResult",
        about="KTO on given replies that are each good or bad",
        version=1,
        inputs="rl.preference.rows:check_given",
        measures=True,
        panels=(
            MetricPanel(
                "pair_margin", "Mean reward of good replies over bad ones", colour="second"
            ),
        ),
    ),
    "reward_model": Kind(
        config="rl.reward_model.config:RewardModelConfig",
        run="rl.reward_model.stage:run",
        plan="rl.reward_model.plan:plan_reward_model",
        result="rl.results:RewardModelResult",
        about="a Bradley-Terry reward model on replies that checkers passed and failed",
        version=2,
        inputs="rl.inputs:check_reward_model",
        checks=True,
        engine=True,
        measures=True,
    ),
    "rejection": Kind(
        config="rl.rejection.config:RejectionConfig",
        run="rl.rejection.stage:run",
        plan="rl.rejection.plan:plan_rejection",
        result="rl.results:RejectionResult",
        about="replies of a policy that their check passes, as rows for SFT",
        makes=("data",),
        version=1,
        inputs="rl.rejection.plan:check_rejection",
        checks=True,
        engine=True,
    ),
    "distill_on_policy": Kind(
        config="rl.distill.config:OnPolicyDistillConfig",
        run="rl.distill.stage:run",
        plan="rl.distill.plan:plan_distill",
        result="rl.results:OnPolicyDistillResult",
        about="a student's own replies, taught token by token by another stage's model",
        version=1,
        inputs="rl.distill.plan:check_distill",
        checks=True,
        engine=True,
        measures=True,
        panels=(
            MetricPanel(
                "teacher_kl", "KL from student to teacher, on the student's replies", log=True
            ),
            MetricPanel("checker_reward", "Checker on the same replies", colour="second"),
        ),
    ),
    "merge": Kind(
        config="rl.merge.config:MergeConfig",
        run="rl.merge.stage:run",
        plan="rl.merge.plan:plan_merge",
        result="rl.results:MergeResult",
        about="the best point on the line between two models",
        version=1,
        on_card=False,
        checks=True,
        engine=True,
        uses=("evals",),
        reads="rl.merge.plan:reads",
        measures=True,
    ),
}
