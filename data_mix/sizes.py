"""How many tokens the conversations of a source can be, as far as that is cheap to know. No torch.

Byte-level vocabularies have no token of less than a byte, so bytes bound tokens.
"""

from collections.abc import Iterable
from itertools import islice
from math import sqrt
from statistics import fmean, stdev

from data_mix.config import HouseSource, JsonlSource, LongContextSource, SourceConfig, WorldSource
from data_mix.files import files_of
from data_mix.world import PROPORTIONS, conversation_at, house_conversations, long_context
from workbench.chat.rendering import as_text
from workbench.conversation import Conversation
from workbench.remote import is_remote

# Conversations drawn of each kind of generated text, and standard errors added to their mean.
_DRAWN = 30
_ERRORS = 3.0
_SPECIAL_TOKENS_A_TURN = 3


def most_tokens(source: SourceConfig, samples: int) -> float | None:
    """The most tokens that `samples` conversations of the source have; None where it is not known.

    Generated sources: from the bytes of a few of them. JSONL: the size of its files, in which the
    keys of each message are longer than what a template puts around it.
    """
    if isinstance(source, WorldSource):
        shares = PROPORTIONS if source.domain == "mix" else {source.domain: 1.0}
        return samples * sum(share * _world(source, domain) for domain, share in shares.items())
    if isinstance(source, LongContextSource):
        size = source.num_characters
        pages = (long_context(i, split=source.split, seed=0, num_characters=size) for i in range(5))
        return samples * _mean(pages)
    if isinstance(source, HouseSource):
        tasks = house_conversations(
            source.split, 0, requests=source.requests, offered=source.offered
        )
        return samples * _mean(islice(tasks, _DRAWN))
    if isinstance(source, JsonlSource) and not is_remote(source.path):
        files = files_of(source.path)
        return float(sum(path.stat().st_size for path in files)) if files else None
    return None


def _world(source: WorldSource, domain: str) -> float:
    terms = source.num_terms
    return _mean(
        conversation_at(i, domain=domain, split=source.split, seed=0, num_terms=terms)
        for i in range(_DRAWN)
    )


def _mean(conversations: Iterable[Conversation]) -> float:
    sizes = [
        len(as_text(c).encode()) + _SPECIAL_TOKENS_A_TURN * (len(c.messages) + 1)
        for c in conversations
    ]
    return fmean(sizes) + _ERRORS * stdev(sizes) / sqrt(len(sizes))
