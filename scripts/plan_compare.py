"""plan.py --compare: what a card serves of one model and of another. Imports no torch."""

import argparse
import re
from typing import TYPE_CHECKING

from model.decoder import PUBLISHED, configuration, described
from model.estimate import HARDWARE
from model.presets import PRESETS, shape
from model.serving import PAPER_LOADS, Assumed, Load, compare, with_shares
from model.sizes import Shape
from workbench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from workbench.recipe import Recipe

_LOAD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


def compared(args: argparse.Namespace, recipe: "Recipe | None") -> list[str]:
    """The table of two models; of one name the recipe's model is the other. Raises: UserError."""
    names = [name.strip() for name in args.compare.split(",")]
    if len(names) == 1 and recipe is not None:
        shapes = [_trained(recipe), named(names[0])]
        names = [recipe.name, names[0]]
    elif len(names) == 2:
        shapes = [named(name) for name in names]
    else:
        raise UserError(
            f"--compare {args.compare!r}: give MODEL beside --recipe, or two as ONE,OTHER (presets, "
            f"{', '.join(PUBLISHED)}, folders or hub ids)"
        )
    card = args.hardware or "a10g"
    if card not in HARDWARE:
        raise unknown_name("hardware", card, HARDWARE)
    assumed = with_shares(Assumed(), mbu=args.mbu, mfu=args.mfu)
    one, other = shapes
    return compare(
        (names[0], names[1]), (one, other), HARDWARE[card], loads_of(args.tokens), assumed
    )


def named(name: str) -> Shape:
    """The shape of a preset, of a published peer, or of a folder's or a hub id's configuration."""
    if name in PRESETS:
        return shape(name)
    return PUBLISHED.get(name) or described(configuration(name))


def loads_of(text: str | None) -> tuple[Load, ...]:
    """ "1024/8192,8192/16384" -> loads; nothing -> the paper's. Raises: UserError."""
    if not text:
        return PAPER_LOADS
    found = [_LOAD.fullmatch(part.strip()) for part in text.split(",")]
    if None in found:
        raise UserError(
            f"--tokens {text!r}: write PROMPT/REPLY in tokens, e.g. 1024/8192,8192/16384"
        )
    return tuple(Load(int(load[1]), int(load[2])) for load in found if load is not None)


def _trained(recipe: "Recipe") -> Shape:
    """That of the model that the recipe ends with."""
    from pretrain.compress.target import stage_shape
    from workbench import registry
    from workbench.graph.dag import order

    made = [
        name for name in order(recipe, ["all"])
        if "checkpoint" in registry.kind(recipe.stages[name].kind).makes
        and recipe.stages[name].kind != "reward_model"
    ]  # fmt: skip
    if not made:
        raise UserError(
            f"recipe {recipe.name!r} makes no model; give two names: --compare ONE,OTHER"
        )
    return stage_shape(recipe, made[-1])
