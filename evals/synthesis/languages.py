"""Whether a text is in the language that was asked for."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from workbench.errors import UserError

# The paper's fifteen and English.
LANGUAGES = (
    "en", "ar", "zh", "da", "nl", "fr", "de", "it", "ja", "ko", "pl", "pt", "ru", "es", "sv", "th",
)  # fmt: skip


@cache
def _identifier(languages: tuple[str, ...]) -> Any:
    try:
        from py3langid.langid import (  # noqa: PLC0415 - a second, and few stages ask
            MODEL_FILE,
            LanguageIdentifier,
        )
    except ImportError:
        raise UserError(
            "telling languages needs the package py3langid, which is not installed; run `make setup`"
        ) from None
    made = LanguageIdentifier.from_model_file(MODEL_FILE)
    made.set_languages(list(languages))
    return made


def language_of(text: str, among: Sequence[str] = LANGUAGES) -> str:
    """ISO 639-1 code of the likeliest of these languages."""
    return str(_identifier(tuple(sorted({*among, *LANGUAGES}))).classify(text)[0])


def language_gate(text: str, wanted: str) -> str:
    """ "" where the text is in the wanted language; else the reason of a removal."""
    found = language_of(text, (wanted,))
    return "" if found == wanted else "another language"
