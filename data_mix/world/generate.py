"""Conversations of the miniature world: seven domains, four disjoint splits, any number, seeded."""

from collections.abc import Iterator
from random import Random

from data_mix.world import (
    arithmetic,
    coding,
    instructions,
    multilingual,
    safety,
    science,
    tooluse,
)
from data_mix.world.problem import SPLIT_BUCKETS, Propose, propose_in_split
from workbench.conversation import Conversation
from workbench.errors import UserError, unknown_name

_PROPOSERS: dict[str, Propose] = {
    "math": arithmetic.propose,
    "coding": coding.propose,
    "science": science.propose,
    "tool_calling": tooluse.propose,
    "conversation": instructions.propose,
    "safety": safety.propose,
    "multilingual": multilingual.propose,
}
DOMAINS: tuple[str, ...] = tuple(_PROPOSERS)
SPLITS: tuple[str, ...] = tuple(SPLIT_BUCKETS)

# SFT samples by domain (paper, Table 7).
PAPER_SAMPLES: dict[str, int] = {
    "math": 1_500_000,
    "coding": 1_100_000,
    "science": 2_000_000,
    "tool_calling": 400_000,
    "conversation": 1_500_000,
    "safety": 2_000,
    "multilingual": 5_000_000,
}
# 2K of 11.5M is 0.02%: one sample in 5,750, none in a miniature. Safety gets this floor instead and
# the other six keep their proportions to each other (ours).
SAFETY_FLOOR = 0.02
# So many known prompts in a row mean that a split is used up (below 1% of its prompts are new).
_MAX_REPEATS = 500


def _proportions() -> dict[str, float]:
    others = sum(n for domain, n in PAPER_SAMPLES.items() if domain != "safety")
    return {
        domain: SAFETY_FLOOR if domain == "safety" else (1 - SAFETY_FLOOR) * n / others
        for domain, n in PAPER_SAMPLES.items()
    }


PROPORTIONS: dict[str, float] = _proportions()


def proposer(domain: str, *, num_terms: int | None = None) -> Propose:
    """The problem source of a domain; `num_terms` fixes the length of a math problem."""
    if domain not in _PROPOSERS:
        raise unknown_name("domain", domain, DOMAINS)
    if num_terms is None:
        return _PROPOSERS[domain]
    if domain != "math" or num_terms < 2:
        raise UserError(
            f"num_terms={num_terms} with domain {domain!r}; it is for 'math' and at least 2"
        )
    return arithmetic.propose_of_length(num_terms)


def conversation_at(
    index: int, *, domain: str, split: str, seed: int, num_terms: int | None = None
) -> Conversation:
    """Number `index` of a seeded stream; each index stands alone, so resuming costs nothing."""
    if split not in SPLIT_BUCKETS:
        raise unknown_name("split", split, SPLITS)
    propose = proposer(domain, num_terms=num_terms)
    rng = Random(f"{seed}/{domain}/{split}/{num_terms}/{index}")
    problem = propose_in_split(propose, rng, split)
    return problem.conversation(domain=domain, identity=f"{domain}-{split}-{seed}-{index}")


def conversations(
    domain: str, split: str, n: int, seed: int, *, num_terms: int | None = None
) -> Iterator[Conversation]:
    """`n` conversations of one domain and split, reply included, prompt text never repeated.

    Raises UserError where the split has too few different prompts.
    """
    seen: set[str] = set()
    index = num_repeats = 0
    while len(seen) < n:
        drawn = conversation_at(index, domain=domain, split=split, seed=seed, num_terms=num_terms)
        index += 1
        text = prompt_text(drawn)
        num_repeats = num_repeats + 1 if text in seen else 0
        if num_repeats == 0:
            seen.add(text)
            yield drawn
        elif num_repeats > _MAX_REPEATS:
            raise UserError(
                f"{domain}/{split} has fewer than {n} different prompts ({len(seen)} found); "
                "ask for fewer, or take conversation_at, which repeats"
            )


def prompt_text(conversation: Conversation) -> str:
    """The user's words and the names of the tools on offer: two prompts differ when this does."""
    offered = [tool["name"] for tool in conversation.tools or []]
    return "\n".join([*offered, *(str(m["content"]) for m in conversation.prompt)])
