"""Recipes that say only what differs: `extends: FILE` for a recipe, `like: STAGE` for a stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import UserError, unknown_name


def extended(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The file's mapping on top of the recipe it extends (a path beside it), and so on upwards.

    Mappings are merged key by key; anything else replaces. A stage that is null is left out, and so is a null
    entry of a stage's `parts`.
    Raises: UserError where files extend each other in a circle, or one leaves out what is not there.
    """
    chain: list[Path] = []
    layers: list[dict[str, Any]] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in chain:
            raise UserError(f"recipe {path}: `extends` leads back to {current}")
        chain.append(current.resolve())
        layer = dict(read(current))
        base = layer.pop("extends", None)
        layers.append(layer)
        current = None if base is None else current.parent / str(base)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        _check_left_out(merged, layer)
        merged = _merge(merged, layer)
    if isinstance(merged.get("stages"), dict) and len(layers) > 1:
        merged["stages"] = {n: _parted(s) for n, s in merged["stages"].items() if s is not None}
    return merged


def _check_left_out(below: dict[str, Any], layer: dict[str, Any]) -> None:
    """Raises: UserError where what a layer leaves out is in none below it: it would stay under its right name."""
    stages, known = layer.get("stages"), below.get("stages")
    if not isinstance(stages, dict) or not isinstance(known, dict):
        return
    for name, stage in stages.items():
        if stage is None and name not in known:
            raise unknown_name("stage that is left out", name, known)
        parts = stage.get("parts") if isinstance(stage, dict) else None
        there = known[name].get("parts") if isinstance(known.get(name), dict) else None
        for part, value in parts.items() if isinstance(parts, dict) else ():
            if value is None and isinstance(there, dict) and part not in there:
                raise unknown_name(f"part that stages.{name} leaves out", part, there)


def _parted(stage: Any) -> Any:
    """Without the parts that a recipe takes out of the one that it extends."""
    parts = stage.get("parts") if isinstance(stage, dict) else None
    if not isinstance(parts, dict):
        return stage
    return stage | {"parts": {name: part for name, part in parts.items() if part is not None}}


def _merge(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    return {**base, **{k: _merge(base[k], v) if k in base else v for k, v in top.items()}}


def with_likes(stages: dict[str, Any]) -> dict[str, Any]:
    """Every stage whole: one that has `like: OTHER` starts from the keys of that stage.

    The keys it has itself replace the other's. Raises: UserError on an unknown stage or a circle.
    """
    return {name: _whole(stages, name, ()) for name in stages}


def _whole(stages: dict[str, Any], name: str, seen: tuple[str, ...]) -> Any:
    body = stages[name]
    if not isinstance(body, dict) or "like" not in body:
        return body
    other = str(body["like"])
    if other in (name, *seen):
        raise UserError(f"recipe: stages.{name}.like leads back to {other!r}")
    if other not in stages:
        raise unknown_name(f"stage in stages.{name}.like", other, stages)
    own = {key: value for key, value in body.items() if key != "like"}
    return {**_whole(stages, other, (*seen, name)), **own}
