"""Answer checkers: one verdict type for reward and evaluation."""

from reward.composition import Component, compose
from reward.dispatch import check, check_many, must_be_checkable
from reward.pool import CheckItem, check_all
from reward.verdict import Verdict

__all__ = [
    "CheckItem",
    "Component",
    "Verdict",
    "check",
    "check_all",
    "check_many",
    "compose",
    "must_be_checkable",
]
