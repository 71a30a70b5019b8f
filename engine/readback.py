"""What a live vLLM model holds, compared with the tensors it was given.

vLLM renames, stacks and transforms tensors as it loads them, and on a CPU it repacks the matrices of
linear layers into a form that cannot be read. Those are asked for their product with fixed vectors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from engine.sync_check import SyncError
from engine.tied_head import tied_head
from workbench.errors import some_of

# A product is summed in fp32: its error relative to the sum of the matrix row's sizes times the vector's
# largest, K * 2^-24 at worst ...
_SUM_TOLERANCE = 5e-6
# ... and rounded to the layer's type once, at the end: relative to the product itself.
_OUTPUT_ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
_NUM_VECTORS = 2


def check_readback(
    errors: Mapping[str, float], tolerances: Mapping[str, float], version: int
) -> None:
    """Raises: SyncError naming the tensors that the engine holds otherwise than they were given."""
    wrong = [name for name, error in errors.items() if not error <= tolerances[name]]
    if wrong:
        largest = max(errors[name] for name in wrong)
        raise SyncError(
            f"weight sync of version {version}: the engine does not hold what it was given: "
            f"{some_of(wrong)} (off by up to {largest:.3g}, relative)"
        )


class Readback:
    """Compares a model with tensors, one of its parameters after the other; `errors` and `tolerances` by the
    tensors' names afterwards.

    `unread` names what has no plain counterpart here (a kernel's own layout, say): only the probes
    vouch for those.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        self.errors: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}
        self.unread: list[str] = []
        self._model = model
        with torch.inference_mode():
            for target, names in _by_target(model, tensors).items():
                self._compare(target, [(name, tensors[name]) for name in names])

    def _compare(self, target: str, parts: list[tuple[str, torch.Tensor]]) -> None:
        """One parameter of vLLM against the tensors it is stacked from."""
        path, _, attribute = target.rpartition(".")
        names = [name for name, _ in parts]
        module: Any = _module(self._model, path)
        if module is None:
            if not _is_of_experts(self._model, path):
                raise SyncError(
                    f"vLLM has no {path}: what it holds of {some_of(names)} cannot be read"
                )
            self.unread += names
            return
        if attribute == "A_log" and not hasattr(module, "A_log"):
            attribute = "A"  # renamed by the model's own loader
        held = getattr(module, attribute, None)
        if held is None:
            self.unread += names
            return
        if names[0].endswith("A_log") and attribute == "A":
            given = -torch.exp(parts[0][1].to(held.device).float())
            self._note(names, relative_error(held, given), 1e-6)
            return
        parts = [(name, tensor.to(held.device, held.dtype)) for name, tensor in parts]
        packed = attribute == "weight" and hasattr(module, "cpu_linear") and parts[0][1].ndim == 2
        looked_up = path.endswith(("embed_tokens", "embeddings"))
        if held.numel() or not packed:
            aliased = self._check_alias(path, names, parts[0][1])
            if all(held.ndim == t.ndim and held.shape[1:] == t.shape[1:] for _, t in parts):
                # A vocabulary is padded with rows that no token reads.
                self._note_rows(parts, held)
            elif not aliased:
                self.unread += names
        if packed and not looked_up:
            self._multiply(module, parts)
        head = tied_head(self._model) if looked_up else None
        if head is not None:
            self._multiply(head, parts)

    def _multiply(self, module: Any, parts: list[tuple[str, torch.Tensor]]) -> None:
        """Compare products with fixed vectors [r, K], made by the layer's own kernel."""
        first = parts[0][1]
        vectors = _vectors(first.shape[1]).to(first.dtype)
        products = module.quant_method.apply(module, vectors, bias=None).float()
        rounding, row = _OUTPUT_ROUNDING.get(first.dtype, 2.0**-8), 0
        for name, tensor in parts:
            wide, found = tensor.float(), products[:, row : row + len(tensor)]
            expected = vectors.float() @ wide.T
            over = (found - expected).abs() - rounding * expected.abs()
            over = over.clamp(min=0).nan_to_num(nan=torch.inf).amax(0)
            error = _relative_to_rows(over, wide, expected, float(vectors.abs().max()))
            self._note([name], error, _SUM_TOLERANCE)
            row += len(tensor)

    def _note_rows(self, parts: list[tuple[str, torch.Tensor]], held: torch.Tensor) -> None:
        row = 0
        for name, tensor in parts:
            found = held[row : row + len(tensor)]
            same = torch.equal(found, tensor)
            self._note([name], 0.0 if same else relative_error(found, tensor), 0.0)
            row += len(tensor)

    def _check_alias(self, path: str, names: list[str], given: torch.Tensor) -> bool:
        """The mixer reads its convolution through a view of its own, which a reload can lose. Whether it does."""
        mixer = self._model.get_submodule(path.rpartition(".")[0])
        view = getattr(mixer, "conv_weights", None)
        if not path.endswith("conv1d") or given.ndim != 3 or view is None:
            return False
        flat = given.squeeze(1)
        same = view.shape == flat.shape and torch.equal(view, flat)
        self._note(names, 0.0 if same else torch.inf, 0.0)
        return True

    def _note(self, names: Sequence[str], error: float, tolerance: float) -> None:
        for name in names:
            if not error <= tolerance or name not in self.errors:
                self.errors[name], self.tolerances[name] = error, tolerance


