"""Whether a check takes some options: asked before a stage samples replies to be checked with them."""

from collections.abc import Mapping
from typing import Any

from reward.dispatch import check_reply
from reward.reply import read_reply
from workbench.conversation import CheckSpec

# They might ask another model.
_ASKING = ("judged-match", "judged-better")


def check_options(spec: CheckSpec, options: Mapping[str, Any]) -> None:
    """Raises: UserError for an option that the kind of check does not take, or a value that is none.

    An empty reply is checked with them, which every checker decides by itself, without a process.
    """
    if spec.kind not in _ASKING:
        check_reply(spec.kind, read_reply(""), spec.reference, {**spec.options, **options})
