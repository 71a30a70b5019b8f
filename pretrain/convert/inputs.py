"""Whether the model that a conversion starts from is on this machine. Imports no torch."""

from pathlib import Path

from data_mix.inputs import check_folder, check_package, must_be_readable
from pretrain.convert.config import ConvertConfig, GgufSource
from pretrain.convert.gguf_file import locate


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
