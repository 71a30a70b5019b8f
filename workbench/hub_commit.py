"""The commit at which a name on the Hugging Face hub stands."""

import os
from pathlib import Path
from typing import Literal

_PATIENCE_S = 10.0


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
