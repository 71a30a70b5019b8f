"""What a recipe costs, stage by stage: parameters, memory a GPU, tokens, FLOPs, time.

    python scripts/plan.py --recipe recipes/nano2-12b.yaml
    python scripts/plan.py --recipe recipes/nano2-12b.yaml --hardware h200 --mfu 0.4 --json
    python scripts/plan.py --recipe recipes/nano2-12b.yaml --set stages.sft1.distributed.workers=128

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
    parser.add_argument("--recipe", required=True, metavar="FILE", help=RECIPE_HELP)
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument("--hardware", metavar="NAME", help="default: h100 for stages on GPUs, cpu")
    parser.add_argument("--mfu", type=float, metavar="SHARE", help="share of the FLOPs in training")
    parser.add_argument(
        "--mbu", type=float, metavar="SHARE", help="share of the bandwidth in decoding"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    """Price, print."""
    from workbench.recipe import load  # after parsing: --help needs no third-party package

    recipe = load(args.recipe, args.overrides)
    plan = build(recipe, hardware_of(args, recipe))
    print(json.dumps(plan, indent=1) if args.json else "\n".join(lines(plan)))
    return 0


def hardware_of(args: argparse.Namespace, recipe: "Recipe") -> Any:
    """The hardware asked for, with the shares asked for."""
    from model.estimate import HARDWARE

    on_gpus = any(load.gpus for loads in _loads(recipe).values() for load in loads)
    name = args.hardware or ("h100" if on_gpus else "cpu")
    if name not in HARDWARE:
        raise unknown_name("hardware", name, HARDWARE)
    shares = {key: value for key in ("mfu", "mbu") if (value := getattr(args, key)) is not None}
    for key, value in shares.items():
        if not 0 < value <= 1:
            raise UserError(f"--{key} {value}: it is a share of the peak; give 0 < share <= 1")
    return dataclasses.replace(HARDWARE[name], **shares)


def _loads(recipe: "Recipe") -> dict[str, tuple[Any, ...]]:
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

    loads = _loads(recipe)
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
                **_stage(recipe.stages[name], shapes[name], found, hardware),
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


def _stage(config: Any, s: Any, loads: tuple[Any, ...], hardware: Any) -> dict[str, Any]:
    from model.estimate import fits, price

    if isinstance(s, str):
        return {"kind": config.kind, "loads": [], "unknown": s if loads else ""}
    return {
        "kind": config.kind,
        "loads": [price(s, load, hardware) for load in loads],
        "cards": fits(s, loads, set(type(config).model_fields)),
    }


def lines(plan: dict[str, Any]) -> list[str]:
    """The plan as aligned text."""
    model, hardware = plan["model"], plan["hardware"]
    return [*_about(plan["recipe"], model), _assumed(hardware), "", *_table(plan)]


def _about(recipe: str, model: dict[str, Any] | None) -> list[str]:
    if model is None:
        return [f"{recipe}: the model's size is not known"]
    kinds = ", ".join(f"{k} {v / 1e6:,.2f}M" for k, v in model["by_kind"].items())
    pattern = ", ".join(f"{n} {kind}" for kind, n in model["layers"].items())
    return [
        f"{recipe}: {model['parameters']:,} parameters ({model['preset']}; layers: {pattern})",
        f"  by kind: {kinds}",
        f"  bf16 cache: {model['kv_bytes_a_token']:,} bytes a token of KV, "
        f"{model['state_bytes_a_sequence'] / 2**20:,.2f} MiB a sequence of Mamba state",
    ]


def _assumed(hardware: dict[str, Any]) -> str:
    return (
        f"  on {hardware['name']}: {hardware['flops'] / 1e12:,.1f} TFLOP/s at mfu {hardware['mfu']:g}, "
        f"{hardware['bandwidth'] / 1e12:,.2f} TB/s at mbu {hardware['mbu']:g}, "
        f"{hardware['memory'] / 2**30:,.1f} GiB; shares are assumptions, not measurements"
    )


def _table(plan: dict[str, Any]) -> list[str]:
    out: list[str] = []
    rows: list[tuple[str, ...]] = [_HEAD]
    for name, stage in plan["stages"].items():
        if stage["data"] and not stage["loads"]:
            continue
        rows += [_row(name, load) for load in stage["loads"]] or [(name, "no estimate", *("",) * 9)]
    notes = [f"{n}: {s['unknown']}" for n, s in plan["stages"].items() if s.get("unknown")]
    notes += [f"{n}: {line}" for n, s in plan["stages"].items() if (line := s.get("cards"))]
    if (
        len(rows) == 1 and not notes
    ):  # data alone: nothing is trained or generated on a card of ours
        return _data_lines(plan)[1:]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = [
            c.ljust(w) if n < 3 else c.rjust(w)
            for n, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    out += [
        "",
        "GiB a process, at whole rows. <=: the most it can be; what it will be is not known.",
        _NOTE,
        *_fp8_lines(plan),
        *(["", "one card each, at nine tenths of its memory:", *notes] if notes else []),
    ]
    return [*out, *_data_lines(plan)]


def _fp8_lines(plan: dict[str, Any]) -> list[str]:
    """What is assumed of FP8, or that the hardware has none."""
    loads = [load for stage in plan["stages"].values() for load in stage["loads"]]
    share = max((load["fp8_share"] for load in loads if load["what"] == "training"), default=0.0)
    hardware = plan["hardware"]
    if not share:
        return []
    if hardware["fp8_gain"] is None:
        return [
            f"fp8 (!): {hardware['name']} has no FP8 in blocks of 128 (Hopper has): the stage would be refused; "
            "set precision: bf16"
        ]
    return [
        f"fp8: {share:.0%} of a step's FLOPs are products in FP8, assumed {hardware['fp8_gain']:g} times as fast "
        "as in bf16; gathered weights take a byte (docs/fp8.md)"
    ]


_DATA_HEAD = ("stage", "what", "rows or replies", "prompt tokens", "reply tokens", "core-hours", "disk", "traffic")  # fmt: skip


def _data_lines(plan: dict[str, Any]) -> list[str]:
    """What data stages compute, ask and move, and the sums."""
    found = [(name, one) for name, stage in plan["stages"].items() for one in stage["data"]]
    if not found:
        return []
    rows = [_DATA_HEAD, *(_data_row(name, one) for name, one in found)]
    keys = ("prompt_tokens", "reply_tokens", "core_seconds", "disk_bytes", "traffic_bytes")
    sums = {key: sum(one.get(key) or 0 for _, one in found) for key in keys}
    rows.append(_data_row("in all", {**sums, "what": "", "rows": 0, "bound": True}))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_DATA_HEAD))]
    lines = [
        "  ".join(
            c.ljust(w) if n < 2 else c.rjust(w)
            for n, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return ["", *lines, "", _DATA_NOTE]


_DATA_NOTE = (
    "core-hours: from bytes a second of one core on small inputs, the scorer's estimated (docs/synthesis.md); "
    "-: not measured. "
    "<=: the most it can be."
)


def _data_row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    seconds = one.get("core_seconds")
    asked = one.get("reply_tokens") or 0
    return (
        name,
        str(one.get("model") or one.get("what") or ""),
        f"{one.get('replies') or one.get('rows') or 0:,}"
        if one.get("replies") or one.get("rows")
        else "",
        f"{one['prompt_tokens']:,}" if one.get("prompt_tokens") else "",
        f"{'<=' if one.get('bound', True) else ''}{asked:,}" if asked else "",
        f"{seconds / 3600:,.0f}" if seconds else ("-" if "core_seconds" in one else ""),
        _bytes(one.get("disk_bytes") or 0),
        _bytes(one.get("traffic_bytes") or 0),
    )


def _bytes(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return ""


_HEAD = ("stage", "what", "layout", "tokens", "weights", "grads", "optimizer", "activations", "GiB in all", "FLOPs", "time")  # fmt: skip
_NOTE = (
    "generation: weights, KV cache and Mamba state of one GPU under weights, grads and optimizer."
)


def _row(name: str, load: dict[str, Any]) -> tuple[str, ...]:
    memory = load["memory"]
    if load["what"] == "training":
        layout = (
            f"{load['workers']} x {load['strategy']}, {load['precision']}"
            f"{'' if load['runs'] else ' (!)'}, {load['activations']}"
        )
        parts = ["weights", "gradients", "optimizer"]
        rest = memory["buffers"] + memory["activations"] + memory["output"]
    else:
        layout = f"{load['engines']} x vLLM, {load['sequences']} seqs of {load['context_tokens']:,}"
        parts, rest = ["weights", "kv_cache", "state"], 0
    bound = "<=" if load.get("bound", True) else ""
    total = f"{memory['device_bytes'] / 2**30:,.2f}" + ("" if load["fits"] else " (!)")
    return (
        name,
        load["what"],
        layout,
        f"{bound}{load['tokens']:,}",
        *(f"{memory[part] / 2**30:,.2f}" for part in parts),
        f"{rest / 2**30:,.2f}" if rest else "",
        total,
        f"{load['flops']:.2e}",
        ("" if load["seconds"] is None else bound) + _time(load["seconds"]),
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
