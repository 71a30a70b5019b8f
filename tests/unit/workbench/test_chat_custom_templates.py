"""Each checkpoint's own template: what engine and trainer see is what `apply_chat_template` gives."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workbench.chat import chat_template, format_of, opens_trace, prompt_ids, render, stop_ids
from workbench.chat.traits import traits_of
from workbench.errors import UserError

# Pieces as the tokenizers of Llama 3 and Qwen cut them: a run of newlines is one piece.
_PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTROL = re.compile(r"<\|\w+\|>|<｜[^｜]+｜>|<SPECIAL_1[012]>|<(?:start|end)_of_turn>")
_KIND = (Path(__file__).parent / "released_kind.jinja").read_text(encoding="utf-8")
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _shipped() -> dict[str, str]:
    """The templates that installed packages bring."""
    found: dict[str, str] = {}
    for package, folder in (
        ("trl", "chat_templates"),
        ("vllm", "transformers_utils/chat_templates"),
    ):
        spec = find_spec(package)
        if spec and spec.submodule_search_locations:
            path = Path(spec.submodule_search_locations[0]) / folder
            found |= {p.stem: p.read_text(encoding="utf-8") for p in sorted(path.glob("*.jinja"))}
    return found


TEMPLATES = {"ours": chat_template(), "released kind": _KIND, "chatml": _CHATML, **_shipped()}
# Tried on 200 conversations each; the others on 20.
_MAIN = {"ours", "released kind", "chatml", "llama3_1", "qwen2_5", "qwen3", "nemotron_3_nano"}
# Their templates take images or sound only, or write no content.
_NO_TEXT = {
    *("llava_next", "llava_next_training", "template_kimi_audio"),
    *("idefics3", "idefics3_training", "smolvlm", "smolvlm_training"),
}


def tokenizer_with(template: str, *, eos: str = "<eos>") -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "<eos>", *sorted(set(_CONTROL.findall(template)))]
    raw.train_from_iterator(
        ["system user assistant\n\n\n </think>\n\n"] * 3,
        trainers.BpeTrainer(
            vocab_size=320 + len(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=special,
            show_progress=False,
        ),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token=eos)
    made.chat_template = template
    return made


_TEXTS = (
    "What is 2+2?",
    " blanks \n",
    "\n\nlines",
    "日本語 🙂 é",
    "a\n\n\nb",
    '{"json": [1]}',
    "x\ty",
)


def schema(name: str) -> dict[str, Any]:
    city = {"type": "string", "description": "ü"}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    inner = {"name": name, "description": f"does {name}", "parameters": parameters}
    return {"type": "function", "function": inner}


def draw(rng: Random, *, tools: bool, text: bool, trace: str | None) -> list[dict[str, Any]]:
    """A conversation that ends with a reply; `trace` is the key of traces."""

    def reply(content: str, **more: Any) -> dict[str, Any]:
        made = {"role": "assistant", "content": content, **more}
        return {**made, trace: "because " + rng.choice(_TEXTS)} if trace else made

    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": rng.choice(_TEXTS)})
    for turn in range(rng.randrange(1, 4)):
        messages.append({"role": "user", "content": rng.choice(_TEXTS)})
        for step in range(rng.randrange(3) if tools else 0):
            calls = []
            for number in range(rng.randrange(1, 3)):
                filled: Any = {"city": rng.choice(["Lyon", "東京", 'a "q"']), "n": rng.randrange(9)}
                filled = json.dumps(filled, ensure_ascii=False) if text else filled
                function = {"name": rng.choice(["get", "put"]), "arguments": filled}
                call_id = f"call{turn}{step}{number:03d}"
                calls.append({"id": call_id, "type": "function", "function": function})
            messages.append(reply(rng.choice(["", *_TEXTS]), tool_calls=calls))
            for call in calls:
                result = rng.choice(["plain text", '{"x": 1}'])
                name = {"tool_call_id": call["id"], "name": call["function"]["name"]}
                messages.append({"role": "tool", "content": result, **name})
        messages.append(reply(rng.choice(_TEXTS)))
    return messages


def _by_jinja(
    tokenizer: Any, messages: Any, tools: Any, thinking: bool, **more: Any
) -> list[int] | None:
    """The template's own ids; None where it refuses the conversation."""
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, tools=tools, enable_thinking=thinking, return_dict=False, **more
        )
    except Exception:  # noqa: BLE001 - a template raises what it likes
        return None
    return ids


