"""Tool calls of our chat format for vLLM's server: its option --tool-parser-plugin takes this file.

`anneal serve` passes it where a model speaks that format; other formats have parsers in vLLM itself.
"""

import json
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.tool_parsers.abstract_tool_parser import ToolParser, ToolParserManager

from workbench.chat import parse
from workbench.chat.template import CALL_CLOSE, CALL_OPEN, CLOSE

NAME = "anneal"


def calls_in(text: str) -> list[FunctionCall]:
    """The calls of a whole reply, a trace before them or not; none where a call is not readable."""
    found = parse(text, thinking=CLOSE in text).tool_calls or []
    return [
        FunctionCall(name=one["name"], arguments=json.dumps(one["arguments"], ensure_ascii=False))
        for one in found
    ]


@ToolParserManager.register_module(NAME)
class ToolcallParser(ToolParser):
    """`<TOOLCALL>[...]</TOOLCALL>` at the end of a reply. The trace stays in the content: the client reads it."""

    _ended = False

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """The calls of a whole reply, and the text before them."""
        calls = [ToolCall(function=function) for function in calls_in(model_output)]
        before = (
            model_output[: model_output.rfind(CALL_OPEN)].rstrip("\n") if calls else model_output
        )
        return ExtractedToolCallInformation(
            tools_called=bool(calls), tool_calls=calls, content=before or None
        )

    def extract_tool_calls_streaming(
        self, previous_text: str, current_text: str, delta_text: str,
        previous_token_ids: Sequence[int], current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int], request: Any,
    ) -> DeltaMessage | None:  # fmt: skip
        """Text as it comes; all calls at once when their block is whole, since half a list is none."""
        was = 0 if self._ended else len(_shown(previous_text))
        opened = _opened(current_text)
        if opened >= 0 and CALL_CLOSE in current_text[opened:]:
            return None if self._ended else self._whole(current_text, opened, was)
        more = _shown(current_text)[was:]
        return DeltaMessage(content=more) if more and not self._ended else None

    def _whole(self, text: str, opened: int, was: int) -> DeltaMessage:
        """The calls, and the text before them that was not sent yet; what is not readable is text."""
        self._ended = True
        calls = calls_in(text)
        if not calls:
            return DeltaMessage(content=text[was:])
        self.prev_tool_call_arr = [{"name": c.name, "arguments": c.arguments} for c in calls]
        self.streamed_args_for_tool = [c.arguments for c in calls]
        deltas = [
            DeltaToolCall(
                index=place, id=ToolCall(function=call).id, type="function",
                function=DeltaFunctionCall(name=call.name, arguments=call.arguments),
            )
            for place, call in enumerate(calls)
        ]  # fmt: skip
        return DeltaMessage(content=text[was:opened] or None, tool_calls=deltas)


def _opened(text: str) -> int:
    """Where the calls begin; -1 where none do: a tag inside a trace that is closed is the trace's."""
    opened = text.rfind(CALL_OPEN)
    return opened if opened > text.rfind(CLOSE) else -1


def _shown(text: str) -> str:
    """What of a text that is still being made is surely no call: all before the tag, or before its beginning."""
    if (opened := _opened(text)) >= 0:
        return text[:opened]
    for length in range(min(len(CALL_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(CALL_OPEN[:length]):
            return text[:-length]
    return text
