"""The chat format: render conversations to tokens with a loss mask, and parse replies."""

from workbench.chat.continuing import kept_prompt
from workbench.chat.parsing import Reply, parse, parse_conversation
from workbench.chat.rendering import Rendered, as_text, opens_trace, prompt_ids, render
from workbench.chat.reply_format import ReplyFormat, reply_format
from workbench.chat.template import SPECIAL_TOKENS, chat_template
from workbench.chat.tokens import format_of, stop_ids

__all__ = [
    "SPECIAL_TOKENS",
    "Rendered",
    "Reply",
    "ReplyFormat",
    "as_text",
    "chat_template",
    "format_of",
    "kept_prompt",
    "opens_trace",
    "parse",
    "parse_conversation",
    "prompt_ids",
    "render",
    "reply_format",
    "stop_ids",
]
