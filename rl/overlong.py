"""DAPO's soft penalty for long replies (arXiv 2503.14476, eq. 13)."""


def overlong_penalty(
    num_tokens: int, *, max_tokens: int, buffer_tokens: int, penalty: float
) -> float:
    """0 up to max_tokens - buffer_tokens, then falling linearly to -penalty at max_tokens.

    >>> overlong_penalty(90, max_tokens=100, buffer_tokens=20, penalty=1.0)
    -0.5
    """
    over = num_tokens - (max_tokens - buffer_tokens)
    return -penalty * min(max(over, 0) / buffer_tokens, 1.0) + 0.0
