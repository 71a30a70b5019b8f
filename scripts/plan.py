"""What a recipe costs, stage by stage: parameters, memory a GPU, tokens, FLOPs, time.

    python scripts/plan.py --recipe recipes/nano2-12b.yaml
    python scripts/plan.py --recipe recipes/nano2-12b.yaml --hardware h200 --mfu 0.4 --json
    python scripts/plan.py --recipe recipes/nano2-12b.yaml --set stages.sft1.distributed.workers=128
    python scripts/plan.py --recipe recipes/nano2-12b.yaml --simulate grpo --lost 1e-5
    python scripts/plan.py --compare nano2-9b,qwen3-8b --hardware a10g

Closed formulas (model/cost.py), no model is built and torch is not imported. Times are
estimates at the stated share of peak, printed with the table. Exit codes: 0 done, 2 the user's
mistake.
"""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

try:
    from workbench.command import RECIPE_HELP, SET_HELP, command
    from workbench.errors import UserError, unknown_name
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

if TYPE_CHECKING:
    from workbench.recipe import Recipe


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--recipe", metavar="FILE", help=RECIPE_HELP)
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument("--hardware", metavar="NAME", help="default: h100 for stages on GPUs, cpu")
    parser.add_argument("--mfu", type=float, metavar="SHARE", help="share of the FLOPs in training")
    parser.add_argument(
        "--mbu", type=float, metavar="SHARE", help="share of the bandwidth in decoding"
    )
    parser.add_argument(
        "--network", type=float, metavar="GB", help="GB a second of a card to other machines"
    )
    parser.add_argument(
        "--disk", type=float, metavar="GB", help="GB a second that a machine writes"
    )
    parser.add_argument(
        "--simulate",
        metavar="STAGE",
        help="run a GRPO stage as discrete events on 8 to 1,024 cards",
    )
    parser.add_argument(
        "--replies", metavar="MEAN[,SPREAD]|RUN/STAGE",
        help="reply lengths of --simulate: log-normal, or those of a run; default: a third of max_tokens",
    )  # fmt: skip
    parser.add_argument(
        "--fitted", metavar="RUN/STAGE[,...]",
        help="with --simulate: parts measured by finished stages, and the stage as it is written",
    )  # fmt: skip
    parser.add_argument(
        "--lost", type=float, default=0.0, metavar="RATE", help="cards lost an hour and card"
    )
    parser.add_argument(
        "--compare", metavar="MODEL[,OTHER]",
        help="what a card serves of the recipe's model, or of OTHER, and of MODEL: the paper's Figure 1",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", metavar="PROMPT/REPLY,...", help="with --compare; default: the paper's"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    """Price, print."""
    from scripts.plan_text import lines
    from workbench.recipe import load  # after parsing: --help needs no third-party package

    recipe = load(args.recipe, args.overrides) if args.recipe else None
    if args.compare:
        from scripts.plan_compare import compared

        print("\n".join(compared(args, recipe)))
        return 0
    if recipe is None:
        raise UserError("nothing to plan: give --recipe FILE, or --compare ONE,OTHER")
    if args.simulate:
        from scripts.plan_simulate import simulated, simulated_lines

        found = simulated(recipe, args, hardware_of(args, recipe))
        print(json.dumps(found, indent=1) if args.json else "\n".join(simulated_lines(found)))
        return 0
    plan = build(recipe, hardware_of(args, recipe))
    print(json.dumps(plan, indent=1) if args.json else "\n".join(lines(plan)))
    return 0


def hardware_of(args: argparse.Namespace, recipe: "Recipe") -> Any:
    """The hardware asked for, with the shares asked for."""
    from model.estimate import HARDWARE

    on_gpus = any(load.gpus for loads in loads_of(recipe).values() for load in loads)
    name = args.hardware or ("h100" if on_gpus else "cpu")
    if name not in HARDWARE:
        raise unknown_name("hardware", name, HARDWARE)
    shares = {key: value for key in ("mfu", "mbu") if (value := getattr(args, key)) is not None}
    for key, value in shares.items():
        if not 0 < value <= 1:
            raise UserError(f"--{key} {value}: it is a share of the peak; give 0 < share <= 1")
    speeds = {
        key: value for key in ("network", "disk") if (value := getattr(args, key)) is not None
    }
    for key, value in speeds.items():
        if not value > 0:
            raise UserError(f"--{key} {value}: give GB a second, above 0")
    rates = {key: value * 1e9 for key, value in speeds.items()}
    return dataclasses.replace(HARDWARE[name], **shares, **rates)


def loads_of(recipe: "Recipe") -> dict[str, tuple[Any, ...]]:
    """What each stage trains and generates, in order."""
    from workbench import registry
    from workbench.graph.dag import order

    loads: dict[str, tuple[Any, ...]] = {}
    for name in order(recipe, ["all"]):
        plan = registry.resolve(registry.kind(recipe.stages[name].kind).plan)
        found = plan(recipe.stages[name], recipe).loads
        loads[name] = tuple(_counted(recipe, name, load) for load in found)
    return loads


def _data(recipe: "Recipe", name: str) -> tuple[Any, ...]:
    from workbench import registry

    plan = registry.resolve(registry.kind(recipe.stages[name].kind).plan)
    found: tuple[Any, ...] = plan(recipe.stages[name], recipe).data
    return found


def _counted(recipe: "Recipe", name: str, load: Any) -> Any:
    """With the tokens that the recipe's run counted, where it has finished this very stage."""
    from sft.results import TrainingSet
    from workbench.graph.dag import config_digest
    from workbench.results import read_outputs
    from workbench.rundir import RunDir

    config: Any = recipe.stages[name]
    if config.kind != "sft" or not load.bound:
        return load
    run, _ = RunDir.of(recipe.runs_dir, recipe.name)
    manifest = run.manifest(name)
    if manifest is None or manifest.status != "done":
        return load
    if manifest.config_digest != config_digest(recipe, name):
        return load
    data = read_outputs(manifest.kind, manifest.outputs)[0].data
    if not isinstance(data, TrainingSet):
        return load
    tokens, samples = sum(data.tokens.values()), sum(data.samples.values())
    mean = round(tokens / samples)
    counted = round(tokens * config.epochs)
    return dataclasses.replace(load, tokens=counted, document_tokens=mean, bound=False)


def build(recipe: "Recipe", hardware: Any) -> dict[str, Any]:
    """The whole plan as JSON-able figures."""
    from model.cost import parameters_by_kind
    from model.presets import shape
    from model.sizes import kv_cache_bytes, parameters, state_bytes

    loads = loads_of(recipe)
    shapes = {name: shape_of(recipe, name) for name in loads}
    known = [shapes[name] for name, found in loads.items() if found]
    s = next((one for one in known if not isinstance(one, str)), None)
    if not known:
        s = shape(recipe.model.preset, **recipe.model.overrides)
    return {
        "recipe": recipe.name,
        "model": s
        and {
            "preset": getattr(s, "family", recipe.model.preset),
            "parameters": parameters(s),
            "by_kind": parameters_by_kind(s)._asdict(),
            "layers": layers_of(s),
            "kv_bytes_a_token": kv_cache_bytes(s, 1),
            "state_bytes_a_sequence": state_bytes(s),
        },
        "hardware": dataclasses.asdict(hardware),
        "stages": {
            name: {
                **_stage(recipe, name, shapes[name], found, hardware),
                "data": [
                    {"type": type(one).__name__, **dataclasses.asdict(one)}
                    for one in _data(recipe, name)
                ],
            }
            for name, found in loads.items()
        },
    }


def shape_of(recipe: "Recipe", name: str) -> Any:
    """The shape of the stage's model, or why it is not known."""
    from pretrain.compress.target import stage_shape

    try:
        return stage_shape(recipe, name)
    except UserError as error:
        return str(error)


def layers_of(s: Any) -> dict[str, int]:
    """Layers by kind: a hybrid's letters, or a Transformer's family."""
    if hasattr(s, "pattern"):
        return {kind: s.pattern.count(kind) for kind in "M-*E" if kind != "E" or "E" in s.pattern}
    return {s.family: s.layers}


def _stage(
    recipe: "Recipe", name: str, s: Any, loads: tuple[Any, ...], hardware: Any
) -> dict[str, Any]:
    from model.estimate import price
    from model.room import fits
    from scripts.plan_room import seated_on
    from workbench.placement import Node, settle, takes_turns

    config: Any = recipe.stages[name]
    if isinstance(s, str):
        return {"kind": config.kind, "loads": [], "unknown": s if loads else ""}
    frozen = [beside_of(recipe, load) for load in loads]
    unknown = next((one for found in frozen for one, _ in found if isinstance(one, str)), "")
    if unknown:
        return {"kind": config.kind, "loads": [], "unknown": unknown}
    there = Node(64.0, 0 if hardware.card is None else hardware.cards)
    turns = takes_turns(settle(recipe, [there]).stages[name])
    return {
        "kind": config.kind,
        "loads": [
            price(s, load, hardware, of, turns=turns)
            for load, of in zip(loads, frozen, strict=True)
        ],
        "cards": fits(seated_on(settle(recipe, [Node(64.0, 1)]).stages[name], s, loads, frozen)),
    }


def beside_of(recipe: "Recipe", load: Any) -> list[tuple[Any, Any]]:
    """The models that lie beside the trained one, with their shapes."""
    return [(made_shape(recipe, how.stage), how) for how in getattr(load, "beside", ())]


def made_shape(recipe: "Recipe", name: str) -> Any:
    """The shape of the model that a stage makes, or why it is not known."""
    from pretrain.compress.target import shape_made_by

    try:
        return shape_made_by(recipe, name)
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
