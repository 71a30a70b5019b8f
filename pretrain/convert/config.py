"""Recipe section of the stage kind `convert`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workbench.content import Reads
from workbench.recipe import StageConfig
from workbench.schema import Section


class GgufSource(Section):
    """A GGUF file, by its path or inside an installed Python package."""

    type: Literal["gguf"]
    path: Annotated[str | None, Reads("files")] = None
    """A local file. Either this or `package`."""
    package: str | None = None
    """Import name of an installed package that ships exactly one GGUF; it is not imported."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "GgufSource":
        if (self.path is None) == (self.package is None):
            raise ValueError("a gguf source has either `path` or `package`")
        return self


class CheckpointSource(Section):
    """A Hugging Face checkpoint, in a local folder or on the hub."""

    type: Literal["checkpoint"]
    path: Annotated[str, Reads("checkpoint")]
    """A folder, or a hub id ORG/NAME."""
    revision: str | None = None
    """Of a hub id: a commit; null: the newest when the stage first starts."""


class ConvertConfig(StageConfig):
    """Stage kind `convert`."""

    kind: Literal["convert"]
    source: Annotated[GgufSource | CheckpointSource, Field(discriminator="type")]
    """Where the model comes from."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How weights are written. float32 keeps every value of a 4-bit GGUF; bfloat16 rounds them."""
