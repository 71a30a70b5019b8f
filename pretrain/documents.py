"""Tokenized documents from a blend: plain text as it is, conversations in the chat format."""

from collections.abc import Sequence
from typing import Any

from data_mix.config import BlendConfig
from data_mix.documents import Document, trainable
from data_mix.mixing import Mixer
from data_mix.shards import characters
from model.held_out import Sample
from pretrain.config import RowsValidation
from workbench.chat import render
from workbench.chat.tokens import encoder_of
from workbench.conversation import Conversation
from workbench.errors import UserError

_END = "</s>"


class BlendDocuments:
    """A `DocumentSource` over a weighted, phased blend; weights are shares of tokens."""

    def __init__(self, blend: BlendConfig, tokenizer: Any, seed: int) -> None:
        if _END not in tokenizer.get_vocab():
            raise UserError(f"the tokenizer lacks {_END}, which ends a document; add it to it")
        self.tokenizer = tokenizer
        self.mixer = Mixer(blend, tokenize=self._tokenize, seed=seed)

    def draw(self, progress: float) -> Sequence[int]:
        """The next document of the phase at `progress`; text ends with </s>."""
        return self.mixer.draw(progress)

    def _tokenize(self, given: Document) -> list[int]:
        document = trainable(given)
        if isinstance(document, Conversation):
            rendered = render(
                document.messages,
                tools=document.tools,
                thinking=document.thinking,
                tokenizer=self.tokenizer,
            )
            return list(rendered.input_ids)
        # A page that spells a special token is ordinary text. A lone surrogate is none, and no reason to end a
        # training that is days old.
        (ids,) = encoder_of(self.tokenizer).runs([characters(document)])
        return [*ids, self.tokenizer.convert_tokens_to_ids(_END)]

    def accounting(self) -> dict[str, Any]:
        """Samples and tokens drawn, by phase and source."""
        return self.mixer.accounting()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        return self.mixer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.mixer.load_state_dict(state)


def other_documents(
    wanted: RowsValidation, tokenizer: Any, row_tokens: int, seed: int
) -> list[Sample]:
    """The documents of a validation, cut to a row, with the labels of pretraining: each token but the first.

    Raises: UserError where the blend gives fewer different ones.
    """
    drawn = BlendDocuments(wanted.blend, tokenizer, seed)
    found: dict[tuple[int, ...], None] = {}
    for number in range(_DRAWS * wanted.documents):
        ids = tuple(drawn.draw(number / _DRAWS / wanted.documents))[:row_tokens]
        if len(ids) > 1:
            found[ids] = None
    chosen = list(found)[:: max(len(found) // wanted.documents, 1)][: wanted.documents]
    if len(chosen) < wanted.documents:
        raise UserError(
            f"validation: its blend gives {len(found)} different documents of two tokens or more, and "
            f"{wanted.documents} are asked for; lower validation.documents or add sources"
        )
    return [(list(ids), [-100, *ids[1:]]) for ids in chosen]


_DRAWS = 4  # draws a document: small sources repeat themselves
