"""A plan as aligned text: what scripts/plan.py prints."""

from collections.abc import Sequence
from typing import Any


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
    out = [
        *aligned(rows, left=3),
        "",
        "GiB a process, at whole rows. <=: the most it can be; what it will be is not known.",
        _NOTE,
        *_fp8_lines(plan),
        *_machine_lines(plan),
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


_MACHINE_HEAD = ("stage", "what", "host GiB", "GB sent a step", "sending", "a step", "checkpoint", "writing", "every", "share", "on disk")  # fmt: skip


def _machine_lines(plan: dict[str, Any]) -> list[str]:
    """Host memory of a machine, what a process sends, and checkpoints, of stages on cards."""
    hardware = plan["hardware"]
    if hardware["name"] == "cpu":
        return []
    rows = [
        _machine_row(name, load)
        for name, stage in plan["stages"].items()
        for load in stage["loads"]
        if "host" in load
    ]
    if not rows:
        return []
    return [
        "",
        *aligned([_MACHINE_HEAD, *rows], left=2),
        "",
        f"a machine: {hardware['cards']} card(s), {hardware['host'] / 1e9:,.0f} GB of memory (host GiB: what "
        f"programs, offloaded inputs, checkpoints under way and weights for engines take of it); a process "
        f"sends {hardware['link'] / 1e9:,.0f} GB/s to others in it and {hardware['network'] / 1e9:,.0f} GB/s to "
        f"other machines at a share of {hardware['link_share']:g}; a machine writes {hardware['disk'] / 1e9:,.1f} "
        "GB/s. Assumptions, not measurements. Weights and gradients are sent while layers are computed: of both "
        "the longer counts.",
    ]


def _machine_row(name: str, load: dict[str, Any]) -> tuple[str, ...]:
    host = f"{load['host']['total'] / 2**30:,.0f}" + ("" if load["host"]["fits"] else " (!)")
    if load["what"] != "training":
        return (name, load["what"], host, *("",) * 8)
    sent, saved = load["communication"], load["checkpoints"]
    every = (f"{saved['every']:,}", f"{saved['share']:.1%}") if saved["every"] else ("never", "")
    return (
        name,
        load["what"],
        host,
        f"{sent['bytes'] / 1e9:,.1f}",
        f"{sent['seconds']:,.1f} s",
        f"{sent['step_s']:,.1f} s",
        _bytes(saved["each"]),
        f"{saved['seconds']:,.1f} s",
        *every,
        _bytes(saved["on_disk"]),
    )


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Columns under each other; the first `left` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if n < left else c.rjust(w)
            for n, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
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
    return ["", *aligned(rows, left=2), "", _DATA_NOTE]


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
        rest = sum(memory[part] for part in ("buffers", "activations", "output", "beside"))
    elif load["what"] == "scoring":
        layout, parts = f"1 x whole, {load['dtype']}", ["weights", "", ""]
        rest = memory["activations"] + memory["output"]
    else:
        layout = f"{load['engines']} x vLLM, {load['sequences']} seqs of {load['context_tokens']:,}"
        parts, rest = ["weights", "kv_cache", "state"], 0
    bound = "<=" if load.get("bound", load["what"] == "generation") else ""
    total = f"{memory['device_bytes'] / 2**30:,.2f}" + ("" if load["fits"] else " (!)")
    return (
        name,
        load["what"],
        layout,
        "-" if load["tokens"] is None else f"{bound}{load['tokens']:,}",
        *(f"{memory[part] / 2**30:,.2f}" if part else "" for part in parts),
        f"{rest / 2**30:,.2f}" if rest else "",
        total,
        "-" if load["flops"] is None else f"{load['flops']:.2e}",
        ("" if load["seconds"] is None else bound) + _time(load["seconds"]),
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"
