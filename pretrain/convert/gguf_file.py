"""Read a GGUF file: where it is, its fields, its tensors as fp32."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pretrain.convert.config import GgufSource
from workbench.errors import UserError


def locate(source: GgufSource) -> Path:
    """The file of a source. Raises: UserError where it is not there, or the choice is not clear."""
    if source.path is not None:
        path = Path(source.path)
        if not path.is_file():
            raise UserError(f"no GGUF file at {path}; check convert.source.path")
        return path
    assert source.package is not None
    spec = find_spec(source.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise UserError(
            f"package {source.package!r} is not installed; run `scripts/setup.sh real`, or give "
            "source.path"
        )
    found = sorted(p for folder in folders for p in Path(folder).rglob("*.gguf"))
    if len(found) != 1:
        raise UserError(
            f"package {source.package!r} ships {len(found)} GGUF files "
            f"({', '.join(p.name for p in found) or 'none'}); give the file as source.path"
        )
    return found[0]


class GgufFile:
    """One opened file. fields: scalar and text fields by name; arrays are left to the tokenizer."""

    def __init__(self, path: Path) -> None:
        try:
            import gguf  # noqa: PLC0415 - optional (requirements/real.txt)
        except ImportError:
            raise UserError(
                "converting a GGUF needs the package gguf; run `scripts/setup.sh real`"
            ) from None
        self._dequantize = gguf.dequantize
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise UserError(f"{path} is not a whole GGUF file ({error}); copy it again") from None
        self.fields: dict[str, Any] = {
            name: field.contents()
            for name, field in self._reader.fields.items()
            if len(field.types) == 1
        }

    def tensor_types(self) -> dict[str, int]:
        """Quantization type -> number of tensors, for the manifest."""
        out: dict[str, int] = {}
        for tensor in self._reader.tensors:
            name = str(tensor.tensor_type.name)
            out[name] = out.get(name, 0) + 1
        return out

    def names(self) -> set[str]:
        """GGUF names of the tensors."""
        return {tensor.name for tensor in self._reader.tensors}

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """(GGUF name, fp32 values in row-major Hugging Face shape)."""
        for tensor in self._reader.tensors:
            yield tensor.name, self._dequantize(tensor.data, tensor.tensor_type)
