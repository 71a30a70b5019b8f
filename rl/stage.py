"""Stage kind `grpo`: a policy and verifiable prompts in, a better policy out, and what it gained."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from uuid import uuid4

import torch

from budget.engine import with_budgets
from engine.protocol import Sampling
from engine.remote import start_engine
from engine.shares import Post
from environments.catalogue import take_tasks
from environments.config import EnvironmentSource, PromptsConfig
from environments.protocol import Task
from model.hybrid import save_model
from model.layers.isolation import check_isolation
from model.lora import add_adapters, load_base, merge_adapters, save_adapters
from model.nf4 import in_4_bits
from model.sharding.check import check_shards
from model.sharding.files import read_sharded, write_adapters, write_sharded
from model.tokenizer import read_tokenizer
from reward import must_be_checkable
from rl.advantage import Kind
from rl.conditioned import conditioned
from rl.config import GrpoConfig
from rl.custom import custom_advantage
from rl.engine_account import keep_engine, tell_restarts
from rl.held_out import check_held_out
from rl.loop import Grpo, GrpoHooks, PolicyShards
from rl.reward_source import reward_source
from rl.rollout_log import RolloutLog
from rl.rows import Rules, good_tasks, take_rows, too_long, warnings_of
from rl.sample import Sampler, thinks
from rl.validation import disjoint, policy_estimates
from rl.weight_sync import write_base
from workbench.chat import prompt_ids
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.conversation import Conversation
from workbench.custom_code import is_own
from workbench.distributed import group
from workbench.distributed.launch import run_workers
from workbench.distributed.mesh import Mesh, make_mesh
from workbench.distributed.state import ShardedCheckpoints
from workbench.memory import keep_freed_memory
from workbench.records import Estimate, to_json
from workbench.rundir import read_json, write_json
from workbench.stage import StageContext
from workbench.statistics import paired_difference
from workbench.validation import Validation


def run(context: StageContext) -> None:
    """Measure, train, measure again, save; in this process, or in several that share the model."""
    config: GrpoConfig = context.config
    if config.distributed.on:
        context.progress(message="starting workers")
        run_workers(context, config.distributed, "rl.stage:train_worker")
        return
    train(context, None)


def train_worker(context: StageContext) -> None:
    """One trainer of a distributed stage. The first one samples as well."""
    train(context, make_mesh(context.config.distributed))


def train(context: StageContext, mesh: Mesh | None) -> None:
    """The whole stage, in every process of it. mesh: how they share the model; None: one process."""
    config: GrpoConfig = context.config
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    seed_everything(context.seed)
    tokenizer = read_tokenizer(context.parent_model)
    asked = group.in_first(lambda: _questions(context, tokenizer))
    model, shards = _policy(context, mesh)
    grpo = Grpo(model, None, asked.pool if asked else [], config, context.seed, shards)
    folder = context.stage_dir / "checkpoints"
    validation = grpo.validation = _validation(context, lambda: asker)
    resumed = grpo.resume(folder)
    grpo.turns.to_engine()  # which starts on the trainer's card
    asker = group.in_first(lambda: _Asker(context, tokenizer, asked))
    if asker:
        grpo.sampler = asker.sampler
        asker.begin(grpo.step, resumed=resumed)
    _measured_in_first(asker, "before")
    if asker and in_4_bits(model):
        asker.engine.load_checkpoint(str(_base_folder(context)), version=0)
    saves = ShardedCheckpoints if mesh else Checkpoints
    checkpoints = saves(
        folder, keep=max(2, config.keep_checkpoints), spared=lambda: validation.kept_step
    )
    if not grpo.fit(_hooks(context, config, asker), checkpoints):
        context.stop()
    if (best := validation.must_return(grpo.step)) is not None:
        grpo.return_to(folder, best)
    _measured_in_first(asker, "after")  # the engine holds the weights that are saved
    grpo.turns.to_trainer()  # adapters are merged where they were trained
    _save(context, model, tokenizer, sharded=mesh is not None)
    if asker:
        asker.engine.close()
    shutil.rmtree(_base_folder(context), ignore_errors=True)


def _base_folder(context: StageContext) -> Path:
    """Where engines read what a base in 4 bits stands for, as long as the stage runs."""
    return context.stage_dir / "checkpoints" / "engine" / "base"


def _measured_in_first(asker: "_Asker | None", when: str) -> None:
    def measure() -> None:
        if asker:
            asker.measure(when)

    group.from_first(measure)


class _Asked(NamedTuple):
    """What is trained on, measured before and after, and measured on the way."""

    pool: "Prompts"
    held_out: "Prompts"
    validation: "Prompts"


def _questions(context: StageContext, tokenizer: Any) -> _Asked:
    context.progress(message="looking at the prompts")
    config: GrpoConfig = context.config
    pool, held_out = take_questions(context, tokenizer)
    wanted = config.validation
    further: Sequence[Conversation | Task] = held_out[config.num_held_out :]
    held_out = held_out[: config.num_held_out]
    if wanted is not None and wanted.source is not None:
        further, account = _take(
            context, tokenizer, "validation", wanted.source, wanted.num_prompts, {}
        )
        context.note(rows={**context.outputs["rows"], "validation": account})
    must_be_checkable(q.check for q in (*pool, *held_out, *further) if isinstance(q, Conversation))
    check_held_out(pool, held_out)
    if wanted is not None:
        check_held_out(pool, further, name="validation")
        further = disjoint(held_out, further)
    context.progress(message="starting the engine")
    return _Asked(*(_told(rows, config) for rows in (pool, held_out, further)))


def _told(rows: Sequence[Conversation | Task], config: GrpoConfig) -> "Prompts":
    """The prompts with their budgets, by the ids under which they are asked and paid. Not before they have been
    compared: two budgets make one question look like two."""
    if config.condition is None:
        return cast(Prompts, list(rows))
    return [conditioned(row, config.condition) for row in cast(list[Conversation], rows)]


def _validation(context: StageContext, of: Callable[[], "_Asker | None"]) -> Validation:
    """The validations of a training; the first process asks, and all of them know. of: the side that asks,
    once there is one."""

    def note(outputs: dict[str, Any]) -> None:
        if group.is_first():
            context.note(**outputs)

    def measure() -> dict[str, Estimate]:
        asker = of()
        return group.from_first(lambda: asker.validate() if asker else {})

    config: GrpoConfig = context.config
    shares = ("checker_reward", *(["reward"] if _measured(config)[1] else []))
    return Validation(config.validation, measure, by="reward", note=note, shares=shares)


def _policy(context: StageContext, mesh: Mesh | None) -> tuple[Any, PolicyShards | None]:
    """The model to train, proved to isolate documents; with what else it needs in several processes."""
    config: GrpoConfig = context.config
    if mesh is not None:
        model = read_sharded(
            context.parent_model, mesh, precision=config.precision, lora=config.lora
        )
        check_shards(model)
        frozen = None
        if config.loss.kl_coefficient and config.lora is None:
            frozen = read_sharded(context.parent_model, mesh, precision=config.precision)
        name = group.from_first(lambda: f"weights-{uuid4().hex}")
        return model, PolicyShards(mesh, Post(name), frozen)
    whole = load_base(context.parent_model, config.lora, str(group.place(config)))
    check_isolation(whole, config.precision)
    if in_4_bits(whole):
        write_base(whole, _base_folder(context), read_tokenizer(context.parent_model))
    return (add_adapters(whole, config.lora) if config.lora else whole), None


def _save(context: StageContext, model: Any, tokenizer: Any, *, sharded: bool) -> None:
    config: GrpoConfig = context.config
    target, folder = context.stage_dir / "model", context.stage_dir / "adapter"
    if sharded:
        if config.lora:
            write_adapters(model, config.lora, folder, context.parent_model)
        write_sharded(model, target, like=context.parent_model, tokenizer=tokenizer)
        return
    if config.lora:
        save_adapters(model, config.lora, folder, str(context.parent_model))
        merge_adapters(model)
    save_model(model, target, tokenizer)


class _Asker:
    """The side of a stage that samples: engine, prompts, held-out measure and record. One process has it."""

    def __init__(self, context: StageContext, tokenizer: Any, asked: _Asked | None) -> None:
        assert asked is not None
        config: GrpoConfig = context.config
        self.context, self.held_out, self.further = context, asked.held_out, asked.validation
        budgets = config.thinking_budget is not None
        self.engine = start_engine(
            context.parent_model, with_budgets(config.engine) if budgets else config.engine
        )
        sampling = Sampling(
            max_tokens=config.max_tokens, n=config.group_size, temperature=config.temperature,
            top_p=config.top_p, top_k=config.top_k, min_p=config.min_p,
            thinking_budget=config.thinking_budget, thinking_grace=config.thinking_grace,
        )  # fmt: skip
        # A judge's held-out measure compares with these, before a restart too.
        self._kept = context.stage_dir / "held_out_replies.json"
        self.anchors: dict[str, str] = read_json(self._kept) if self._kept.is_file() else {}
        score = reward_source(context, tokenizer, self.anchors)
        self.sampler = Sampler(
            self.engine, tokenizer, sampling, config.thinking, _advantage(config), config.overlong,
            config.mask_truncated, config.reward_options, score, config.check_limit_s,
            config.max_turns, config.engine.max_model_len, config.reward.of_parts,
            keep_prefix=config.history == "kept", episode_tokens=config.max_episode_tokens,
            credit=config.credit,
        )  # fmt: skip
        path = context.stage_dir / "rollouts.jsonl"
        self.record = RolloutLog(path, tokenizer, config.record_groups)

    def begin(self, step: int, *, resumed: bool) -> None:
        """Forget what later steps wrote before a restart."""
        if resumed:
            self.context.metrics.truncate_after(step)
        self.record.truncate_after(step)

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """A step's line, and what became of the engine."""
        self.context.log_metrics(step, metrics, tokens=tokens)
        tell_restarts(self.context, self.engine)

    def measure(self, when: str) -> None:
        """The held-out reward, before (once) or after; then what the stage gained."""
        context = self.context
        if when == "before" and "held_out_before" in context.outputs:
            return
        context.progress(message=f"held-out reward {when}")
        found = held_out_rewards(self.sampler, self.held_out, context.seed, when)
        if when == "before":
            if self.anchors:
                write_json(self._kept, self.anchors)
            context.note(**found)
            return
        context.keep(**found)
        keep_engine(context, self.engine)
        context.keep(differences=self._differences())

    def validate(self) -> dict[str, Estimate]:
        """The reward on the validation's prompts, with the weights that the engine has."""
        config: GrpoConfig = self.context.config
        assert config.validation is not None
        self.context.progress(message="validation")
        found = policy_estimates(
            self.sampler, self.further, config.validation, seed=self.context.seed,
            max_failed_share=config.max_failed_share,
        )  # fmt: skip
        if self.anchors:
            write_json(self._kept, self.anchors)
        return found

    def _differences(self) -> list[Any]:
        config: GrpoConfig = self.context.config
        outputs, differences = self.context.outputs, []
        problems = [question.problem or question.id for question in self.held_out]
        for name in ("held_out", "held_out_checker"):
            if f"{name}_before" in outputs:
                then, now = (outputs[f"{name}_{when}"] for when in ("before", "after"))
                what, share = _measured(config) if name == "held_out" else (_CHECKED, True)
                found = paired_difference(then, now, problems, what=what, share=share)
                differences.append(to_json(found))
        return differences


