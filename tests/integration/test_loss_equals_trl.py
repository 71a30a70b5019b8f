"""TRL's own GRPOTrainer as the oracle: its scoring and its loss on replies that we hand to both."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.protocol import Completion
from model.logprobs import Truncation
from rl.advantage import advantages
from rl.config import LossConfig
from rl.loss import LossSettings, PolicyBatch, policy_loss
from rl.sample import Rollout
from rl.update import pack, reply_logprobs

pytestmark = [pytest.mark.integration, pytest.mark.golden]
TEMPERATURE, MAX_TOKENS, GROUP = 0.8, 12, 4
REWARDS = [1.0, 0.0, 0.5, 0.0, 0.25, 1.0, 1.0, 0.0]


def tiny(kind: str, vocabulary: int) -> Any:
    """A hybrid, whose prompts must be of one length (TRL pads them), or a plain transformer."""
    from transformers import LlamaConfig

    from model.hybrid import build_config, load_model

    if kind == "hybrid":
        config: Any = build_config("miniature", vocab_size=vocabulary, hidden_size=64)
    else:
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            initializer_range=0.2, tie_word_embeddings=False,
        )  # fmt: skip
    return load_model(config, seed=0)


@pytest.fixture(scope="module", params=["hybrid", "transformer"])
def oracle(request: Any, tmp_path_factory: Any) -> Iterator[Any]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a line of text\n"] * 3, 300, tmp_path_factory.mktemp("tokenizer"))
    model = tiny(request.param, len(tokenizer))
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), report_to=[], use_cpu=True,
        per_device_train_batch_size=8, num_generations=GROUP, temperature=TEMPERATURE,
        max_completion_length=MAX_TOKENS, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **kwargs: REWARDS,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
        processing_class=tokenizer,
    )
    # The reference differs from the policy, or a wrong KL would be 0 like a right one.
    trainer.ref_model = tiny(request.param, len(tokenizer))
    with torch.no_grad():
        for number, parameter in enumerate(trainer.ref_model.parameters()):
            parameter.add_(0.02 * noise(parameter, seed=1000 + number))
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(trainer.ref_model, temperature=TEMPERATURE)
    trainer.kind = request.param
    trainer.current_gradient_accumulation_steps = 1
    trainer.first = {k: v.clone() for k, v in model.state_dict().items()}
    yield trainer


def noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=made)


def replies(kind: str, vocabulary: int) -> list[Rollout]:
    """Two groups of four; the engine's log-probabilities are the model's with errors up to e^0.5."""
    made = torch.Generator().manual_seed(3)

    def ids(n: int) -> list[int]:
        return torch.randint(20, vocabulary, (n,), generator=made).tolist()

    gains = advantages(REWARDS[:4], "group") + advantages(REWARDS[4:], "group")
    out = []
    for number, length in enumerate([5, 12, 1, 7, 3, 9, 12, 2]):
        if number % GROUP == 0:
            prompt = ids(6 if kind == "hybrid" else 3 + number)
        done = ids(length)
        out.append(
            Rollout(
                prompt,
                Completion(done, [0.0] * length, "", "stop", [False] * length, [0] * length),
                REWARDS[number],
                gains[number],
                "ok",
            )
        )
    return out


def with_engine(rollouts: list[Rollout], row: PolicyBatch, logprobs: torch.Tensor) -> list[Rollout]:
    errors = noise(logprobs, seed=9).clamp(-2, 2) * 0.25
    values = iter((logprobs + errors).tolist())
    return [
        replace(r, completion=replace(r.completion, logprobs=[next(values) for _ in r.completion.logprobs]))
        for r in rollouts
    ]  # fmt: skip


# TRL's name of the loss, its options, and the same thing in ours.
BASE: dict[str, Any] = {"clip_high": 0.28}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dapo", {}, {"variant": "dapo"}),
    ("bnpo", {}, {"aggregate": "token"}),
    ("grpo", {}, {"variant": "grpo"}),
    ("dr_grpo", {}, {"variant": "dr_grpo"}),
    ("grpo", {"importance_sampling_level": "sequence"}, {"variant": "gspo", "clip_low": 0.2}),
    ("luspo", {"importance_sampling_level": "sequence"}, {"variant": "luspo", "clip_low": 0.2}),
    ("cispo", {"epsilon_high": 1.28}, {"variant": "cispo"}),
    ("dapo", {"delta": 1.5}, {"clip_most": 1.5}),
    ("dapo", {"beta": 0.1}, {"kl_coefficient": 0.1}),
    ("grpo", {"beta": 0.1, "use_bias_correction_kl": False},
     {"aggregate": "sequence", "kl_coefficient": 0.1, "kl_weighted": False}),
    ("dapo", {"mode": "token_truncate", "low": 0.9}, {"correction": "token", "correction_low": 0.9}),
    ("dapo", {"mode": "token_mask"}, {"correction": "token", "correction_outside": "mask"}),
    ("dr_grpo", {"mode": "sequence_truncate"}, {"aggregate": "constant", "correction": "sequence"}),
    ("grpo", {"mode": "sequence_mask", "low": 0.8},
     {"aggregate": "sequence", "correction": "sequence", "correction_outside": "mask",
      "correction_low": 0.8}),
]  # fmt: skip


def set_options(trainer: Any, loss: str, options: dict[str, Any]) -> None:
    trainer.loss_type = loss
    trainer.epsilon_low, trainer.epsilon_high = 0.2, options.get("epsilon_high", 0.28)
    trainer.importance_sampling_level = options.get("importance_sampling_level", "token")
    trainer.beta = options.get("beta", 0.0)
    trainer.args.delta = options.get("delta")
    trainer.args.use_bias_correction_kl = options.get("use_bias_correction_kl", True)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = "mode" in options
    trainer.vllm_importance_sampling_mode = options.get("mode", "token_truncate")
    trainer.vllm_importance_sampling_clip_min = options.get("low")
    trainer.vllm_importance_sampling_clip_max = 1.2 if "mode" in options else 2.0


def reset(model: Any, state: dict[str, torch.Tensor], moved: float) -> None:
    model.load_state_dict(state)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(moved * noise(parameter, seed=number))


def trl_loss(trainer: Any, rollouts: list[Rollout], moved: float) -> torch.Tensor:
    """Scored with the first weights, the loss taken with moved ones: ratios are not 1."""
    reset(trainer.model, trainer.first, 0.0)
    trainer.model.train()
    trainer._generate = lambda prompts: (
        [r.prompt for r in rollouts],
        [r.completion.token_ids for r in rollouts],
        None,
        [""] * len(rollouts),
        [r.completion.logprobs for r in rollouts] if trainer.use_vllm else None,
        {},
        None,
        None,
    )
    # TRL spares this pass where it can; we want it, since the weights move in between.
    trainer.args.steps_per_generation, trainer.args.gradient_accumulation_steps = 1, 1
    trainer.num_iterations = 2
    inputs = trainer._generate_and_score_completions([{"prompt": "a"}] * len(rollouts))
    reset(trainer.model, trainer.first, moved)
    return trainer._compute_loss(trainer.model, inputs)


def our_loss(trainer: Any, rollouts: list[Rollout], settings: LossSettings, moved: float) -> Any:
    """In rows of at most 40 tokens, so of several replies each, summed."""
    how = Truncation(temperature=TEMPERATURE)
    rows = pack(rollouts, 40)
    assert 2 < len(rows) < len(rollouts)
    reset(trainer.model, trainer.first, 0.0)
    with torch.no_grad():
        olds = [reply_logprobs(trainer.model, row, how)[0] for row in rows]
        references = [reply_logprobs(trainer.ref_model, row, how)[0] for row in rows]
    reset(trainer.model, trainer.first, moved)
    total = sum(int(row.mask.sum()) for row in rows)
    loss, clipped = torch.zeros(()), 0.0
    for row, old, reference in zip(rows, olds, references, strict=True):
        new, _ = reply_logprobs(trainer.model, row, how)
        batch = replace(row.like(new), old=old, reference=reference)
        part, metrics = policy_loss(
            new, batch, settings, total_tokens=total, total_sequences=len(rollouts)
        )
        loss, clipped = loss + part, clipped + metrics["clipped_sum"]
    return loss, clipped


@pytest.mark.parametrize(("name", "theirs", "ours"), CASES)
def test_loss_and_gradient_are_trls(
    oracle: Any, name: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    set_options(oracle, name, theirs)
    high = {"correction_high": 1.2} if "mode" in theirs else {"correction": "none"}
    values = LossConfig(**{"clip_high": 0.28, **high, **ours}).model_dump(exclude={"variant"})
    settings = LossSettings(**values, max_tokens=MAX_TOKENS)
    rollouts = replies(oracle.kind, oracle.model.config.vocab_size)
    whole = pack(rollouts, 10**6)[0]
    reset(oracle.model, oracle.first, 0.0)
    with torch.no_grad():
        exact, _ = reply_logprobs(oracle.model, whole, Truncation(temperature=TEMPERATURE))
    rollouts = with_engine(rollouts, whole, exact)
    moved = 0.02
    expected = trl_loss(oracle, rollouts, moved)
    oracle.model.zero_grad()
    expected.backward()
    gradient = {n: p.grad.clone() for n, p in oracle.model.named_parameters() if p.grad is not None}
    found, clipped = our_loss(oracle, rollouts, settings, moved)
    oracle.model.zero_grad()
    found.backward()
    assert clipped > 0, "nothing is clipped: the case proves little"
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    for parameter, value in oracle.model.named_parameters():
        scale = float(gradient[parameter].abs().max())
        assert torch.allclose(value.grad, gradient[parameter], atol=max(1e-6, 1e-4 * scale)), (
            parameter
        )
