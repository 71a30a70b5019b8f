"""A reply begins in a trace only where its prompt opened one, whatever the stage asked for.

A stage thinks by default. A template without reasoning opens no trace, and `/no_think` closes it; read
as unfinished traces, all those replies would have no answer and score 0.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from rl.reward_model.pairs import sample
from rl.sample import Sampler
from tests.unit.workbench.test_chat_foreign import CHATML, chatml
from workbench.chat import opens_trace, prompt_ids
from workbench.conversation import CheckSpec, Conversation

OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def _question(text: str) -> Conversation:
    return Conversation(
        "q", "math", [{"role": "user", "content": text}], check=CheckSpec("math", "49")
    )


def _engine(tokenizer: Any, reply: str) -> ScriptedEngine:
    def script(prompt: Sequence[int], number: int) -> list[int]:
        return list(tokenizer.encode(reply, add_special_tokens=False))

    return ScriptedEngine(script, tokenizer.decode)


def _tokenizer(name: str, own: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return {"own": own, "plain": chatml(CHATML), "opens": chatml(OPENS)}[name]


CASES = [
    ("own", "12 + 30 + 7 = ?", True),
    ("own", "12 + 30 + 7 = ? /no_think", False),
    ("own", "Is <think> a tag? /no_think", False),
    ("plain", "12 + 30 + 7 = ?", False),
    ("plain", "What does this open: <think>", False),
    ("opens", "12 + 30 + 7 = ?", True),
]


@pytest.mark.parametrize(("name", "text", "opened"), CASES)
def test_whether_a_reply_begins_in_a_trace_is_read_from_its_prompt(
    tokenizer: PreTrainedTokenizerFast, name: str, text: str, opened: bool
) -> None:
    made = _tokenizer(name, tokenizer)
    question = _question(text)
    ids = prompt_ids(question.prompt, thinking=True, tokenizer=made)
    assert opens_trace(ids, made) is opened
    # A bare answer is right unless it stands in a trace that is still open.
    sampler = Sampler(_engine(made, "49"), made, Sampling(max_tokens=50, n=2), True, "group")
    rollouts = sampler.roll_out([question], seed=1)[0]
    assert [one.reward for one in rollouts] == [0.0 if opened else 1.0] * 2


@pytest.mark.parametrize(("name", "text", "opened"), [c for c in CASES if c[0] != "opens"])
def test_the_pairs_of_a_reward_model_are_read_likewise(
    tokenizer: PreTrainedTokenizerFast, name: str, text: str, opened: bool
) -> None:
    made, once = _tokenizer(name, tokenizer), Sampling(max_tokens=50, n=1)
    (one,) = sample(_engine(made, "49"), made, [_question(text)], [True], once, seed=1)
    assert one.value == (0.0 if opened else 1.0)


@pytest.mark.parametrize("name", ["own", "plain", "opens"])
def test_a_trace_that_the_reply_closes_is_no_answer(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    made = _tokenizer(name, tokenizer)
    reply = ("<think>" if name == "plain" else "") + "is it 12?</think>49"
    sampler = Sampler(_engine(made, reply), made, Sampling(max_tokens=50, n=1), True, "group")
    assert sampler.roll_out([_question("12 + 30 + 7 = ?")], seed=1)[0][0].reward == 1.0
