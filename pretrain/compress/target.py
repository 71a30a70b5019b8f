"""The shape of a model on disk, and whether a target can be cut out of it. Imports no torch."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from model.presets import LAYER_KINDS, PRESETS, RELEASED, HybridShape, shape
from model.sizes import Shape
from pretrain.compress.config import PruneConfig, TargetConfig
from pretrain.compress.fitting import candidates
from pretrain.convert.plan import origin_shape
from workbench.errors import UserError
from workbench.recipe import Recipe

# Key of a target -> field of a shape.
WIDTHS = {
    "hidden_size": "hidden_size",
    "ffn": "intermediate_size",
    "mamba_heads": "mamba_num_heads",
    "mamba_head_dim": "mamba_head_dim",
}
_SAME = ("layer_norm_epsilon", "initializer_range", "max_position_embeddings", "conv_kernel",
         "chunk_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
         "n_groups", "ssm_state_size", "hidden_size", "intermediate_size", "mamba_num_heads",
         "mamba_head_dim")  # fmt: skip


def shape_of(config: Any) -> HybridShape:
    """The shape of a transformers configuration. Raises: UserError where it is not a dense hybrid."""
    kinds = getattr(config, "layers_block_type", None)
    if getattr(config, "model_type", "") != "nemotron_h" or kinds is None:
        raise UserError(
            f"pruning takes NemotronH hybrids; this model is {getattr(config, 'model_type', '?')!r}"
        )
    # How experts are cut, the paper does not say.
    letters = {word: letter for letter, word in LAYER_KINDS.items() if letter != "E"}
    if other := sorted(set(kinds) - set(letters)):
        raise UserError(
            f"pruning knows layers of kind {', '.join(letters)}; this model has {', '.join(other)}"
        )
    fields = {name: getattr(config, name) for name in _SAME}
    return HybridShape(pattern="".join(letters[kind] for kind in kinds), **fields)


def check_target(target: TargetConfig, s: HybridShape, removable: Sequence[str]) -> None:
    """Raises: UserError, one line, where the target cannot be cut out of this shape."""
    have = {key: getattr(s, field) for key, field in WIDTHS.items()} | {"layers": len(s.pattern)}
    for key, most in have.items():
        wanted = getattr(target, key)
        if wanted is not None and wanted > most:
            raise UserError(
                f"target.{key} {wanted:,} is more than the model has ({most:,}); give 1 to {most:,}"
            )
    fixed = sum(letter not in removable for letter in s.pattern)
    if target.layers is not None and target.layers < max(fixed, 1):
        raise UserError(
            f"target.layers {target.layers} is fewer than the {fixed} layers that stay: of "
            f"{s.pattern!r} only kinds {', '.join(removable)} are removable; give {max(fixed, 1)} to "
            f"{len(s.pattern)}, or more kinds in removable"
        )
    if target.mamba_heads is not None and target.mamba_heads % s.n_groups:
        raise UserError(
            f"target.mamba_heads {target.mamba_heads} is not a multiple of the {s.n_groups} groups, "
            f"which all keep the same number; give {s.n_groups}, {2 * s.n_groups}, ... up to "
            f"{s.mamba_num_heads}"
        )


def target_of(config: PruneConfig, s: HybridShape) -> TargetConfig:
    """What a model of this shape is pruned to. Raises: UserError where too few combinations fit."""
    if config.fit is None:
        assert config.target is not None
        return config.target
    found = candidates(s, config.fit.space, config.fit.load)
    if config.fit.rank > len(found):
        raise UserError(
            f"fit.rank {config.fit.rank}: only {len(found)} combinations fit; give 1 to {len(found)}, "
            "or a larger space"
        )
    chosen = found[config.fit.rank - 1].shape
    return TargetConfig(
        hidden_size=chosen.hidden_size, ffn=chosen.intermediate_size,
        mamba_heads=chosen.mamba_num_heads,
    )  # fmt: skip


def narrowed(s: HybridShape, target: TargetConfig, pattern: str | None = None) -> HybridShape:
    """The shape with the target's widths, and with `pattern` where layers went."""
    widths = {
        field: getattr(target, key)
        for key, field in WIDTHS.items()
        if getattr(target, key) is not None
    }
    return dataclasses.replace(s, pattern=pattern or s.pattern, **widths)


def planned_shape(recipe: Recipe, needs: Sequence[str], depth: int = 0) -> HybridShape | None:
    """The shape that the first of `needs` with a model will have, as far as the recipe says.

    None where it does not (most converted checkpoints). Which layers a pruning removes is not known:
    its pattern is one of the right length.
    """
    for need in needs:
        stage: Any = recipe.stages[need]
        if stage.kind == "tokenizer" or depth > len(recipe.stages):
            continue
        if stage.kind == "convert":
            return PRESETS.get(RELEASED.get(getattr(stage.source, "path", ""), ""))
        if stage.kind == "pretrain" and stage.initial == "new":
            return shape(recipe.model.preset, **recipe.model.overrides)
        before = planned_shape(recipe, stage.needs, depth + 1)
        if before is None or not isinstance(stage, PruneConfig):
            return before
        return _after(before, stage)
    return None


def _after(s: HybridShape, config: PruneConfig) -> HybridShape:
    target = target_of(config, s)
    return narrowed(s, target, some_pattern(s, target, config.removable))


def some_pattern(s: HybridShape, target: TargetConfig, removable: Sequence[str]) -> str:
    """A pattern that the pruning could leave."""
    surplus = len(s.pattern) - (target.layers or len(s.pattern))
    letters = list(s.pattern)
    for place in reversed(range(len(letters))):
        if surplus > 0 and letters[place] in removable:
            del letters[place]
            surplus -= 1
    return "".join(letters)


def stage_shape(recipe: Recipe, name: str) -> Shape:
    """The shape of the model that a stage trains or asks, for the plan: the recipe's own, a converted
    checkpoint's, or what pruning leaves. Raises: UserError where it is not to be known."""
    stage: Any = recipe.stages[name]
    if stage.kind == "convert":
        return origin_shape(stage)
    if not (stage.kind == "pretrain" and stage.initial == "new"):
        return parent_shape(recipe, stage.needs)
    return shape(recipe.model.preset, **recipe.model.overrides)


def parent_shape(recipe: Recipe, needs: Sequence[str]) -> Shape:
    """The shape of the model that a stage begins with: of the first of `needs` that leaves one, else the
    recipe's own. Raises: UserError where it is not to be known."""
    for need in needs:
        if recipe.stages[need].kind != "tokenizer":
            return shape_made_by(recipe, need)
    return shape(recipe.model.preset, **recipe.model.overrides)


def shape_made_by(recipe: Recipe, name: str) -> Shape:
    """The shape of the model that a stage leaves; see `stage_shape`."""
    before = stage_shape(recipe, name)
    stage: Any = recipe.stages[name]
    if isinstance(stage, PruneConfig) and isinstance(before, HybridShape):
        return _after(before, stage)
    return before
