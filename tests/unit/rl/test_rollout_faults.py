"""Replies that were never made have no reward, and what is held out is judged by its own check."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from engine.protocol import Completion, Sampling
from engine.scripted import ScriptedEngine
from rl.sample import Sampler
from rl.stage import held_out_rewards
from workbench.conversation import CheckSpec, Conversation

QUESTION = Conversation(
    "q", "conversation", [{"role": "user", "content": "say a and b"}],
    check=CheckSpec("contains", ["a", "b"], {}),
)  # fmt: skip


class Failing(ScriptedEngine):
    """Its second reply of every group was never made."""

    def _one(self, prompt: Sequence[int], sample: int, sampling: Sampling) -> Completion:
        if sample == 1:
            return Completion([], [], "", "error", error="the engine died")
        return super()._one(prompt, sample, sampling)


def sampler(kind: Any, tokenizer: Any, replies: list[str], **more: Any) -> Sampler:
    def script(prompt: Sequence[int], sample: int) -> list[int]:
        return list(tokenizer.encode(replies[sample], add_special_tokens=False))

    engine = kind(script, tokenizer.decode)
    sampling = Sampling(max_tokens=50, n=len(replies))
    return Sampler(engine, tokenizer, sampling, False, "mean", **more)


def test_a_reply_that_was_never_made_has_no_reward_and_no_advantage(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Nor does it lower the others' baseline: of 1 and 0 that is 1/2, with a third 0 it would be 1/3."""
    (group,) = sampler(Failing, tokenizer, ["a b", "a b", "c"]).roll_out([QUESTION], seed=1)
    assert [(r.reward, r.status, r.advantage) for r in group] == [
        (1.0, "ok", 0.5), (None, "the engine died", None), (0.0, "ok", -0.5),
    ]  # fmt: skip


def test_the_held_out_reward_keeps_the_prompts_own_check(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Training may pay for less: here one of two words is enough."""
    made = sampler(ScriptedEngine, tokenizer, ["a", "b"], reward_options={"mode": "any"})
    (group,) = made.roll_out([QUESTION], seed=1)
    assert [r.reward for r in group] == [1.0, 1.0]
    assert held_out_rewards(made, [QUESTION], 1, "after") == {"held_out_after": [0.5]}
    assert replace(made, reward_options={}).roll_out([QUESTION], seed=1)[0][0].reward == 0.5
