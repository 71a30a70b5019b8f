"""The miniature world: a seeded, procedurally generated stand-in for the paper's data."""

from data_mix.world.blend import PRETRAINING_KINDS
from data_mix.world.generate import (
    DOMAINS,
    PROPORTIONS,
    SPLITS,
    conversation_at,
    conversations,
    prompt_text,
)
from data_mix.world.house import house_conversations
from data_mix.world.long_context import long_context
from data_mix.world.pretraining import pretraining_at, pretraining_text

__all__ = [
    "DOMAINS",
    "PRETRAINING_KINDS",
    "PROPORTIONS",
    "SPLITS",
    "conversation_at",
    "conversations",
    "house_conversations",
    "long_context",
    "pretraining_at",
    "pretraining_text",
    "prompt_text",
]
