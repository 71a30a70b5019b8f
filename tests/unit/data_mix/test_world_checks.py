"""The world's replies under the project's own checkers: right ones score 1, wrong ones 0."""

import pytest

from data_mix import world
from data_mix.filters import passes_check
from data_mix.world.instructions import TOPICS
from data_mix.world.safety import REFUSAL
from workbench.conversation import Conversation

# coding is checked by running its code in test_world.py: a sandbox takes 0.2 s a reply.
_WRONG = {
    "math": "1000",
    "science": "X",  # nothing begins with it
    "multilingual": "X",
    "tool_calling": '<TOOLCALL>[{"name": "open_door", "arguments": {}}]</TOOLCALL>',
    # A comma, every word that may be forbidden, and nothing that may be asked for.
    "conversation": "No, " + " ".join(word for words in TOPICS.values() for word in words),
}


@pytest.mark.parametrize("domain", [*_WRONG, "safety"])
def test_worked_replies_score_1_and_wrong_ones_0(domain: str) -> None:
    for conversation in world.conversations(domain, "test", 25, 0):
        assert passes_check(conversation), conversation
        reply = conversation.reply
        assert reply is not None
        wrong = "Sure, do this." if REFUSAL in reply["content"] else REFUSAL
        wrong = _WRONG.get(domain, wrong)
        assert not passes_check(conversation.with_reply({"role": "assistant", "content": wrong}))


def test_a_long_context_reply_scores_1() -> None:
    sample: Conversation = world.long_context(0, split="test", seed=0, num_characters=1_000)
    assert passes_check(sample)
