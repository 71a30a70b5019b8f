"""The Hugging Face hub: whether it answers, and at which commit a name stands; asked once and quickly."""

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Literal

from workbench.errors import UserError, one_line

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


def newest_commit(kind: Literal["model", "dataset"], name: str) -> str | None:
    """The newest commit of a model or a data set, asked of the hub or, offline, of its cache.

    None where neither says it: what opens the name then says what is wrong with it.
    """
    from huggingface_hub import HfApi, constants  # noqa: PLC0415 - only for names on the hub
    from huggingface_hub.file_download import repo_folder_name  # noqa: PLC0415 - same

    if constants.HF_HUB_OFFLINE:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
        newest = folder / "refs" / "main"
        return newest.read_text(encoding="utf-8").strip() if newest.is_file() else None
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        found = api.repo_info(name, repo_type=kind, timeout=_PATIENCE_S)
    except Exception:  # noqa: BLE001 - of many kinds, by client and transport
        return None
    return str(found.sha) if found.sha else None


# Weights in other forms that repositories hold beside those that we read.
NOT_OURS = ["*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]


def folder_of(place: str) -> Path | None:
    """The folder with config.json of a stage's or a checkpoint's folder; None where there is none."""
    path = Path(place).expanduser()
    return next((f for f in (path / "model", path) if (f / "config.json").is_file()), None)


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model of the hub in the local cache; None where it is not whole there."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for names on the hub

    try:
        found = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    whole = (found / "config.json").is_file() and any(found.glob("*.safetensors"))
    return found if whole else None


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of a model of the hub, from the local cache or the hub. Raises: UserError."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for names on the hub

    if (found := cached(name, revision)) is not None:
        return found
    what, instead = f"model {name!r}", "download it and give its folder"
    must_answer(what, instead)
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_OURS))
    except (OSError, ValueError) as error:  # the hub's own errors are among them
        raise UserError(f"{what} cannot be read ({one_line(error)[:200]}); {instead}") from None


def configuration_file(name: str, revision: str | None = None) -> Path:
    """config.json of a model of the hub, some kilobytes: from the local cache, or fetched into it.

    Raises: UserError with the command that fetches it, where the hub does not give it within seconds.
    """
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only for names on the hub

    try:
        found = try_to_load_from_cache(name, _CONFIG, revision=revision)
    except ValueError:
        raise UserError(
            f"{name!r} is not a folder with a {_CONFIG}, and no hub id ORG/NAME: nothing can be planned from it"
        ) from None
    if isinstance(found, str):
        return Path(found)
    answer = _configuration_asked(name, revision, int(time.monotonic() // _ASK_AGAIN_S))
    if isinstance(answer, UserError):
        raise answer
    return answer


_CONFIG = "config.json"
_ASK_AGAIN_S = (
    60  # a recipe's stages ask one after the other, and a hub that is silent is waited for
)


@lru_cache
def _configuration_asked(name: str, revision: str | None, when: int) -> Path | UserError:
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415 - see above

    pinned = f" --revision {revision}" if revision else ""
    instead = f"where there is a network: hf download {name} {_CONFIG}{pinned}, or give its folder"
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{_CONFIG} of {name!r} is not in the local cache, and HF_HUB_OFFLINE is set; {instead}"
        )
    try:
        must_answer(f"{_CONFIG} of {name!r}", instead)
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(
            hf_hub_download(
                name, _CONFIG, revision=revision, endpoint=endpoint, etag_timeout=_PATIENCE_S
            )
        )
    except UserError as error:
        return error
    except (OSError, ValueError) as error:  # the hub's own errors are among them
        return UserError(
            f"{_CONFIG} of {name!r} cannot be read ({one_line(error)[:200]}); {instead}"
        )
