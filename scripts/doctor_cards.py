"""What `scripts/doctor.py` says of cards: what they are, which kernels work on them, what they have room for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scripts.finding import Finding
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

_GIB = 2**30
# Asked of the plan for any card: the paper's models, and a Transformer of their size.
_MODELS = ("nano2-9b", "nano2-12b", "qwen3-8b")
_ROW, _CONTEXT, _SEQUENCES = 4096, 2048, 64


def cards() -> list[Finding]:
    """Each card, or why there is none."""
    import torch

    if torch.cuda.is_available():
        return [_driver(), *(_card(i) for i in range(torch.cuda.device_count()))]
    from workbench.provenance import hardware

    names = ", ".join(hardware()["gpus"])
    if not names:
        return [Finding("cards", "none: everything runs on the CPU, the miniature's scale")]
    if torch.version.cuda is None:
        found, mend = "torch is its CPU build", "rm -r .venv; FLAVOUR=cuda make setup"
    else:
        found, mend = f"torch cannot use them (driver {_version()})", "update the driver to CUDA 13"
    return [Finding("cards", f"{names}, but {found}", False, mend=mend)]


def _version() -> str:
    from workbench.provenance import driver

    return driver() or "not known: nvidia-smi does not answer"


def _driver() -> Finding:
    import torch

    return Finding(
        "driver", f"{_version()}; torch {torch.__version__} is built for CUDA {torch.version.cuda}"
    )


def _card(index: int) -> Finding:
    import torch

    from model.fp8.products import why_not

    it = torch.cuda.get_device_properties(index)
    free, _ = torch.cuda.mem_get_info(index)
    types = ["bf16"] if (it.major, it.minor) >= (8, 0) else []
    refusal = why_not(torch.device("cuda", index))
    types += ["fp8"] if refusal is None else []
    found = (
        f"{it.name}, {it.total_memory / _GIB:.0f} GiB ({free / _GIB:.0f} free), "
        f"SM{it.major}.{it.minor}, {' and '.join(types) or 'fp32 and fp16 only'}"
    )
    if refusal is not None and (it.major, it.minor) == (9, 0):  # the card could
        found += f"; {refusal}"
    return Finding(f"card {index}", found)


def kernels() -> list[Finding]:
    """Which kernels a hybrid's layers would take: each is tried on its tiny case where a card is."""
    import torch

    from model.layers.kernels import mamba_ssm_imports

    other = "mamba-ssm imports" if mamba_ssm_imports() else "mamba-ssm is not installed"
    if not torch.cuda.is_available():
        return [Finding("kernels", f"no card to try them on: torch's operations serve; {other}")]
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [_tried(device, other) for device in devices]


def _tried(device: "torch.device", other: str) -> Finding:
    import torch

    work, fail = list[str](), list[str]()
    with torch.cuda.device(device):
        for name, problem in _trials(device):
            if problem:
                fail.append(f"{name} {problem}")
            else:
                work.append(name)
    found = f"work: {', '.join(work) or 'none'}"
    if fail:
        found += f"; torch's operations stand in where {'; '.join(fail)}"
    mend = "see what scripts/gpu_check.py --only fused says; kernels: torch leaves them out"
    return Finding(f"kernels of card {device.index}", f"{found}; {other}", not fail, mend=mend)


def _trials(device: "torch.device") -> Iterator[tuple[str, str]]:
    """Each kernel and type at the 9B's sizes, and what is wrong with it here."""
    import torch

    from model.fp8.products import check_card, why_not
    from model.layers import fused
    from model.presets import shape

    s = shape("nano2-9b")
    half, both = (torch.bfloat16,), (torch.float32, torch.bfloat16)
    for kind, sizes, dtypes in (
        ("scan", (s.mamba_head_dim, s.ssm_state_size), both),
        ("conv", (s.conv_kernel,), both),
        ("norm", (s.d_inner // s.n_groups,), both),
        ("attention", (s.head_dim, s.num_attention_heads // s.num_key_value_heads), half),
    ):
        for dtype in dtypes:
            name = f"{kind} in {'bf16' if dtype in half else 'fp32'}"
            yield name, fused.problem(kind, device, dtype, sizes)
    if why_not(device) is None:
        try:
            check_card(device)
            yield "products in fp8", ""
        except UserError as error:
            yield "products in fp8", str(error)


def room() -> list[Finding]:
    """What one card of each size holds, by the plan that prices recipes."""
    from dataclasses import replace

    from model.decoder import PUBLISHED
    from model.presets import shape
    from model.room import CARDS, WHOLE, Seated, fits
    from rl.config import GrpoConfig
    from sft.config import SftConfig
    from workbench.load import GenerationLoad, TrainingLoad
    from workbench.placement import ENGINE_SHARE, STAGE_SHARE, TURN_SHARE, MemoryShares

    sizes = ", ".join(map(str, CARDS))
    about = (
        f"by the plan, which prices a recipe of yours likewise (scripts/plan.py --recipe FILE): bf16, rows of "
        f"{_ROW:,} tokens; GRPO with {_SEQUENCES} sequences of {_CONTEXT:,} tokens at once"
    )
    out = [Finding(f"one card of {sizes} GB", about)]
    trained = TrainingLoad(tokens=_ROW, row_tokens=_ROW, precision="bf16")
    updated = replace(trained, output="logprobs", published=True)
    turns = ("engine: {sleep: true}", MemoryShares(TURN_SHARE, TURN_SHARE, turns=True))
    sampled = GenerationLoad(None, _CONTEXT, _SEQUENCES, dtype="bfloat16", published=True)
    for name in _MODELS:
        s = PUBLISHED[name] if name in PUBLISHED else shape(name)
        for kind, loads, config, shares in (
            ("SFT", (trained,), SftConfig, WHOLE),
            ("GRPO", (updated, sampled), GrpoConfig, MemoryShares(STAGE_SHARE, ENGINE_SHARE)),
        ):
            keys = set(config.model_fields)
            seated = Seated(s, loads, (), shares, keys, turns)
            out.append(Finding(f"{kind} of {name}", fits(seated)))
    return out