def _check(tokenizer: Any, messages: Any, tools: Any, thinking: bool, wanted: Any) -> bool:
    """Engine and trainer against the template; whether it takes such a conversation."""
    expected = _by_jinja(tokenizer, wanted[:-1], tools, thinking, add_generation_prompt=True)
    if expected is None:
        with pytest.raises(UserError, match="chat template refuses|JSON object"):
            prompt_ids(messages[:-1], tools, thinking, tokenizer=tokenizer)
        return False
    prompt = prompt_ids(messages[:-1], tools, thinking, tokenizer=tokenizer)
    assert prompt == expected
    whole = _by_jinja(tokenizer, wanted, tools, thinking)
    if whole is None or not tokenizer.decode(whole).startswith(tokenizer.decode(prompt)):
        return True  # a prompt that opens a trace which the whole conversation does not show
    done = render(messages, tools, thinking, tokenizer=tokenizer, loss_on="last")
    assert done.input_ids[: len(prompt)] == prompt
    if done.input_ids != whole:
        # Equal but for a token that would span prompt and reply, which no engine can sample.
        assert tokenizer.decode(done.input_ids) == tokenizer.decode(whole)
        assert whole[: len(prompt)] != prompt or "</think>" in done.text
    first, count = len(prompt), sum(done.loss_mask)
    assert done.loss_mask == [0] * first + [1] * count + [0] * (len(done.loss_mask) - first - count)
    end = done.input_ids[first + count - 1]
    assert end in stop_ids(tokenizer) or first + count == len(done.input_ids)
    return True


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n not in _NO_TEXT])
def test_engine_and_trainer_see_what_the_template_says(name: str) -> None:
    tokenizer = tokenizer_with(TEMPLATES[name])
    own = format_of(tokenizer) == "template"
    assert own == (name != "ours")
    traits = traits_of(tokenizer)
    rng, taken = Random(name), 0
    for number in range(200 if name in _MAIN else 20):
        thinking = number % 2 == 0 or bool(traits.keyword)
        calls = traits.tools and rng.random() < 0.7
        trace = traits.trace_key if own else "reasoning_content"
        messages = draw(
            rng, tools=calls, text=traits.arguments_as_text, trace=trace if thinking else None
        )
        tools = [schema("get"), schema("put")] if calls else None
        last = messages[-1]
        wanted = messages
        if own and not trace and thinking and number % 4 == 0:
            # Without a place for traces they stand in the content.
            close = "reason\n</think>\n\n" + last["content"]
            opened = traits.writes_open
            wanted = [*messages[:-1], {**last, "content": close if opened else "<think>\n" + close}]
            messages = [*messages[:-1], {**last, "reasoning_content": "reason"}]
        elif traits.writes_open:
            continue
        taken += _check(tokenizer, messages, tools, thinking, wanted)
    assert taken > 4


def released() -> PreTrainedTokenizerFast:
    return tokenizer_with(_KIND, eos="<SPECIAL_12>")


_CALL = {"type": "function", "function": {"name": "get", "arguments": '{"city": "Lyon"}'}}


def test_a_reply_to_the_released_kind_carries_trace_calls_and_its_end() -> None:
    tokenizer = released()
    reply = {"role": "assistant", "content": " ", "reasoning": "hm", "tool_calls": [_CALL]}
    messages = [{"role": "user", "content": " q "}, reply]
    done = render(messages, [schema("get")], tokenizer=tokenizer)
    assert "These functions are at hand" in done.text
    assert done.text.endswith(
        "User\nq\n<SPECIAL_11>Assistant\n<think>\nhm\n</think>\n\n"
        '<TOOLCALL>[{"name": "get", "arguments": {"city": "Lyon"}}]</TOOLCALL>\n<SPECIAL_12>\n'
    )
    trained = [i for i, m in zip(done.input_ids, done.loss_mask, strict=True) if m]
    assert tokenizer.decode(trained).startswith("hm\n</think>")
    assert trained[-1] == stop_ids(tokenizer)[0] == tokenizer.convert_tokens_to_ids("<SPECIAL_12>")


def test_reasoning_off_reaches_a_template_that_reads_words_only() -> None:
    tokenizer = released()
    ask = [{"role": "user", "content": "q"}]
    assert opens_trace(prompt_ids(ask, tokenizer=tokenizer), tokenizer)
    off = prompt_ids(ask, thinking=False, tokenizer=tokenizer)
    assert tokenizer.decode(off).endswith("<SPECIAL_11>Assistant\n<think></think>")
    # An answer without a trace closes the trace that the prompt opened.
    done = render([*ask, {"role": "assistant", "content": "a"}], tokenizer=tokenizer)
    assert done.text.endswith("<think>\n</think>\n\na\n<SPECIAL_12>\n")


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
@pytest.mark.parametrize("name", ["qwen3", "deepseekv3", "released kind"])
def test_no_arguments_is_a_call_without_arguments(name: str, arguments: Any) -> None:
    tokenizer = tokenizer_with(TEMPLATES[name])
    call = {"type": "function", "function": {"name": "now", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    text = render(messages, [schema("now")], tokenizer=tokenizer).text
    assert "now" in text and "{}" in text and "None" not in text and '"{}"' not in text


def test_the_end_is_the_templates_own() -> None:
    tokenizer = tokenizer_with(TEMPLATES["qwen3"], eos="<eos>")
    done = render(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        tokenizer=tokenizer,
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    trained = [i for i, m in zip(done.input_ids, done.loss_mask, strict=True) if m]
    assert trained[-1] == end and stop_ids(tokenizer) == (end, tokenizer.eos_token_id)
