"""A device `card` that is none: its tensors lie on the CPU and say otherwise, its rules are those of a GPU.

What mixes it with the CPU is an error, as on CUDA, and what a model computes on the CPU meanwhile is kept.
`install` is for a process of its own: torch knows the device until the process ends.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "card"
aten = torch.ops.aten
# CUDA takes numbers of places from the CPU here, and copies from and to it in any case.
_MIXED = {
    op.overloadpacket for op in (aten.copy_.default, aten._to_copy.default, aten.index.Tensor)
} | {aten.index_put_, aten.index_put, aten._index_put_impl_}
# What a model's layers, its loss and its optimizer are made of.
WORK = {
    aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.embedding,
    aten._scaled_dot_product_flash_attention_for_cpu, aten._softmax, aten._log_softmax,
    aten.logsumexp, aten._fused_adamw_, aten.addcdiv_, aten._foreach_addcdiv_,
}  # fmt: skip


# What CUDA's autocast computes in the narrow type, of what models here are made of.
_NARROW = (
    aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default, aten.bmm.default,
    aten.baddbmm.default, aten.conv1d.default, aten.scaled_dot_product_attention.default,
)  # fmt: skip


class Card(torch.Tensor):
    """A tensor that says it lies on the card; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Card":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(NAME, 0), requires_grad=held.requires_grad,
        )  # fmt: skip

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        """As every tensor's; torch refuses it to subclasses."""
        return self.held.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the numbers are: what saves tensors asks which share theirs."""
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        """Of its first number."""
        return self.held.data_ptr()

    def _put(self, value: "Card") -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    # As every tensor's; `held` goes with it.
    data = property(lambda self: torch.Tensor.data.__get__(self), _put)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Card":
        """Of a whole model, as its reference is made: on the card too, and a parameter where this is one."""
        made = Card(self.held.detach().clone()).requires_grad_(self.requires_grad)
        made.__dict__.update({k: v for k, v in self.__dict__.items() if k != "held"})
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In files it is a tensor like any other."""
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_card(func, args, kwargs or {})


def _on_card(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = tree_leaves((args, kwargs))
    held = any(isinstance(value, Card) for value in given)
    if held and func.overloadpacket not in _MIXED:
        for value in given:
            if isinstance(value, torch.Tensor) and not isinstance(value, Card) and value.dim():
                raise RuntimeError(
                    f"{func}: expected all tensors to be on the same device, found {NAME}:0 and cpu"
                )
    plain_args, plain = tree_map(lambda v: v.held if isinstance(v, Card) else v, (args, kwargs))
    asked = kwargs.get("device")
    if asked is not None:
        plain["device"] = torch.device("cpu")
    plain.pop("pin_memory", None)
    made = func(*plain_args, **plain)
    if func._schema.is_mutable:
        return args[0] if func._schema.returns else None
    if not (held if asked is None else torch.device(asked).type == NAME):
        return made
    return tree_map(lambda v: Card(v) if isinstance(v, torch.Tensor) else v, made)


class Watch(TorchDispatchMode):
    """Counts what is computed while it is on: `on_card` by operation, `on_cpu` by operation and caller."""

    def __init__(self) -> None:
        super().__init__()
        self.on_card, self.on_cpu = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in (aten.pin_memory, aten._pin_memory):
            return args[0]
        asked = kwargs.get("device")
        given = tree_leaves((args, kwargs))
        if any(isinstance(v, Card) for v in given) or (asked and torch.device(asked).type == NAME):
            self.on_card[str(func.overloadpacket)] += 1
            return _on_card(func, args, kwargs)
        if func.overloadpacket in WORK and any(
            isinstance(v, torch.Tensor) and v.is_cpu and v.is_floating_point() and v.dim() > 1
            for v in given
        ):
            self.on_cpu[f"{func.overloadpacket} {_caller()}"] += 1
        return func(*args, **kwargs)


def _caller() -> str:
    """The innermost line of this project that is no test."""
    for frame in reversed(traceback.extract_stack()):
        if ".venv" not in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.rsplit('/', 3)[-2:]}:{frame.lineno}"
    return "?"


class _Module:
    """What torch asks a device for."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"is_initialized": True, "is_available": True, "current_device": 0}
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *a, **k: answers.get(name)

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False


_kept: list[torch.library.Library] = []


def install() -> torch.device:
    """Make torch know the device."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    for op in (aten.empty_strided.default, aten.empty.memory_format, aten.copy_.default):
        library.impl(op.name(), _implemented(op), "PrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _kept.append(others)
    for op in _NARROW:
        library.impl(op.name(), _autocast(op), "AutocastPrivateUse1")
    _kept.append(library)
    return torch.device(NAME, 0)


def _autocast(op: Any) -> Callable[..., Any]:
    """The operation on what it is given in the narrow type, as CUDA has it within `torch.autocast`."""

    def narrow(value: Any) -> Any:
        wide = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        return value.to(torch.get_autocast_dtype(NAME)) if wide else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(NAME, enabled=False):
            given, named = tree_map(narrow, (args, kwargs))
            return op(*given, **named)

    return run


def _implemented(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _on_card(op, args, kwargs)


def tensors_of(found: Any) -> Iterator[torch.Tensor]:
    """Tensors in a value, at any depth."""
    return (value for value in tree_leaves(found) if isinstance(value, torch.Tensor))
