"""What a conversion will cost. Imports no torch."""

from functools import cache
from pathlib import Path

from model.decoder import DecoderShape, configuration, described
from model.presets import PRESETS, RELEASED
from model.sizes import Shape, parameters
from pretrain.convert.config import ConvertConfig, GgufSource
from pretrain.convert.gguf_file import GgufFile, locate
from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.stage import StagePlan


def plan_convert(config: ConvertConfig, recipe: Recipe) -> StagePlan:
    """Where the model comes from and how it is written."""
    source = config.source
    name = source.path or (source.package if isinstance(source, GgufSource) else "")
    line = f"{source.type} {name} -> a plain checkpoint in {config.dtype}"
    try:
        number = parameters(origin_shape(config))
    except UserError as error:
        return StagePlan(lines=(line, f"size unknown: {error}"), disk_bytes=2**30)
    written = number * {"float32": 4, "bfloat16": 2}[config.dtype]
    lines = (line, f"{number:,} parameters, {written / 2**30:,.2f} GiB written")
    return StagePlan(lines=lines, disk_bytes=written)


def origin_shape(config: ConvertConfig) -> Shape:
    """The shape of the model that is converted, from its configuration. Raises: UserError where it is not
    to be known without loading it."""
    source = config.source
    if isinstance(source, GgufSource):
        path = locate(source)
        return _in_gguf(path, path.stat().st_mtime_ns)
    if (name := RELEASED.get(source.path)) is not None and not Path(source.path).is_dir():
        return PRESETS[name]
    return described(configuration(source.path, source.revision))


@cache
def _in_gguf(path: Path, changed: int) -> DecoderShape:
    """The Llama in a GGUF, from its fields. A plan asks for every stage, and a read takes seconds.

    changed: when the file was; only for the cache.
    """
    file = GgufFile(path)
    kind = file.fields.get("general.architecture")
    if kind != "llama":
        raise UserError(
            f"what a GGUF of the architecture {kind!r} costs is not known; known: llama"
        )
    of = {key.removeprefix("llama."): value for key, value in file.fields.items()}
    heads, width = int(of["attention.head_count"]), int(of["embedding_length"])
    return DecoderShape(
        family="llama",
        layers=int(of["block_count"]),
        hidden_size=width,
        intermediate_size=int(of["feed_forward_length"]),
        num_attention_heads=heads,
        num_key_value_heads=int(of.get("attention.head_count_kv", heads)),
        head_dim=int(of.get("attention.key_length", width // heads)),
        vocab_size=int(of["vocab_size"]),
        tied="output.weight" not in file.names(),
    )
