"""Recipe section of the stage kind `grpo`. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from budget.told import ToldConfig
from data_mix.config import no_checks
from engine.config import EngineConfig
from environments.config import EnvironmentSource, PromptsConfig
from model.lora_config import LoraConfig
from reward.pairwise import PairwiseConfig
from reward.plugin import FunctionConfig
from reward.rubric import RubricConfig
from workbench.content import Reads
from workbench.custom_code import is_own
from workbench.distributed.config import (
    DistributedConfig,
    WorkersStage,
    check_adapters,
    check_spread,
)
from workbench.errors import unknown_name
from workbench.schema import Section
from workbench.validation import ValidationConfig

_VARIANTS: dict[str, dict[str, object]] = {
    "grpo": {"aggregate": "sequence"},
    "dr_grpo": {"aggregate": "constant"},
    "dapo": {"aggregate": "token", "clip_high": 0.28},
    # GSPO's bounds are of its own paper (arXiv 2507.18071): ratios of whole replies hardly move.
    "gspo": {"aggregate": "sequence", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"aggregate": "token", "surrogate": "cispo", "clip_high": 4.0},
    "luspo": {
        "aggregate": "sequence_sum",
        "ratio": "sequence",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
    },
}


ADVANTAGES = ("group", "mean", "leave_one_out")


class LossConfig(Section):
    """The policy loss; every published variant is a setting of one function (rl.loss)."""

    variant: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "luspo"] | None = None
    """Start from a published setting; keys written beside it win. dr_grpo goes with advantage: mean,
    dapo with dynamic_sampling and overlong."""
    function: Annotated[str | None, Reads("function")] = None
    """A loss of your own, `mine.py:f` (the whole of `loss` may be that): f(new, batch), tensors [N] of reply
    tokens, gives what each token adds to the loss [N], in place of clip and surrogate. The correction, the
    KL term, masks and `aggregate` stay. It runs in the trainer. See docs/rewards.md."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """Ratios below 1 - clip_low are clipped."""
    clip_high: float = Field(0.2, gt=0)
    """Ratios above 1 + clip_high are clipped (DAPO: 0.28)."""
    clip_most: float | None = Field(None, gt=1)
    """Ratios above this are clipped even where the advantage is negative; null: not."""
    surrogate: Literal["clip", "cispo"] = "clip"
    """clip: min(r A, clip(r) A). cispo: clip(r), without gradient, times A log p (arXiv 2506.13585)."""
    ratio: Literal["token", "sequence"] = "token"
    """token: GRPO. sequence: GSPO, the geometric mean over the reply."""
    aggregate: Literal["token", "sequence", "sequence_sum", "constant"] = "token"
    """token: mean over the batch's tokens (DAPO). sequence: mean of reply means (GRPO).
    sequence_sum: mean of reply sums (LUSPO). constant: sum over `max_tokens` (Dr. GRPO)."""
    correction: Literal["none", "token", "sequence"] = "token"
    """Importance correction from the policy that sampled (the engine's, perhaps some updates old) to
    the trainer's: of each token, of the whole reply, or none."""
    correction_outside: Literal["truncate", "mask"] = "truncate"
    """Weights outside the bounds are cut to them, or their tokens left out."""
    correction_low: float = Field(0.0, ge=0, le=1)
    """Smallest weight of the correction."""
    correction_high: float = Field(2.0, ge=1)
    """Largest weight of the correction."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the KL to the policy the stage started from; 0: no reference is kept."""
    kl_weighted: bool = True
    """Multiply the KL by the token's ratio, new to old policy: with the correction its gradient is then
    that of KL(policy || reference), also where the engine is older. false: plain k3, which is biased."""

    @model_validator(mode="before")
    @classmethod
    def _from_variant(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"function" if is_own(values) else "variant": values}
        known = _VARIANTS.get(values.get("variant") or "") if isinstance(values, dict) else None
        return {**known, **values} if known else values


class OverlongConfig(Section):
    """DAPO's soft penalty for long replies (arXiv 2503.14476, eq. 13)."""

    buffer_tokens: int = Field(ge=1)
    """From max_tokens - buffer_tokens on the reward falls linearly, to -penalty at max_tokens."""
    penalty: float = Field(1.0, gt=0)
    """The full penalty, in units of reward."""


class RewardSource(Section):
    """One reward."""

    kind: Literal["checker", "function", "model", "judge", "rubric"] = "checker"
    """checker: the prompt's own check. function: one of your own. model: a reward model's score of the
    answer (RLHF). judge: the reply's win rate in its group, decided by a served model. rubric: that
    model's score of each reply by itself. With the latter four the check still runs where there is one, and is logged as `checker_reward`."""
    function: FunctionConfig | None = None
    """With kind function: where it is, `mine.py:score` or {path, options, ...}. See docs/rewards.md."""
    model: str | None = None
    """With kind model: the stage (in `needs`) that trained the reward model."""
    judge: PairwiseConfig | None = None
    """With kind judge: where it is served and what it is asked."""
    rubric: RubricConfig | None = None
    """With kind rubric: where the judge is served, and what it grades by."""

    @model_validator(mode="after")
    def _has_its_own(self) -> Self:
        own = {
            "function": self.function is not None,
            "model": self.model is not None,
            "judge": self.judge is not None,
            "rubric": self.rubric is not None,
        }
        if own != {name: name == self.kind for name in own}:
            given = ", ".join(name for name, is_given in own.items() if is_given) or "nothing"
            raise ValueError(
                f"reward kind {self.kind!r} with {given}; write {{kind: model, model: STAGE}}, "
                "{kind: function, function: mine.py:score}, "
                "{kind: judge, judge: {endpoint: http://HOST/v1#MODEL}}, {kind: rubric, rubric: "
                "{endpoint: ..., rubric: ...}} or {kind: checker}"
            )
        return self


class RewardPart(RewardSource):
    """One of several rewards."""

    weight: float = Field(1.0, ge=0)
    """Its share of the whole, which is the mean weighted by these."""


class RewardConfig(RewardSource):
    """Where rewards come from: one source, or several with weights."""

    kind: Literal["checker", "function", "model", "judge", "rubric", "composite"] = "checker"  # type: ignore[assignment]
    """One of the kinds of a source, or composite: `parts`. A prompt's check may itself be composite."""
    parts: dict[str, RewardPart] = Field(default_factory=dict)
    """With kind composite: name -> source. Where one part is undecided so is the whole; each part is
    logged as `reward_of/NAME`."""
    normalise: Literal["whole", "parts"] = "whole"
    """With kind composite. whole: advantages of the weighted mean. parts: of each part in its own group,
    weighted, added up and scaled by their spread over the step (GDPO, arXiv 2601.05242), so that a part of
    small spread is not drowned and different mixes of parts do not get one advantage."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == "composite") != bool(self.parts):
            raise ValueError(
                f"reward kind {self.kind!r} with {len(self.parts)} parts; write {{kind: composite, "
                "parts: {NAME: {kind: ..., weight: ...}, ...}} or leave parts out"
            )
        if self.normalise == "parts" and len(self.parts) < 2:
            raise ValueError("reward.normalise: parts is for kind composite with two or more parts")
        if self.parts and not any(part.weight for part in self.parts.values()):
            raise ValueError("every part has weight 0; give one of them more")
        return self

    @property
    def of_parts(self) -> dict[str, float]:
        """Part -> weight, where advantages are taken of each; empty: of the whole."""
        each = self.normalise == "parts"
        return {name: part.weight for name, part in self.parts.items() if each and part.weight}

    def sources(self) -> dict[str, RewardSource]:
        """Name -> source; a single one is called by its kind."""
        return dict(self.parts) if self.parts else {self.kind: self}


class ConditionConfig(ToldConfig):
    """A thinking budget in the prompt and in the reward (after L1, arXiv 2503.04697). Each prompt has one of
    the budgets, by its id."""

    slack: float = Field(0.5, gt=0)
    """A reply is paid in full within its budget, and less and less up to (1 + slack) times it, where it is
    paid nothing. A reward below 0 is paid as it is."""


class GrpoValidation(ValidationConfig):
    """The reward on prompts that are not trained on, while the policy is trained."""

    source: PromptsConfig | None = None
    """Prompts with a check, or tasks. null: further ones of `held_out`. None of them is asked for the
    held-out reward before and after, which would otherwise be chosen along with the best checkpoint."""
    num_prompts: int = Field(64, ge=2)
    """How many of them."""
    samples: int = Field(1, ge=1)
    """Replies a prompt; the interval is clustered by problem."""


class GrpoConfig(WorkersStage):
    """Stage kind `grpo`."""

    kind: Literal["grpo"]
    prompts: PromptsConfig
    """Where prompts with a check come from, or an environment's tasks."""
    num_prompts: int = Field(512, ge=1)
    """Different prompts in the pool; a source that holds fewer is an error."""
    held_out: PromptsConfig
    """Prompts, with a check, or tasks for the reward before and after; take others than `prompts`."""
    num_held_out: int = Field(200, ge=2)
    """How many of them; a source that holds fewer is an error."""
    validation: GrpoValidation | None = None
    """Measure the reward every so many steps, keep the best checkpoint, end early; null: not."""
    skip_bad: bool = False
    """Leave out rows that cannot be asked or checked (too long, no message, a check or reference that is
    none, an id used twice), and count them by reason in `rows` of the manifest. false: they end the run
    before anything is sampled."""
    num_steps: int = Field(20, ge=1)
    """Policy updates."""
    prompts_per_step: int = Field(16, ge=1)
    """Prompts a step."""
    group_size: int = Field(8, ge=2)
    """Replies a prompt."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the policy that is trained is the one at this temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability; the policy that is trained is the
    truncated one."""
    top_k: int = Field(-1, ge=-1)
    """Sample from the so many likeliest tokens; -1 or 0: from all."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Sample from tokens at least this share as likely as the likeliest."""
    max_tokens: int = Field(128, ge=1)
    """Longest reply, thinking included, in tokens. With the prompt it must fit engine.max_model_len."""
    max_turns: int = Field(6, ge=1)
    """Most replies of an environment's episode; one that needs more has failed."""
    max_episode_tokens: int | None = Field(None, ge=1)
    """Most tokens that an episode samples in all its replies; one that needs more has failed."""
    history: Literal["template", "kept"] = "template"
    """How an episode's older replies stand before the next one. template: as the chat template writes them
    (Nemotron's drops their traces), so each reply is trained on behind a prompt of its own. kept: the very
    tokens that were sampled, traces included, so an episode is one document and no token stands in it twice."""
    credit: Literal["episode", "to_go"] = "episode"
    """What a reply of an episode is trained on, where its environment pays turn by turn. episode: on the
    whole episode's value. to_go: on what was earned from that reply on, the verdict with it, against the
    other episodes of its group at the same turn."""
    thinking: bool | Literal["both"] = True
    """Roll out with a trace; both: half of the prompts with one and half without, as in RLHF."""
    reward: RewardConfig = RewardConfig()
    """Where rewards come from."""
    reward_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the check while training, over those of the prompt; e.g. {mode: fraction} pays for
    the share of instructions followed. The held-out reward keeps the prompt's own."""
    check_limit_s: float = Field(600.0, gt=0)
    """Most seconds for the checks of one step's replies; those undecided by then count as failed. Each
    check has its own, shorter limit too."""
    condition: ConditionConfig | None = None
    """Tell each prompt a thinking budget, and pay only what keeps it; null: not. Held-out prompts too."""
    thinking_budget: int | None = Field(None, ge=1)
    """Close traces from so many tokens on (budget.control); what the rule forces carries no loss.
    null: no limit."""
    thinking_grace: int = Field(500, ge=0)
    """How many tokens over the budget a newline is waited for."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    lr_scheduler: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    """Schedule after the warm-up; cosine and linear end at 0 behind the last step."""
    warmup_share: float = Field(0.0, ge=0, lt=1)
    """Share of `num_steps` spent warming up; the first of them has a rate above 0."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit: moments in 8 bits, a quarter of their memory; needs the package bitsandbytes."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    advantage: Annotated[str, Reads("function")] = "group"
    """group: (r - mean) / std. mean: r - mean (Dr. GRPO). leave_one_out: against the others' mean. Or one of
    your own, `mine.py:f`: f(rewards), the rewards of a group [G] as a tensor, gives its advantages [G]."""
    loss: LossConfig = LossConfig()
    """The policy loss."""
    max_staleness: int = Field(0, ge=0)
    """Most updates between the sampling of a token and the training on it. 0: strictly on-policy,
    sampling and training take turns; from 1 on they overlap."""
    updates_per_step: int = Field(1, ge=1)
    """Optimizer updates on each batch of rollouts, each on its part of them."""
    dynamic_sampling: bool = False
    """Keep only groups whose rewards differ, and sample more prompts in place of the others (DAPO)."""
    dynamic_rounds: int = Field(4, ge=1)
    """Most rounds of sampling for one step with dynamic_sampling."""
    overlong: OverlongConfig | None = None
    """Soft penalty for long replies (DAPO); it shapes advantages, the logged reward is without it."""
    mask_truncated: bool = False
    """Replies cut at max_tokens count for the group's baseline, and as replies where the loss is a mean
    over replies, and carry no loss."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 master weights. Old, reference and new log-probabilities are all of it; the
    engine is compared with them by `mismatch_kl_limit`."""
    activations: Literal["keep", "checkpoint"] = "keep"
    """keep: all of a layer's for its backward pass. checkpoint: its input alone, the rest is computed
    again."""
    router_loss: float = Field(0.0, ge=0)
    """Of a model with experts: coefficient of the loss that has its routers choose them evenly (Switch
    Transformer's, of each document by itself, mean over layers and over all tokens of an update)."""
    lora: LoraConfig | None = None
    """Adapters; null: full fine-tuning. The reference of a KL is the model that
    they start from; the engine gets the adapters, and merges them into that model itself (over a base in 4 bits into
    what the bits stand for, which it is given once)."""
    distributed: DistributedConfig = DistributedConfig()
    """Several trainers, which share weights, optimizer and every step's rows (strategy fsdp). The engines
    are actors of their own."""
    microbatch_tokens: int = Field(8192, ge=64)
    """Tokens of a packed row; replies with their prompts are packed, never padded."""
    mismatch_kl_limit: float = Field(0.01, gt=0)
    """The run stops where trainer and engine disagree by more than this (mean KL of a step)."""
    max_failed_share: float = Field(0.2, ge=0, lt=1)
    """The run stops where more of a step's samples failed than this."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer."""
    checkpoint_every_steps: int = Field(5, ge=1)
    """A resumable checkpoint every so many steps."""
    record_groups: int = Field(1, ge=0)
    """Groups of each step that are kept in rollouts.jsonl, with every part of their rewards."""

    @property
    def layout_free(self) -> bool:
        """One process and many continue from each other's checkpoints."""
        return True

    def to_alternate(self) -> str | None:
        """Several trainers have cards of their own, and a reward model would stay on the trainer's."""
        if self.distributed.on or any(s.model for s in self.reward.sources().values()):
            return None
        return "max_staleness: 0" if self.max_staleness else ""

    @property
    def asked(self) -> list[tuple[str, PromptsConfig]]:
        """Name -> source of prompts or tasks."""
        own = self.validation.source if self.validation else None
        more = [("validation", own)] if own is not None else []
        return [("prompts", self.prompts), ("held_out", self.held_out), *more]

    @property
    def checked(self) -> bool:
        """Whether a reward comes from the prompts' own checks."""
        return any(source.kind == "checker" for source in self.reward.sources().values())

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not is_own(self.advantage) and self.advantage not in ADVANTAGES:
            raise ValueError(str(unknown_name("advantage", self.advantage, ADVANTAGES)))
        if self.overlong is not None and self.reward.normalise == "parts":
            raise ValueError(
                "overlong with reward.normalise: parts; make a short reply a part of the reward instead"
            )
        if self.overlong is not None and self.overlong.buffer_tokens > self.max_tokens:
            raise ValueError(
                f"overlong.buffer_tokens {self.overlong.buffer_tokens} is more than max_tokens "
                f"{self.max_tokens}; give at most that"
            )
        if self.thinking_budget is not None and not self.thinking:
            raise ValueError(
                "thinking_budget without a trace (thinking: false); leave one of them out"
            )
        if self.condition is not None and self.thinking is not True:
            raise ValueError("condition needs a trace; set thinking: true")
        scaleless = [n for n, s in self.reward.sources().items() if s.kind == "model"]
        if self.condition is not None and scaleless:
            raise ValueError(
                "condition with a reward model, whose score has no 0 to be paid from; take the checker, a "
                "judge, a rubric or a function"
            )
        for name, prompts in self.asked:
            if isinstance(prompts, EnvironmentSource) and self.condition is not None:
                raise ValueError(
                    f"condition is for single questions; {name} are an environment's tasks"
                )
            if isinstance(prompts, EnvironmentSource):
                self._fits_environment(name)
            elif self.checked and (problem := no_checks(prompts)):
                raise ValueError(f"{name}: {problem}")
        for source in self.reward.sources().values():
            if source.model is not None and source.model not in self.needs:
                raise ValueError(
                    f"reward.model {source.model!r} is not in needs ({', '.join(self.needs)}); add it"
                )
        kinds = {source.kind for source in self.reward.sources().values()}
        if self.validation is not None and self.validation.samples > 1 and "judge" in kinds:
            raise ValueError(
                f"validation.samples {self.validation.samples} with a judge, which compares a prompt's one "
                "reply with its first one; leave samples out"
            )
        check_spread(self.distributed)
        if self.lora is not None:
            check_adapters(self.distributed, dropout=0.0, base=self.lora.base)
        if self.lora is not None and self.lora.dropout:
            raise ValueError(
                f"lora.dropout {self.lora.dropout}: the policy that samples drops nothing, so the trained "
                "one may not; leave it out"
            )
        if self.updates_per_step > self.prompts_per_step:
            raise ValueError(
                f"updates_per_step {self.updates_per_step} is more than prompts_per_step "
                f"{self.prompts_per_step}: a group is not split between updates"
            )
        return self

    def _fits_environment(self, name: str) -> None:
        """Raises: ValueError where what judges is not the environment itself."""
        if self.reward.kind != "checker" or self.reward_options:
            raise ValueError(
                f"{name} are an environment's tasks, which it judges itself; leave reward and "
                "reward_options out"
            )
