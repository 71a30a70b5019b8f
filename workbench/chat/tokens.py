"""Which format a tokenizer speaks, and encoding in which nothing but the format is special."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from workbench.chat import template as t
from workbench.chat.traits import traits_of
from workbench.errors import UserError

# The format's own runs (`Assistant\n<think>\n`, `</think>`, ...) come again in every conversation.
_SHORT, _MOST_KNOWN = 20, 1024

Format = Literal["nano-v2", "template"]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer's text runs and special ids. `special` maps SPECIAL_TOKENS to ids, if it has them."""

    plain: Any
    special: dict[str, int]
    size: int
    known: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def runs(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text on its own; text that spells a special token is ordinary text."""
        fresh = [text for text in texts if text not in self.known]
        try:
            done = self.plain.encode_batch_fast(fresh, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise UserError(f"there is text that is not Unicode: {error}") from None
        found = {text: encoding.ids for text, encoding in zip(fresh, done, strict=True)}
        if len(self.known) < _MOST_KNOWN:
            self.known.update((text, ids) for text, ids in found.items() if len(text) <= _SHORT)
        return [found[text] if text in found else self.known[text] for text in texts]

    def starting_before(self, text: str, length: int) -> int:
        """How many ids of one run begin in its first `length` characters."""
        done = self.plain.encode(text, add_special_tokens=False)
        return sum(start < length for start, _ in done.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one run."""
        text: str = self.plain.decode(list(ids), skip_special_tokens=False)
        return text


_ENCODERS: WeakKeyDictionary[Any, Encoder] = WeakKeyDictionary()


def encoder_of(tokenizer: Any) -> Encoder:
    """The tokenizer's encoder, made once. Raises: UserError where it is not a fast tokenizer."""
    known = _ENCODERS.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _ENCODERS[tokenizer] = _make_encoder(tokenizer)
    return known


def _make_encoder(tokenizer: Any) -> Encoder:
    from tokenizers import Tokenizer  # noqa: PLC0415 - configuration may import the chat texts

    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; convert it to tokenizer.json"
        )
    # A copy, because "special tokens are text" is a switch on the whole tokenizer, not on a call.
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    plain.no_padding()
    plain.no_truncation()
    added = tokenizer.get_added_vocab()
    special = {token: added[token] for token in t.SPECIAL_TOKENS if token in added}
    return Encoder(plain, special, len(tokenizer))


def format_of(tokenizer: Any) -> Format:
    """nano-v2 where the tokenizer brings our template, or our tokens and no template at all.

    Any other template is the checkpoint's own and wins, whatever tokens its vocabulary has. Raises:
    UserError where the tokens that the format needs are missing, or there is no template.
    """
    template, special = tokenizer.chat_template, encoder_of(tokenizer).special
    missing = [token for token in t.SPECIAL_TOKENS if token not in special]
    ours = not template or template == t.chat_template()
    if not missing:
        return "nano-v2" if ours else "template"
    if (ours and (special or template)) or any(token in str(template) for token in missing):
        raise UserError(
            f"the tokenizer lacks {', '.join(missing)}, which its chat format needs; add them as "
            "special tokens"
        )
    if not template:
        raise UserError(
            f"the tokenizer has neither {', '.join(missing)} nor a chat template of its own; add the "
            "tokens or a template"
        )
    return "template"


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a reply: those with which the template ends a turn, and the tokenizer's eos."""
    if format_of(tokenizer) == "nano-v2":
        return (encoder_of(tokenizer).special[t.END],)
    ends = traits_of(tokenizer).ends
    if not ends:
        raise UserError("the tokenizer has no eos token; set the one that ends a reply")
    return ends
