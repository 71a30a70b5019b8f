"""parse(render(x)) = x on fuzzed conversations, and parsing whatever a model may write."""

import json
import random
import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from workbench.chat import Reply, parse, parse_conversation, prompt_ids, render
from workbench.errors import UserError

Message = dict[str, Any]
ATOMS = [
    *(
        "a",
        "it is 7",
        " ",
        "\n",
        "\n\n",
        "é",
        "日本",
        "🙂",
        "\u200d",
        "\t",
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
    ),
    *("<SPECIAL_10>", "<SPECIAL_11>User\n", "<SPECIAL_12>\n", "<SPECIAL_12>", "</s>", "<unk>"),
    *("<think>", "</think>", "/think", "/no_think", "Assistant\n", "<", "/", "\\u003c"),
    *("<TOOLCALL>", "</TOOLCALL>", "<AVAILABLE_TOOLS>", "</AVAILABLE_TOOLS>"),
    *("<TOOL_RESPONSE>[", "]</TOOL_RESPONSE>", "</TOOL_RESPONSE>", "\ufffd", "\x00", "\r\n"),
]


def words(rng: random.Random, *, without: tuple[str, ...] = ()) -> str:
    text = "".join(rng.choice(ATOMS) for _ in range(rng.choice((0, 1, 2, 3, 8))))
    for tag in without:
        text = text.replace(tag, "")
    return text if not any(tag in text for tag in without) else ""


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 2 else 5)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {words(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return (words(rng), rng.randrange(-9, 10**9), rng.random(), None, True)[kind]


def calls(rng: random.Random) -> list[dict[str, Any]]:
    return [
        {"name": words(rng), "arguments": {words(rng): value(rng) for _ in range(rng.randrange(3))}}
        for _ in range(rng.randint(1, 3))
    ]


def assistant(rng: random.Random, *, trace: bool) -> Message:
    # `</think>` in an answer means a trace inside the content (its own test).
    message: Message = {"role": "assistant", "content": words(rng, without=("</think>",))}
    if trace and rng.random() < 0.8:
        message["reasoning_content"] = words(rng, without=("</think>",))
    if rng.random() < 0.3:
        message["tool_calls"] = calls(rng)
    return message


def tool_result(rng: random.Random) -> Message:
    shown = value(rng) if rng.random() < 0.5 else words(rng)
    if rng.random() < 0.5 and not isinstance(shown, str):
        shown = json.dumps(shown, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5)
    return {"role": "tool", "content": shown if shown is not None else ""}


def conversation(rng: random.Random) -> tuple[list[Message], list[dict[str, Any]] | None]:
    messages: list[Message] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": words(rng)})
    for _ in range(rng.randint(1, 5)):
        kind = rng.choice(("user", "assistant", "tool"))
        if kind == "user":
            messages.append({"role": "user", "content": words(rng)})
        elif kind == "assistant":
            messages.append(assistant(rng, trace=True))
        else:
            messages += [tool_result(rng) for _ in range(rng.randint(1, 3))]
    messages.append(assistant(rng, trace=True))
    tools = [
        {"name": words(rng), "description": words(rng), "parameters": value(rng)}
        for _ in range(rng.randint(1, 2))
    ]
    return messages, tools if rng.random() < 0.5 else None


def cleaned(text: str) -> tuple[str, list[str]]:
    """The text without keywords, and the keywords: by regex, not by the code's splitting."""
    found = re.findall(r"</think>|/no_think|/think", text)
    hits = [hit for hit in found if hit != "</think>"]
    shown = re.sub(r"</think>|/no_think", lambda m: m[0] if m[0] == "</think>" else "", text)
    shown = re.sub(r"</think>|/think", lambda m: m[0] if m[0] == "</think>" else "", shown)
    return (shown.strip() if hits else text), hits


def normal_form(messages: list[Message], *, default: bool) -> tuple[list[Message], bool]:
    on = default
    out: list[Message] = []
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role in ("system", "user"):
            content, hits = cleaned(content)
            on = hits[-1] == "/think" if hits else on
        elif role == "tool" and not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False)
        if role == "system" and not content:
            continue
        kept: Message = {"role": role, "content": content}
        if message.get("tool_calls"):
            kept["tool_calls"] = message["tool_calls"]
        if message.get("reasoning_content") and number == len(messages) - 1:
            kept["reasoning_content"] = message["reasoning_content"]
        out.append(kept)
    if not on:
        out[-1].pop("reasoning_content", None)
    return out, on


def looks_like_json_but_is_not(message: Message) -> bool:
    text = message["content"]
    if message["role"] != "tool" or not isinstance(text, str):
        return False
    try:
        json.loads(text)
    except ValueError:
        return text[:1] + text[-1:] in ("{}", "[]")
    return False


def test_parsing_undoes_rendering_on_2000_conversations(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(20)
    end = tokenizer.convert_tokens_to_ids("<SPECIAL_12>")
    for _ in range(2000):
        messages, tools = conversation(rng)
        thinking = rng.random() < 0.7
        done = render(messages, tools, thinking, tokenizer=tokenizer)
        expected, on = normal_form(messages, default=thinking)
        assert parse_conversation(done.input_ids, tokenizer) == (expected, tools)

        prompt = prompt_ids(messages[:-1], tools, thinking, tokenizer=tokenizer)
        assert done.input_ids[: len(prompt)] == prompt
        assert done.loss_mask[len(prompt) - 1 :] == [
            0,
            *[1] * (len(done.loss_mask) - len(prompt) - 1),
            0,
        ]
        assert tokenizer.decode(prompt).endswith("<think>\n" if on else "<think></think>")

        ends = [
            mask for token, mask in zip(done.input_ids, done.loss_mask, strict=True) if token == end
        ]
        assert ends == [1] * sum(m["role"] == "assistant" for m in messages)


def test_the_jinja_template_writes_the_same_text(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(21)
    for _ in range(400):
        messages, tools = conversation(rng)
        if any(looks_like_json_but_is_not(m) for m in messages):
            continue  # the one difference `chat_template` names: Jinja cannot read JSON
        thinking = rng.random() < 0.7
        for prompt in (False, True):
            by_jinja = tokenizer.apply_chat_template(
                messages[:-1] if prompt else messages,
                tools=[{"type": "function", "function": tool} for tool in tools or []],
                tokenize=False,
                add_generation_prompt=prompt,
                enable_thinking=thinking,
            )
            if prompt:
                ids = prompt_ids(messages[:-1], tools, thinking, tokenizer=tokenizer)
                assert by_jinja == tokenizer.decode(ids)
            else:
                assert by_jinja == render(messages, tools, thinking, tokenizer=tokenizer).text


def test_a_sampled_reply_parses_to_the_message_it_came_from(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(22)
    for _ in range(2000):
        message = assistant(rng, trace=True)
        trace = message.get("reasoning_content", "")
        if trace.startswith("<think>") or message["content"].startswith("<think>"):
            continue  # parse accepts a repeated opening tag
        user = {"role": "user", "content": "q"}
        thinking = rng.random() < 0.7
        done = render([user, message], None, thinking, tokenizer=tokenizer)
        pairs = zip(done.input_ids, done.loss_mask, strict=True)
        sampled = [token for token, mask in pairs if mask]
        for skip in (True, False):
            if not skip or "<SPECIAL_12>" not in message["content"]:
                reply = parse(tokenizer.decode(sampled, skip_special_tokens=skip), thinking)
                assert reply.thinking == (trace if thinking else "")
                assert reply.answer == message["content"]
                assert reply.tool_calls == message.get("tool_calls")
                tags = ("<TOOLCALL>", "</TOOLCALL>")
                assert reply.well_formed == (not any(tag in reply.answer for tag in tags))


CALL = {"name": "f", "arguments": {"x": 1}}
CALL_TEXT = '<TOOLCALL>[{"name": "f", "arguments": {"x": 1}}]</TOOLCALL>'


@pytest.mark.parametrize(
    ("text", "thinking", "reply"),
    [
        ("r\n</think>\n\na\n", True, Reply("r", "a", None, True)),
        ("<think>\nr\n</think>\n\na\n<SPECIAL_12>\n", False, Reply("r", "a", None, True)),
        ("<think></think>a", True, Reply("", "a", None, True)),
        ("r</think>a", True, Reply("r", "a", None, True)),
        ("r\n</think>\na", True, Reply("r", "a", None, True)),
        ("a\n", False, Reply("", "a", None, True)),
        ("still going\n", True, Reply("still going\n", "", None, False)),
        ("", True, Reply("", "", None, False)),
        ("", False, Reply("", "", None, True)),
        ("r\n</think>\n\na</think>b", True, Reply("r", "a</think>b", None, False)),
        ("a</think>b", False, Reply("", "a</think>b", None, False)),
        (f"r</think>a\n{CALL_TEXT}", True, Reply("r", "a", [CALL], True)),
        (f"{CALL_TEXT}\n\n", False, Reply("", "", [CALL], True)),
        (f"{CALL_TEXT}{CALL_TEXT}", False, Reply("", CALL_TEXT, [CALL], False)),
        (f"{CALL_TEXT} and", False, Reply("", f"{CALL_TEXT} and", None, False)),
        (
            '<TOOLCALL>[{"name": "f"}]</TOOLCALL>',
            False,
            Reply("", "", [{"name": "f", "arguments": {}}], True),
        ),
        (
            '<TOOLCALL>[{"name": "f", "arguments": "{\\"x\\": 1}"}]</TOOLCALL>',
            False,
            Reply("", "", [CALL], True),
        ),
    ],
)
def test_replies(text: str, thinking: bool, reply: Reply) -> None:
    assert parse(text, thinking=thinking) == reply


@pytest.mark.parametrize(
    "block",
    [
        "",
        "[]",
        "{",
        '{"name": "f", "arguments": {}}',
        '[{"name": 1, "arguments": {}}]',
        '[{"name": "f", "arguments": [1]}]',
        '[{"name": "f", "arguments": {"x": NaN}}]',
        "[" * 100_000,
        '[{"name": "f", "arguments": {"x": ' + "1" * 5000 + "}}]",
    ],
)
def test_unreadable_calls_stay_in_the_answer(block: str) -> None:
    text = f"a <TOOLCALL>{block}</TOOLCALL>"
    assert parse(text, thinking=False) == Reply("", text, None, False)


def test_parse_never_raises_and_knows_one_closing_tag() -> None:
    rng = random.Random(1)
    pieces = [*ATOMS, "\ud800", '"name": ', '"arguments": {}', "f", ",", "NaN", "<think></think>"]
    for _ in range(10_000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 14)))
        reply = parse(text, thinking=True)
        assert not reply.well_formed or text.count("</think>") == 1
        parse(text, thinking=False)


def test_a_block_that_a_user_spells_in_full_is_one(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": '<TOOL_RESPONSE>["x"]</TOOL_RESPONSE>'}]
    read, _ = parse_conversation(render(messages, tokenizer=tokenizer).input_ids, tokenizer)
    assert read == [{"role": "tool", "content": "x"}]  # the format has no other mark for results


def test_ids_of_something_else_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="do not start with <SPECIAL_10>"):
        parse_conversation([11, 12], tokenizer)
