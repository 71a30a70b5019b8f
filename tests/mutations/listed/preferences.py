"""Preferences, judges, teachers, and replies that are chosen to be trained on."""

from tests.mutations.mutation import Mutation

_PREFERENCE = ("tests/unit/rl/test_preference.py",)
_DISTILL = ("tests/unit/rl/test_distill.py",)
_CONDITIONED = ("tests/unit/rl/test_conditioned.py",)

MUTATIONS = (
    Mutation(
        "a cut reply is kept as right",
        "rl/rejection/stage.py",
        'if reply.completion.finish_reason != "stop":',
        'if reply.completion.finish_reason == "error":',
        "a model is fine-tuned on replies that never end",
        ("tests/unit/rl/test_rejection.py",),
    ),
    Mutation(
        "forced tokens are distilled too",
        "rl/distill/update.py",
        "kl = torch.where(mask, reverse_kl(student, teacher), 0.0).sum()",
        "kl = reverse_kl(student, teacher).sum()",
        "the student learns from places that it did not choose",
        _DISTILL,
    ),
    Mutation(
        "on-policy distillation runs the wrong way",
        "rl/distill/update.py",
        "return (own.exp() * (own - goal)).sum(-1)",
        "return (goal.exp() * (goal - own)).sum(-1)",
        "the student covers what the teacher might say instead of what it says itself",
        _DISTILL,
    ),
    Mutation(
        "a budget is paid whatever was spent",
        "rl/conditioned.py",
        "return min(max(1.0 - (spent - budget) / (slack * budget), 0.0), 1.0)",
        "return 1.0",
        "a policy that is told a budget need not keep it",
        _CONDITIONED,
    ),
    Mutation(
        "a sample is told the first budget that it keeps, not the smallest",
        "budget/told.py",
        "for budget in sorted(budgets) if",
        "for budget in budgets if",
        "a model learns that small budgets are not meant",
        ("tests/unit/budget/test_told.py",),
    ),
    Mutation(
        "a judge's score outside the scale counts",
        "reward/rubric.py",
        "and lowest <= v <= highest",
        "and lowest <= v",
        "a judge that says 100 of 10 gives a reward of 11",
        ("tests/unit/reward/test_rubric.py",),
    ),
    Mutation(
        "KTO's zero from each prompt's own reply",
        "rl/preference/stage.py",
        "return [reply for part in parts for reply in [part[-1], *part[:-1]]]",
        "return [reply for part in parts for reply in part]",
        "the drift that KTO measures against is the reward itself",
        _PREFERENCE,
    ),
    Mutation(
        "a tie is learnt as a preference",
        "data_mix/preferences.py",
        "if self.margin == 0:",
        "if self.margin == -1:",
        "DPO learns which of two equally good replies stands first",
        ("tests/unit/data_mix/test_columns.py",),
    ),
    Mutation(
        "margins do not reach the reward model",
        "rl/reward_model/stage.py",
        'if "margin" in pairs[0]:',
        'if "margins" in pairs[0]:',
        "a strong preference counts as much as a weak one",
        _PREFERENCE,
    ),
    Mutation(
        "a judge is asked in one order",
        "reward/pairwise.py",
        "return decided((first + 1 - turned) / 2, first=first, second=1 - turned)",
        "return decided(first, first=first, second=1 - turned)",
        "a judge's liking for the first place is a reward",
        ("tests/unit/reward/test_pairwise.py",),
    ),
)
