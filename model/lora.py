"""LoRA that covers a hybrid whole: every layer kind, not only attention. One helper for every stage.

PEFT's defaults adapt the attention layers of a NemotronH alone (2 of 14 in a small one), and
`all-linear` raises on `out_proj`, which the fused Mamba kernel reads as a raw weight. Adapters are put into
the model in place, so it keeps its class, its names of layers and its isolation of documents.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.hybrid import load_model
from model.lora_config import LoraConfig, check_base, dtype_of
from model.nf4 import Nf4Linear, in_4_bits, plain, quantise
from workbench.errors import UserError, some_of

# Projections of every family, by what they stand in. Mamba's out_proj is left to the base: its weight is
# handed to the fused kernel directly, so an adapter around it would be ignored on a GPU. Routed experts
# are one tensor for all of them, not linear layers: an adapter reaches the shared ones.
TARGETS: dict[str, tuple[str, ...]] = {
    "mamba": ("in_proj",),
    "delta_rule": ("in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    "attention": (
        "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "dense",
        "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
    ),
    "feed_forward": (
        "gate_proj", "up_proj", "down_proj", "gate_up_proj", "input_linear", "output_linear",
        "w1", "w2", "w3", "fc1", "fc2", "c_fc", "c_proj",
    ),
}  # fmt: skip
# Linear layers that choose rather than compute: never adapted.
_ROUTERS = ("gate", "router", "shared_expert_gate", "layer")
_NAME = "default"
_INNER = ".base_layer"
_A, _B, _SCALING = ".lora_A", ".lora_B", ".lora_scaling"
Gather = Callable[[Tensor], Tensor]


def target_modules(model: nn.Module) -> list[str]:
    """Full names of the linear layers to adapt, in the decoder's layers. Raises: UserError where a mixer or a
    feed-forward of a layer would have none."""
    wanted = {target for group in TARGETS.values() for target in group}
    chosen, lacking = [], set()
    for part, names in _linears(model).items():
        own = [name for name in names if _is_target(model, name, wanted)]
        chosen += own
        if names and not own:
            lacking |= {_last(name) for name in names} or {part}
    if lacking or not chosen:
        raise UserError(
            f"LoRA knows no projection of {type(model).__name__}"
            f"{' named ' + some_of(sorted(lacking)) if lacking else ''}; train it whole (lora: null)"
        )
    return chosen


def _is_target(model: nn.Module, name: str, wanted: Container[str]) -> bool:
    if _last(name) == "out_proj":
        # Mamba's skip weight; the layers of a delta rule have none.
        return not hasattr(model.get_submodule(name.rpartition(".")[0]), "D")
    return _last(name) in wanted


def _linears(model: nn.Module) -> dict[str, list[str]]:
    """Each part of the decoder's layers (a mixer, a feed-forward) -> the full names of its linear layers,
    routers aside."""
    decoder = model.get_decoder()  # type: ignore[operator]
    prefix = next(
        (f"{name}." for name, module in model.named_modules() if module is decoder and name), ""
    )
    parts: dict[str, list[str]] = {}
    for name, module in decoder.named_modules():
        steps = name.split(".")
        # layers.3.mixer.in_proj: the mixer of a layer.
        number = next((at for at, step in enumerate(steps) if step.isdigit()), len(steps))
        inside = isinstance(module, nn.Linear) and len(steps) > number + 2
        if inside and steps[-1] not in _ROUTERS:
            parts.setdefault(".".join(steps[: number + 2]), []).append(prefix + name)
    return parts


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def load_base(path: str | Path, lora: LoraConfig | None, device: str) -> Any:
    """`load_model` of what is trained: whole in fp32, or the base that adapters are put on, as it is held.
    Raises: UserError, before anything is read, where 4 bits have no package."""
    if lora is None or lora.base != "nf4":
        return load_model(path, dtype=dtype_of(lora), device=device)
    check_base(lora)
    model = load_model(path, dtype=lora.dtype)
    return quantise(model, quantised_modules(model), device)


def quantised_modules(model: nn.Module) -> list[str]:
    """Full names of the linear layers that a 4-bit base has in 4 bits: the adapted ones, and Mamba's out_proj."""
    rest = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    out = [name for name in rest if name.endswith(".out_proj")]
    return list(dict.fromkeys([*target_modules(model), *out]))


