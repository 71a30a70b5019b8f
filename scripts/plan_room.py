"""Whether a recipe's loads fit the cards of this machine: asked before anything of it is loaded."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.room import Seated
    from workbench.recipe import Recipe, StageConfig


def seated_on(
    config: "StageConfig", s: Any, loads: Sequence[Any], frozen: Sequence[Any]
) -> "Seated":
    """The loads of a settled stage with the shares of a card that they get."""
    from model.room import Seated
    from workbench.placement import memory_shares, to_take_turns

    keys = set(type(config).model_fields)
    return Seated(s, loads, frozen, memory_shares(config), keys, to_take_turns(config))


def check_memory(recipe: "Recipe", stages: Collection[str]) -> None:
    """Of the stages that will run on this machine. A recipe whose cards are only declared is not judged, nor one of
    a cluster that is still to be joined: see `check_cards`.

    Raises: UserError, one line, where a load needs more of its card than it gets.
    """
    from workbench.placement import local_memory, local_nodes, settle

    nodes, cards = local_nodes(recipe.cluster), local_memory()
    if nodes is None or not cards or not nodes[0].cards or recipe.cluster.num_gpus is not None:
        return
    check_cards(settle(recipe, nodes), stages, cards)


def check_cards(recipe: "Recipe", stages: Collection[str], cards: Collection[float]) -> None:
    """Of a settled recipe's stages on the smallest of some cards, of so many bytes each. A model whose size is not
    known is not judged, nor is anything where no card is known.

    Raises: UserError, one line, where a load needs more of its card than it gets.
    """
    from model.room import check
    from scripts.plan import beside_of, loads_of, shape_of

    if not cards:
        return
    for name, loads in loads_of(recipe).items():
        on_card = tuple(load for load in loads if load.gpus)
        shape = shape_of(recipe, name) if name in stages and on_card else ""
        frozen = [beside_of(recipe, load) for load in on_card]
        known = not isinstance(shape, str) and all(
            not isinstance(of, str) for beside in frozen for of, _ in beside
        )
        if known:
            check(name, seated_on(recipe.stages[name], shape, on_card, frozen), min(cards))
