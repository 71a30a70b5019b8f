"""The tensors of a checkpoint: what an engine holds, and whether what it is given is all of it.

vLLM only logs a warning where a tensor is missing and goes on with the old one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import UserError, some_of

if TYPE_CHECKING:
    import torch

# Trainers keep fp32 masters and engines may hold bf16; other types would be a silent loss.
_DTYPES = {"float32", "bfloat16"}
_SAFETENSORS_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class TensorSpec(NamedTuple):
    """Shape and type of one tensor. Example: TensorSpec((2048, 128), "float32")"""

    shape: tuple[int, ...]
    dtype: str


def canonical(name: str) -> str:
    """One name for a tensor: NemotronH files say `backbone.`, its modules `model.`."""
    return "model." + name.removeprefix("backbone.") if name.startswith("backbone.") else name


def checkpoint_specs(folder: str | Path) -> dict[str, TensorSpec]:
    """Name -> spec of every tensor of a Hugging Face checkpoint; reads headers only.

    Raises: UserError where the folder is not a checkpoint or a file is cut short.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - configuration imports us

    specs: dict[str, TensorSpec] = {}
    for file in weight_files(folder):
        try:
            with safe_open(str(file), "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    part = tensors.get_slice(name)
                    dtype = str(part.get_dtype())
                    specs[canonical(name)] = TensorSpec(
                        tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype)
                    )
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None
    return specs


def load_tensors(folder: str | Path) -> "list[tuple[str, torch.Tensor]]":
    """Every tensor of a checkpoint, under its canonical name."""
    from safetensors import SafetensorError  # noqa: PLC0415 - configuration imports us
    from safetensors.torch import load_file  # noqa: PLC0415 - same

    found = []
    for file in weight_files(folder):
        try:
            found += [(canonical(name), tensor) for name, tensor in load_file(file).items()]
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None
    return found


def tensor_places(folder: str | Path) -> dict[str, tuple[Path, str]]:
    """Canonical name -> file and the name in it, of every tensor of a checkpoint; reads headers only.

    Raises: UserError where the folder is not a checkpoint or a file is cut short.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - configuration imports us

    found: dict[str, tuple[Path, str]] = {}
    for file in weight_files(folder):
        try:
            with safe_open(str(file), "pt") as tensors:
                found |= {canonical(raw): (file, raw) for raw in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None
    return found


class LazyTensors(Mapping[str, "torch.Tensor"]):
    """The tensors of a checkpoint by canonical name, each read where it lies in its file when it is asked
    for: none is kept. The files stay open as long as this lives.

    Raises: UserError where the folder is not a checkpoint or a file is cut short or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        from safetensors import safe_open  # noqa: PLC0415 - configuration imports us

        self._places = tensor_places(folder)
        files = sorted({file for file, _ in self._places.values()})
        self._files = {file: safe_open(str(file), "pt") for file in files}

    def __getitem__(self, name: str) -> "torch.Tensor":
        from safetensors import SafetensorError  # noqa: PLC0415 - configuration imports us

        file, raw = self._places[name]
        try:
            found: torch.Tensor = self._files[file].get_tensor(raw)
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is cut short or damaged ({error}); copy it again")


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, at least one. Raises: UserError."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise UserError(f"{str(folder)!r} is not a checkpoint folder (no config.json)")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{str(folder)!r} has no weights (*.safetensors); copy it again")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        absent = sorted(listed_files(index) - {file.name for file in files})
        if absent:
            raise UserError(f"{str(folder)!r} lacks the weight files {', '.join(absent)}")
    return files


# Keys of config.json that may differ between two stages of one model and change nothing in it.
_NO_ARCHITECTURE = {
    "_name_or_path", "architectures", "attn_implementation", "bos_token_id", "dtype",
    "eos_token_id", "initializer_range", "pad_token_id", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip


def architecture(folder: Path) -> dict[str, Any]:
    """What in a checkpoint's config.json makes the model: two with the same can take each other's
    weights. Raises: UserError where the folder has none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{str(folder)!r} is not a checkpoint folder (no config.json)")
    return {k: v for k, v in json_object(path).items() if k not in _NO_ARCHITECTURE}


def json_object(path: Path) -> dict[str, Any]:
    """The object in a checkpoint's JSON file. Raises: UserError where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy the checkpoint again") from None
    if not isinstance(found, dict):
        raise UserError(
            f"{path} holds a {type(found).__name__} instead of an object; copy the checkpoint again"
        )
    return found


def listed_files(index: Path) -> set[str]:
    """The weight files that an index names. Raises: UserError where it names none."""
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_name, places.values())):
        raise UserError(f"{index} lists no weight files; copy the checkpoint again")
    return set(places.values())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name == value


def tied_names(folder: str | Path) -> frozenset[str]:
    """Tensors that a state dict may repeat because another one is their storage."""
    config = json_object(Path(folder) / "config.json")
    return frozenset({"lm_head.weight"} if config.get("tie_word_embeddings") else ())


def check_tensors(
    expected: Mapping[str, TensorSpec],
    given: "Sequence[tuple[str, torch.Tensor]]",
    *,
    tied: frozenset[str] = frozenset(),
) -> "list[tuple[str, torch.Tensor]]":
    """The given tensors under canonical names, tied copies left out, once they are exactly those
    expected. Raises: UserError naming what is missing, unknown, repeated or of another shape."""
    named: dict[str, torch.Tensor] = {}
    for raw, tensor in given:
        name = canonical(raw)
        if name in named:
            raise UserError(f"weights: tensor {name!r} arrives twice")
        named[name] = tensor
    spare = {name for name in tied if name not in expected}
    missing = sorted(expected.keys() - named.keys())
    unknown = sorted(named.keys() - expected.keys() - spare)
    if missing or unknown:
        parts = [
            f"{w}: {some_of(names)}"
            for w, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise UserError(
            f"weights do not match the engine's model of {len(expected)} tensors; {'; '.join(parts)}"
        )
    for name, spec in expected.items():
        shape, dtype = tuple(named[name].shape), str(named[name].dtype).removeprefix("torch.")
        if shape != spec.shape:
            raise UserError(f"weights: {name!r} has shape {shape}, the engine's model {spec.shape}")
        if dtype != spec.dtype and not {dtype, spec.dtype} <= _DTYPES:
            raise UserError(f"weights: {name!r} is {dtype}, the engine's model {spec.dtype}")
    return [(name, named[name]) for name in expected]