def add_adapters(model: nn.Module, config: LoraConfig) -> nn.Module:
    """Freeze the model and give it adapters in fp32, in place; they change nothing yet. Draws from torch's
    global random state."""
    from peft import inject_adapter_in_model  # noqa: PLC0415 - only where adapters are asked for

    model.requires_grad_(False)
    targets = [f"inner.{name}" for name in target_modules(model)]
    inject_adapter_in_model(_peft_config(config, targets), _Bare(model), adapter_name=_NAME)
    for parameter in adapter_parameters(model):
        parameter.data = parameter.data.float()
    return model


class _Bare(nn.Module):
    """A model without its configuration, by which PEFT takes the names of some families' dense and shared layers
    for those of experts as they were called once, and adapts the stacked experts in their place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def _peft_config(config: LoraConfig, targets: list[str]) -> Any:
    from peft import LoraConfig as PeftConfig  # noqa: PLC0415 - only where adapters are asked for

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def drawn_adapters(model: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    """`add_adapters` to a model on the meta device, which holds no numbers: returns the adapters' values by
    name, the very draws that a model with numbers would have got."""
    before = torch.get_rng_state()
    add_adapters(model, config)
    torch.set_rng_state(before)
    out = dict[str, Tensor]()
    for name, layer in _adapted(model).items():
        a, b = layer.lora_A[_NAME], layer.lora_B[_NAME]
        first = nn.Linear(a.in_features, a.out_features, bias=False)
        nn.Linear(b.in_features, b.out_features, bias=False)  # drawn, then set to zero
        nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5))
        held = first.weight.detach().to(layer.base_layer.weight.dtype)
        out[f"{name}.lora_A.{_NAME}.weight"] = held.float()
        out[f"{name}.lora_B.{_NAME}.weight"] = torch.zeros(b.out_features, b.in_features)
    return out


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What is trained of an adapted model."""
    return [p for layer in _adapted(model).values() for p in layer.parameters() if p.requires_grad]


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was called on it."""
    return bool(_adapted(model))


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Full name of each adapted layer -> PEFT's layer around it."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model that the adapters started from: the reference policy."""
    layers = list(_adapted(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class Adapter(NamedTuple):
    """What one layer's adapter adds to its weight [out, in]: scaling x b @ a. a [rank, in], b [out, rank]."""

    a: Tensor
    b: Tensor
    scaling: float

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Float[Tensor, "out in"]:
        """The weight with it added, in fp32: rounding to another type is for whoever holds one."""
        delta = (self.b.float() @ self.a.float()).mul_(self.scaling)
        return delta.to(weight.device).add_(weight)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _adapter(layer: Any, gather: Gather) -> Adapter:
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    return Adapter(gather(a.detach()), gather(b.detach()), float(layer.scaling[_NAME]))


def adapter_tensors(model: nn.Module, gather: Gather = _as_it_is) -> Iterator[tuple[str, Tensor]]:
    """All that a merge needs beside the base, on its way to an engine: LAYER.lora_A and LAYER.lora_B, and
    LAYER.lora_scaling, of no axes and in fp64. `adapters_of` reads them again."""
    for name, layer in _adapted(model).items():
        a, b, scaling = _adapter(layer, gather)
        yield from (
            (f"{name}{_A}", a),
            (f"{name}{_B}", b),
            (f"{name}{_SCALING}", torch.tensor(scaling, dtype=torch.float64)),
        )


def adapters_of(tensors: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """The adapters of `adapter_tensors` by the name of the weight that each is added to. Raises: ValueError
    where a tensor is none of them, or one of three is missing."""
    layers = {name.rpartition(".lora_")[0] for name in tensors if ".lora_" in name}
    expected = {f"{layer}{part}" for layer in layers for part in (_A, _B, _SCALING)}
    if wrong := sorted(expected ^ tensors.keys()):
        raise ValueError(f"not whole adapters: {some_of(wrong)}")
    return {
        f"{layer}.weight": Adapter(
            tensors[f"{layer}{_A}"], tensors[f"{layer}{_B}"], float(tensors[f"{layer}{_SCALING}"])
        )
        for layer in sorted(layers)
    }


def base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor that the adapters stand on, under the names that it has without any.
    One that has two names comes once: a tied head is its embedding."""
    named = dict(model.named_parameters(remove_duplicate=False))
    repeated = named.keys() - dict(model.named_parameters()).keys()
    for name, tensor in model.state_dict().items():
        if name not in repeated and ".lora_" not in name:
            yield without_inner(name), tensor


def base_storage(model: nn.Module) -> Iterator[Tensor]:
    """What holds the values of `base_tensors`, as it lies there: of a layer in 4 bits its codes and scales."""
    for path, module in model.named_modules():
        if ".lora_" in path:
            continue
        yield from (p for p in module.parameters(recurse=False))
        passing = module._non_persistent_buffers_set
        yield from (b for name, b in module.named_buffers(recurse=False) if name not in passing)
        if isinstance(module, Nf4Linear):
            yield from module.parts()


def adapted_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name of each weight that an adapter is added to -> its shape."""
    return {
        f"{name}.weight": (layer.base_layer.out_features, layer.base_layer.in_features)
        for name, layer in _adapted(model).items()
    }


@torch.no_grad()
def merged_tensors(model: nn.Module, gather: Gather = _as_it_is) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the model with its adapters merged, in its own type and under the
    name that it has without any; the model itself stays as it is.

    gather: makes a tensor whole that may be sharded.
    """
    layers = _adapted(model)
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        whole, plain = gather(tensor), without_inner(name)
        if plain != name and plain.endswith(".weight"):
            layer = layers[plain.removesuffix(".weight")]
            whole = _adapter(layer, gather).merged(whole).to(tensor.dtype)
        yield plain, whole


def merged_wide(model: nn.Module, gather: Gather = _as_it_is) -> Iterator[tuple[str, Tensor]]:
    """All tensors by their plain names, the adapted ones merged in fp32: for who has not the base itself, and
    may not lose a small update in bf16.

    gather: makes a tensor whole that may be sharded.
    """
    adapters = adapters_of(dict(adapter_tensors(model, gather)))
    for name, tensor in base_tensors(model):
        held = gather(tensor)
        yield name, adapters[name].merged(held) if name in adapters else held


def without_inner(name: str) -> str:
    """A tensor's name in the model before `add_adapters`."""
    return name.replace(f"{_INNER}.", ".")


@torch.no_grad()
def merge_adapters(model: nn.Module) -> nn.Module:
    """Merge them into the weights, in their own type, and take them out, in place. Weights in 4 bits become
    bf16 and leave for the CPU one by one: where they were trained there may be no room for all of them."""
    leaves = in_4_bits(model)
    for name, layer in _adapted(model).items():
        base = plain(layer.base_layer)
        base.weight.copy_(_adapter(layer, _as_it_is).merged(base.weight))
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, base.cpu() if leaves else base)
    if leaves:
        model.cpu()
    model.requires_grad_(True)
    return model


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, by their names in the model."""
    return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}


def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back `adapter_state`. Raises: ValueError where it is not of these adapters."""
    if state.keys() != adapter_state(model).keys():
        raise ValueError("the checkpoint's adapters are not those of this model")
    model.load_state_dict(state, strict=False)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint keeps of the weights: what is trained of an adapted model, all of any other."""
    if not has_adapters(model):
        return model.state_dict()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back `trained_state`. Raises: ValueError or RuntimeError where it is not of this model."""
    adapted = has_adapters(model)
    if adapted and state.keys() != trained_state(model).keys():
        raise ValueError("the checkpoint's adapters are not those of this model")
    model.load_state_dict(state, strict=not adapted)


def save_adapters(
    model: nn.Module,
    config: LoraConfig,
    folder: Path,
    base: str,
    state: dict[str, Tensor] | None = None,
) -> Path:
    """Write the adapters in PEFT's format: `PeftModel.from_pretrained(base model, folder)` reads them.

    state: their values, where the model's own are shards.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - only where adapters are asked for

    folder.mkdir(parents=True, exist_ok=True)
    about = _peft_config(config, sorted(_adapted(model)))
    about.base_model_name_or_path, about.inference_mode = base, True
    about.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in (adapter_state(model) if state is None else state).items()
    }
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    return folder