def _module(model: nn.Module, path: str) -> nn.Module | None:
    """vLLM's module of this name, or None."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _is_of_experts(model: nn.Module, path: str) -> bool:
    """Whether a name that vLLM does not have stands inside a layer of experts, which is vLLM's own and whose
    loader takes the tensors apart. Inside a decoder layer that has one is not enough."""
    while path := path.rpartition(".")[0]:
        found = _module(model, path)
        if found is not None:
            is_layer = path.rpartition(".")[2].isdigit() or isinstance(found, nn.ModuleList)
            return not is_layer and any(hasattr(m, "w13_weight") for m in found.modules())
    return False


def _relative_to_rows(
    over: torch.Tensor, matrix: torch.Tensor, products: torch.Tensor, largest: float
) -> float:
    """Largest of `over` [N], each relative to the sum of its matrix row's sizes times `largest`.

    A product's own size is at most that sum: only rows which fail by it need the sum itself, and
    summing every row costs more than all the products.
    """
    gaps = over / products.abs().amax(0).clamp(min=1e-30)
    rows = (~(gaps <= _SUM_TOLERANCE)).nonzero()[:, 0]
    if len(rows):
        # Not |vectors| @ |matrix|: that would be closer, and a copy of every matrix.
        scale = torch.linalg.vector_norm(matrix[rows], ord=1, dim=1) * largest
        gaps[rows] = (over[rows] / scale.clamp(min=1e-30)).nan_to_num(nan=torch.inf)
    return float(gaps.max())


def relative_error(held: torch.Tensor, given: torch.Tensor) -> float:
    """Largest difference by the largest value given; infinite where it is not a number, never 0
    for values that differ."""
    if held.shape != given.shape:
        return float("inf")
    gap = (held.double() - given.double()).abs().nan_to_num(nan=torch.inf).max()
    return max(float(gap / given.double().abs().max().clamp(min=1e-30)), 1e-30 * float(gap > 0))


def _by_target(model: Any, names: Iterable[str]) -> dict[str, list[str]]:
    """vLLM's parameter names -> the tensors they are made of, in the order they are stacked."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    order = list(getattr(mapper, "orig_to_new_stacked", {}))
    out: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    for name in names:
        target = name if mapper is None else mapper.map_name(name)
        if target is not None:
            target, place = _stacked(model, target)
            out.setdefault(target, []).append(name)
            places[name] = place
    for parts in out.values():
        parts.sort(
            key=lambda part: next((i for i, s in enumerate(order) if s in part), places[part])
        )
    return out


def _stacked(model: Any, target: str) -> tuple[str, int]:
    """Where vLLM has a tensor that the model's own loader stacks, the mapper knowing nothing of it, and its place."""
    path, _, attribute = target.rpartition(".")
    owner, _, leaf = path.rpartition(".")
    for whole, parts in getattr(model, "packed_modules_mapping", {}).items():
        if leaf in parts and leaf != whole and _module(model, f"{owner}.{whole}") is not None:
            return f"{owner}.{whole}.{attribute}", parts.index(leaf)
    return target, 0


def _vectors(width: int) -> torch.Tensor:
    """Fixed vectors [r, K] without equal entries in a pattern; exact in bf16."""
    made = torch.Generator().manual_seed(width)
    sizes = torch.randint(32, 97, (_NUM_VECTORS, width), generator=made) / 64
    signs = torch.randint(0, 2, (_NUM_VECTORS, width), generator=made) * 2 - 1
    return sizes * signs