def _advantage(config: GrpoConfig) -> Kind:
    if is_own(config.advantage):
        return custom_advantage(config.advantage)
    return cast(Literal["group", "mean", "leave_one_out"], config.advantage)


Prompts = list[Conversation] | list[Task]


def take_questions(context: StageContext, tokenizer: Any) -> tuple[Prompts, Prompts]:
    """The prompts to train on and those held out, each of which can be asked and checked. Where a
    validation takes further ones of the latter, they stand behind them."""
    config: GrpoConfig = context.config
    more = config.validation.num_prompts if config.validation else 0
    if config.validation is not None and config.validation.source is not None:
        more = 0
    pool, asked = _take(
        context, tokenizer, "prompts", config.prompts, config.num_prompts, config.reward_options
    )
    # The held-out reward keeps the prompt's own options.
    held_out, kept = _take(
        context, tokenizer, "held_out", config.held_out, config.num_held_out + more, {}
    )
    accounts = {"prompts": asked, "held_out": kept}
    context.note(rows=accounts)
    context.warn(*warnings_of(accounts))
    return pool, held_out


def _take(
    context: StageContext,
    tokenizer: Any,
    name: str,
    source: PromptsConfig,
    count: int,
    options: Mapping[str, Any],
) -> tuple[Prompts, dict[str, Any]]:
    """Prompts or tasks of one source, and the account of those that were left out."""
    config: GrpoConfig = context.config

    def fits(question: Conversation | Task) -> str:
        on = thinks(question.id, config.thinking)
        if isinstance(question, Conversation) and config.condition is not None:
            question = conditioned(question, config.condition)
        asked = question.messages if isinstance(question, Task) else question.prompt
        ids = prompt_ids(asked, question.tools, on, tokenizer=tokenizer)
        return too_long(len(ids), config.max_tokens, config.engine.max_model_len)

    if isinstance(source, EnvironmentSource):
        tasks = take_tasks(source.tasks, count, context.seed)
        return good_tasks(tasks, fits, skip_bad=config.skip_bad, name=name)
    rules = Rules(config.checked, config.skip_bad, options, fits)
    rows, account = take_rows(source, count, rules, name=name, seed=context.seed)
    return rows, account


