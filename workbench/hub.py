"""The Hugging Face hub: whether it answers, asked once and quickly."""

import os

from workbench.errors import UserError

_PATIENCE_S = 10.0


def must_answer(what: str, instead: str) -> None:
    """Raise UserError, naming `what`, unless the hub answers within seconds.

    Its clients retry for half a minute a file. Any HTTP status is an answer; proxies and HF_ENDPOINT
    are honoured. With HF_HUB_OFFLINE set nothing is asked: the local cache decides.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - only hub sources need it

    if constants.HF_HUB_OFFLINE:
        return
    import requests  # noqa: PLC0415 - see above

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    try:
        requests.head(endpoint, timeout=_PATIENCE_S, allow_redirects=False)
    except requests.RequestException as error:
        reason = type(error).__name__
        raise UserError(
            f"{what} cannot be opened: {endpoint} does not answer ({reason}); check the network, "
            f"or {instead}"
        ) from None
