"""Text that models and data wrote, made harmless to look at. (Escaping HTML is the template's.)"""

import re

# Characters that change the page around them or cannot be encoded: C0 and C1 controls but newline
# and tab, direction overrides and isolates, lone surrogates, and what Unicode calls noncharacters.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Write harmful characters as their code points; all else stays as it is.

    >>> clean("a\\x1b[31m\\r\\n\\u202eb")
    'a⟨1B⟩[31m\\n⟨202E⟩b'
    """
    return _HARMFUL.sub(lambda found: f"⟨{ord(found[0]):02X}⟩", text.replace("\r\n", "\n"))


def shortened(text: str, limit: int = 3000) -> str:
    """The text, or its beginning and how much more there is."""
    rest = len(text) - limit
    return text if rest <= 0 else f"{text[:limit]} … ({rest:,} more characters)"
