"""Natural English from what Python installs: the language reference texts of pydoc_data.topics."""

from functools import lru_cache
from pydoc_data.topics import topics
from random import Random

# Share of characters that are letters, digits, blanks or plain punctuation: prose has almost only
# these, grammar listings and tables do not. Our stand-in for the paper's quality tiers.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,'\"()-;:\n")
TIERS: dict[str, tuple[float, float]] = {
    "medium": (0.0, 0.95),
    "medium-high": (0.95, 0.99),
    "high": (0.99, 1.01),
}


@lru_cache(maxsize=1)
def passages() -> tuple[str, ...]:
    """Every paragraph of at least 80 characters, line breaks inside it made into blanks."""
    found = []
    for name in sorted(topics):
        for block in topics[name].split("\n\n"):
            text = " ".join(block.split())
            if len(text) >= 80:
                found.append(text)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=len(TIERS))
def passages_of_tier(tier: str) -> tuple[str, ...]:
    """The passages whose share of plain characters lies in the tier's range."""
    low, high = TIERS[tier]
    return tuple(
        text for text in passages() if low <= sum(c in _PLAIN for c in text) / len(text) < high
    )


def passage(rng: Random, tier: str) -> str:
    """One passage of a tier, at most 400 characters, cut at a word."""
    text = rng.choice(passages_of_tier(tier))
    return text if len(text) <= 400 else text[:400].rsplit(" ", 1)[0]