_CHECKED = "checker on the same replies"
_REWARDS = {
    "function": "reward of one's own function",
    "model": "reward model's score",
    "judge": "judge's win rate",
    "rubric": "judge's score by the rubric",
}


def _measured(config: GrpoConfig) -> tuple[str, bool]:
    """What the held-out reward is, and whether it is a share: a reward model's score and a function's value
    have no scale, nor has a mean with one in it."""
    kinds = {source.kind for source in config.reward.sources().values()}
    return _REWARDS.get(config.reward.kind, "held-out reward"), not kinds & {"function", "model"}


def held_out_rewards(
    sampler: Sampler, questions: Sequence[Conversation | Task], seed: int, when: str
) -> dict[str, list[float | None]]:
    """One sampled reply a question, at the training temperature; None where it failed.

    With a reward model or a judge: its verdicts, and what the checker says of the same replies.
    """
    once = replace(sampler, sampling=replace(sampler.sampling, n=1), reward_options={})
    firsts = [group[0] for group in once.roll_out(questions, seed=seed)]
    out = {f"held_out_{when}": [first.reward for first in firsts]}
    if any(first.checked is not None for first in firsts):
        out[f"held_out_checker_{when}"] = [first.checked for first in firsts]
    return out


def _hooks(context: StageContext, config: GrpoConfig, asker: _Asker | None) -> GrpoHooks:
    should_stop = lambda: group.from_first(context.should_stop)  # noqa: E731
    if asker is None:
        return GrpoHooks(lambda *line: None, lambda step: None, should_stop)
    return GrpoHooks(
        record=asker.record.write,
        log=asker.log,
        progress=lambda step: context.progress(step=step, total=config.num_steps, message="GRPO"),
        should_stop=should_stop,
    )
