"""Stage kind `distill_on_policy`: a student, a teacher and prompts in; a better student out, measured."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from budget.engine import with_budgets
from engine.protocol import Completion, Sampling, sample_seed
from engine.remote import start_engine
from engine.shares import Post
from model.hybrid import load_model, save_model
from model.layers.isolation import check_isolation
from model.sharding.check import check_shards
from model.sharding.files import read_sharded, write_sharded
from model.tokenizer import read_tokenizer
from reward import Verdict
from reward.verdict import decided, failed
from rl.advantage import Rewards
from rl.distill.config import OnPolicyDistillConfig
from rl.distill.update import DistillUpdater
from rl.engine_account import keep_engine
from rl.held_out import check_held_out
from rl.rows import Rules, take_rows, too_long, warnings_of
from rl.sample import Pool, Rollout, Sampler, thinks
from rl.weight_sync import publish
from workbench.chat import prompt_ids
from workbench.checkpoint import Checkpoints, rng_state, seed_everything, set_rng_state
from workbench.conversation import Conversation
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import Mesh, make_mesh
from workbench.distributed.state import ShardedCheckpoints, resume
from workbench.errors import UserError
from workbench.memory import keep_freed_memory
from workbench.records import to_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference


def run(context: StageContext) -> None:
    """Measure, train, measure again, save; in this process, or in several that share both models."""
    config: OnPolicyDistillConfig = context.config
    if config.distributed.on:
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "rl.distill.stage:train_worker")
        return
    train(context, None)


def train_worker(context: StageContext) -> None:
    """One trainer of a distributed stage. The first one samples as well."""
    train(context, make_mesh(context.config.distributed))


def train(context: StageContext, mesh: Mesh | None) -> None:
    """The whole stage, in every process of it. mesh: how they share the models; None: one process."""
    config: OnPolicyDistillConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    pool, held_out = group.in_first(lambda: _questions(context, tokenizer)) or ([], [])
    student, teacher = _models(context, tokenizer, mesh)
    sampler = group.in_first(lambda: _sampler(context, tokenizer))
    updater = DistillUpdater(
        student,
        teacher,
        lr=config.lr,
        grad_clip=config.grad_clip,
        temperature=config.temperature,
        mesh=mesh,
    )
    post = Post(group.from_first(lambda: f"weights-{uuid4().hex}")) if mesh else None
    loop = _Loop(config, sampler, updater, Pool(pool, context.seed), context.seed, post)
    folder = context.stage_dir / "checkpoints"
    if resume(loop, folder, student, updater.optimizer) and group.is_first():
        context.metrics.truncate_after(loop.step)
    if "held_out_before" not in context.outputs:
        loop.publish()
        before = _measured(context, loop, held_out, "before")
        context.keep(held_out_before=before)
        if group.is_first():
            context.note(held_out_before=before)
    loop.publish()
    saves = ShardedCheckpoints if mesh else Checkpoints
    if not _fit(context, loop, saves(folder, keep=max(2, config.keep_checkpoints))):
        context.stop()
    after = _measured(context, loop, held_out, "after")
    if sampler is not None:
        found = to_json(differences(held_out, context.outputs["held_out_before"], after))
        context.keep(held_out_after=after, differences=found)
        keep_engine(context, sampler.engine)
    if mesh is None:
        save_model(student, context.stage_dir / "model", tokenizer)
    else:
        target = context.stage_dir / "model"
        write_sharded(student, target, like=context.parent_model, tokenizer=tokenizer)
    if sampler is not None:
        sampler.engine.close()


def _fit(
    context: StageContext, loop: "_Loop", checkpoints: Checkpoints | ShardedCheckpoints
) -> bool:
    """Train to the end. Returns False where it was asked to stop (state is saved)."""
    config: OnPolicyDistillConfig = context.config
    stop = False
    while loop.step < config.num_steps and not stop:
        metrics = loop.take_step()
        if group.is_first():
            context.log_metrics(loop.step, metrics, tokens=loop.tokens)
            context.progress(
                step=loop.step, total=config.num_steps, message="on-policy distillation"
            )
        stop = group.from_first(context.should_stop)
        if stop or loop.step % config.checkpoint_every_steps == 0:
            checkpoints.save(loop.step, loop.state_dict())
    checkpoints.finish()
    return not stop


def _measured(
    context: StageContext, loop: "_Loop", questions: Sequence[Conversation], when: str
) -> dict[str, Any]:
    if group.is_first():
        context.progress(message=f"held-out replies {when}")
    return loop.measure(questions)


def _sampler(context: StageContext, tokenizer: Any) -> Sampler:
    """The engine, and how it is asked."""
    config: OnPolicyDistillConfig = context.config
    context.progress(message="starting the engine")
    limited = any(budget is not None for budget in config.budgets)
    engine = start_engine(
        context.parent_model, with_budgets(config.engine) if limited else config.engine
    )
    sampling = Sampling(
        max_tokens=config.max_tokens,
        n=config.samples,
        temperature=config.temperature,
        thinking_grace=config.thinking_grace,
    )
    return Sampler(engine, tokenizer, sampling, config.thinking, _all_alike, score=_sampled)


class _Loop:
    """Step after step: sample, update, give the engine the weights.

    Every process has one and calls the same methods; the first alone has a sampler, and prompts.
    """

    def __init__(
        self,
        config: OnPolicyDistillConfig,
        sampler: Sampler | None,
        updater: DistillUpdater,
        pool: Pool,
        seed: int,
        post: Post | None,
    ) -> None:
        self.config, self.sampler, self.updater = config, sampler, updater
        self.pool, self.seed, self.post = pool, seed, post
        self.step, self.tokens = 0, 0

    def publish(self) -> None:
        """The student's weights to the engine. Raises: SyncError."""
        engine = None if self.sampler is None else self.sampler.engine
        config = self.config.engine
        publish(self.updater.student, engine, self.post, version=self.step, config=config)

    def take_step(self) -> dict[str, float]:
        """One update. Raises: RuntimeError where too many replies could not be sampled."""
        config = self.config
        rollouts = group.from_first(self.replies)
        made = [r for r in rollouts if r.advantage is not None]
        share = 1 - len(made) / len(rollouts)
        if share > config.max_failed_share:
            reasons = sorted({r.status for r in rollouts if r.advantage is None})
            raise RuntimeError(
                f"{share:.0%} of the step's replies failed ({', '.join(reasons)[:200]}); the limit "
                f"max_failed_share is {config.max_failed_share:.0%}"
            )
        metrics = self.updater.update(
            made, row_tokens=config.microbatch_tokens, mismatch_limit=config.mismatch_kl_limit
        )
        self.step += 1
        self.publish()
        lengths = [r.num_tokens for r in rollouts]
        self.tokens += sum(lengths)
        checked = [r.checked for r in made if r.checked is not None]
        watched = {"checker_reward": sum(checked) / len(checked)} if checked else {}
        forced = sum(sum(t.completion.forced) for r in rollouts for t in r.turns)
        return (
            metrics
            | watched
            | {
                "failed_share": share,
                "reply_tokens": sum(lengths) / len(lengths),
                "truncated": sum(r.truncated for r in rollouts) / len(rollouts),
                "forced_share": forced / max(sum(lengths), 1),
            }
        )

    def replies(self) -> list[Rollout]:
        """Replies to each question of the step, under the budgets in turn."""
        first = self.step * self.config.prompts_per_step
        asked = self.pool.take(first, self.config.prompts_per_step)
        questions = [q for q in asked if isinstance(q, Conversation)]
        seed, out = sample_seed(self.seed, "distill", self.step), list[Rollout]()
        for place, budget in enumerate(self.config.budgets):
            part = questions[place :: len(self.config.budgets)]
            found = self._limited(budget).roll_out(part, seed=seed + place)
            out += [rollout for each in found for rollout in each]
        return out

    def _one_each(self, questions: Sequence[Conversation], budget: int | None) -> list[Rollout]:
        groups = self._limited(budget, n=1).roll_out(questions, seed=self.seed)
        return [replies[0] for replies in groups]

    def _limited(self, budget: int | None, **sampling: Any) -> Sampler:
        assert self.sampler is not None
        how = replace(self.sampler.sampling, thinking_budget=budget, **sampling)
        return replace(self.sampler, sampling=how)

    def measure(self, questions: Sequence[Conversation]) -> dict[str, Any]:
        """Of one reply a question at each budget: what the checker says, the KL to the teacher, and how many
        tokens it has. None where it could not be sampled or checked."""
        found: dict[str, Any] = {}
        for budget in self.config.budgets:
            firsts = group.from_first(partial(self._one_each, questions, budget))
            made = [r for r in firsts if r.advantage is not None]
            kls = iter(self.updater.measure(made, row_tokens=self.config.microbatch_tokens))
            found[_name(budget)] = {
                "checked": [r.checked for r in firsts],
                "kl": [None if r.advantage is None else next(kls) for r in firsts],
                "tokens": [None if r.advantage is None else float(r.num_tokens) for r in firsts],
            }
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            **self.updater.state_dict(),
            "rng": rng_state(),
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of `state_dict()` the weights alone."""
        self.updater.load_weights(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.updater.load_state_dict(state)
        set_rng_state(state["rng"])
        self.step, self.tokens = int(state["step"]), int(state["tokens"])


def differences(
    questions: Sequence[Conversation], before: dict[str, Any], after: dict[str, Any]
) -> list[Any]:
    """At each budget: the checker's share where there are checks, and the KL; clustered by problem."""
    problems = [question.problem or question.id for question in questions]
    out = []
    for name, old in before.items():
        at = "" if name == _name(None) else f", at most {name} thinking tokens"
        new = after[name]
        if any(value is not None for value in old["checked"]):
            what = f"checker on held-out replies{at}"
            out.append(paired_difference(old["checked"], new["checked"], problems, what=what))
        out.append(
            paired_difference(
                old["kl"],
                new["kl"],
                problems,
                what=f"KL to the teacher, nats/token{at}",
                share=False,
            )
        )
    return out


