"""One generated problem, its split, and its conversation: what every domain of the world yields."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Literal

from workbench.conversation import CheckSpec, Conversation

Split = Literal["train", "validation", "test", "rl"]

# Buckets of 100 that a split owns. The RL prompt pool is a split of its own, so that no prompt GRPO
# learns from was in SFT and none is in the test.
SPLIT_BUCKETS: dict[str, range] = {
    "train": range(0, 78),
    "validation": range(78, 82),
    "test": range(82, 90),
    "rl": range(90, 100),
}


@dataclass(frozen=True)
class Problem:
    """A problem with its worked solution. Example::

        Problem(key="sum:3,4", prompt="3 + 4 = ?", trace="3 + 4 = 7", answer="7",
                check=CheckSpec("math", "7"))

    `key` names the problem and not its wording: two wordings (or two languages) of one problem
    share it, and so they share a split.
    """

    key: str
    prompt: str
    trace: str
    answer: str
    check: CheckSpec
    tools: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None

    def conversation(self, *, domain: str, identity: str) -> Conversation:
        """The problem as a user turn and a worked assistant turn."""
        reply: dict[str, Any] = {
            "role": "assistant",
            "reasoning_content": self.trace,
            "content": self.answer,
        }
        if self.tool_calls:
            reply["tool_calls"] = [
                {"type": "function", "function": call} for call in self.tool_calls
            ]
        return Conversation(
            id=identity,
            domain=domain,
            messages=[{"role": "user", "content": self.prompt}, reply],
            tools=self.tools,
            check=self.check,
            problem=self.key,
        )


# (random source, wanted split) -> one problem of any split: the caller keeps those of its split.
# The split is passed because a domain may mix its difficulties differently per split.
Propose = Callable[[Random, str], Problem]


def split_of(key: str) -> str:
    """The split that owns a problem: a hash of its key, so it needs no list and never changes."""
    bucket = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    return next(name for name, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def propose_in_split(propose: Propose, rng: Random, split: str) -> Problem:
    """The first proposal that falls in `split` (a split owns 4% of the keys or more)."""
    for _ in range(10_000):
        problem = propose(rng, split)
        if split_of(problem.key) == split:
            return problem
    raise RuntimeError(f"no problem of split {split!r} in 10,000 proposals of {propose}")
