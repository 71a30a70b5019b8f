"""The shapes in signatures (jaxtyping) are checked in every call that a test makes, by beartype."""

import importlib.util

import pytest

CHECKED = ["model.logprobs", "rl.loss", "rl.update"]


def check_shapes() -> None:
    """Of these modules, where they are imported afterwards. Raises: UsageError without the checker."""
    if any(importlib.util.find_spec(name) is None for name in ("jaxtyping", "beartype")):
        raise pytest.UsageError(
            "jaxtyping and beartype are not installed; run `make setup`, or python -m pip install "
            "--no-deps -r requirements/cpu.txt -r requirements/dev.txt"
        )
    from jaxtyping import install_import_hook

    install_import_hook(CHECKED, "beartype.beartype")
