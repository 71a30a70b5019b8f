"""What a policy earns on prompts that are not trained on, asked as training asks."""

from collections.abc import Sequence
from dataclasses import replace

from environments.protocol import Task
from rl.config import GrpoValidation
from rl.held_out import shared_with
from rl.sample import Sampler
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.records import Estimate
from workbench.statistics import mean_interval

Prompts = list[Conversation] | list[Task]


def disjoint(
    held_out: Sequence[Conversation | Task], validation: Sequence[Conversation | Task]
) -> list[Conversation | Task]:
    """The validation's prompts that the held-out reward does not ask, under ids of their own.

    The best checkpoint is chosen on them, so the gain is measured on others. Raises: UserError where fewer
    than two are left.
    """
    both = shared_with(held_out, validation)
    left = [replace(q, id=f"validation/{q.id}") for q in validation if q.id not in both]
    if len(left) < 2:
        raise UserError(
            f"validation: {len(left)} of {len(validation)} prompts are not held out too; give it a "
            "source of its own, or more num_prompts"
        )
    return left


def policy_estimates(
    sampler: Sampler,
    questions: Sequence[Conversation | Task],
    config: GrpoValidation,
    *,
    seed: int,
    max_failed_share: float,
) -> dict[str, Estimate]:
    """Mean reward (and the checker's, where it is another) of `samples` replies a prompt, at the training's
    temperature; intervals are clustered by problem. Raises: RuntimeError where too many failed."""
    sampling = replace(sampler.sampling, n=config.samples)
    asked = replace(sampler, sampling=sampling, reward_options={})
    groups = asked.roll_out(questions, seed=seed)
    replies = [
        (question.problem or question.id, reply)
        for question, group in zip(questions, groups, strict=True)
        for reply in group
    ]
    failed = [reply.status for _, reply in replies if reply.reward is None]
    if len(failed) > max_failed_share * len(replies):
        raise RuntimeError(
            f"validation: {len(failed)} of {len(replies)} samples failed "
            f"({', '.join(sorted(set(failed)))[:200]}); the limit max_failed_share is "
            f"{max_failed_share:.0%}"
        )
    found = {"reward": _mean([(p, r.reward) for p, r in replies])}
    if any(reply.checked is not None for _, reply in replies):
        found["checker_reward"] = _mean([(p, r.checked) for p, r in replies])
    return found


def _mean(values: Sequence[tuple[str, float | None]]) -> Estimate:
    known = [(problem, value) for problem, value in values if value is not None]
    return mean_interval([value for _, value in known], [problem for problem, _ in known])
