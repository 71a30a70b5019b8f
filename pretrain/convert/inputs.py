"""Whether the model that a conversion starts from is on this machine. Imports no torch."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data_mix.inputs import check_folder, check_package, must_be_readable
from pretrain.convert.config import ConvertConfig, GgufSource
from pretrain.convert.gguf_file import locate
from workbench.content import Mark, Reads
from workbench.errors import UserError


def package_file(config: ConvertConfig) -> Iterator[Mark]:
    """The GGUF that an installed package ships, where the source is one and it is there."""
    source = config.source
    if isinstance(source, GgufSource) and source.package is not None:
        with suppress(UserError):
            yield Reads("files"), str(locate(source))


def check_origin(config: ConvertConfig) -> None:
    """Raises: UserError where the GGUF, the folder or the package is not there."""
    source = config.source
    if isinstance(source, GgufSource):
        must_be_readable(locate(source), what="source")
        check_package("gguf", "`scripts/setup.sh real`", what="converting a GGUF")
    else:
        check_folder(source.path, what="source")
        if Path(source.path).is_dir():
            must_be_readable(Path(source.path) / "config.json", what="source")