def _name(budget: int | None) -> str:
    return "none" if budget is None else str(budget)


def _all_alike(rewards: Rewards) -> list[float | None]:
    """Every reply that was made carries loss."""
    return [None if reward is None else 1.0 for reward in rewards]


def _sampled(
    questions: Sequence[Conversation],
    groups: Sequence[Sequence[Completion]],
    modes: Sequence[bool],
    checks: Sequence[Verdict],
) -> list[Verdict]:
    """Whether each reply was made: a check that is missing or broken is not a reason not to learn."""
    made = [completion for found in groups for completion in found]
    return [
        failed(c.error or "error") if c.finish_reason == "error" else decided(1.0) for c in made
    ]


def _models(context: StageContext, tokenizer: Any, mesh: Mesh | None) -> tuple[Any, Any]:
    """Student and teacher, whole or this process's shares, proved to isolate documents.

    Raises: UserError unless both predict the same tokens.
    """
    config: OnPolicyDistillConfig = context.config
    folder: Path = context.inputs[config.teacher] / "model"
    if not folder.is_dir():
        raise UserError(f"teacher {config.teacher!r} makes no model; name a stage that does")
    if folder == context.parent_model:
        raise UserError(
            f"the first of needs with a model is the teacher {config.teacher!r}; put the student first"
        )
    if read_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"teacher {config.teacher!r} has a tokenizer different from the student's; both score the same tokens"
        )
    device = str(group.place(config))
    if mesh is not None:
        student, teacher = (read_sharded(f, mesh) for f in (context.parent_model, folder))
        for model in (student, teacher):
            check_shards(model)
        return student, teacher
    student, teacher = (
        load_model(context.parent_model, device=device),
        load_model(folder, device=device),
    )
    for model in (student, teacher):
        check_isolation(model, "fp32")
    return student, teacher


def _questions(
    context: StageContext, tokenizer: Any
) -> tuple[list[Conversation], list[Conversation]]:
    config: OnPolicyDistillConfig = context.config

    def fits(question: Conversation) -> str:
        on = thinks(question.id, config.thinking)
        ids = prompt_ids(question.prompt, question.tools, on, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    rules = Rules(False, config.skip_bad, fits=fits)
    pool, asked = take_rows(
        config.prompts, config.num_prompts, rules, name="prompts", seed=context.seed
    )
    held_out, kept = take_rows(
        config.held_out, config.num_held_out, rules, name="held_out", seed=context.seed
    )
    check_held_out(pool, held_out)
    accounts = {"prompts": asked, "held_out": kept}
    context.note(rows=accounts)
    context.warn(*warnings_of(accounts))
    return pool, held_out
