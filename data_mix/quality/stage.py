"""Stage kind `quality`: ratings in, a classifier out, measured on hosts that it has not seen."""

from hashlib import blake2b
from pathlib import Path

from data_mix.quality.classifier import train
from data_mix.quality.config import QualityConfig
from data_mix.quality.measures import measures
from data_mix.shards import read_shard, shard_files
from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.stage import StageContext, StagePlan


def run(context: StageContext) -> None:
    """Split by host, train, measure, train on all, save."""
    config: QualityConfig = context.config
    texts, ratings, hosts = read_ratings(config, context.inputs[config_name(context)])
    apart = [is_held_out(host, config.held_out) for host in hosts]
    if all(apart) or not any(apart):
        raise UserError(
            f"{len(set(hosts))} hosts cannot be parted into trained and held out; rate texts of more hosts"
        )
    inside = [n for n, out in enumerate(apart) if not out]
    outside = [n for n, out in enumerate(apart) if out]
    settings = {"buckets": config.buckets, "penalty": config.penalty}
    first = train([texts[n] for n in inside], [ratings[n] for n in inside], **settings)  # type: ignore[arg-type]
    found = measures(
        first.score([texts[n] for n in outside]).tolist(),
        [ratings[n] for n in outside], [hosts[n] for n in outside], config.threshold, seed=context.seed,
    )  # fmt: skip
    whole = train(texts, ratings, **settings)  # type: ignore[arg-type]
    whole.save(context.stage_dir, {"texts": len(texts), "hosts": len(set(hosts))})
    context.note(quality=found, texts=len(texts), hosts=len(set(hosts)))


def config_name(context: StageContext) -> str:
    """The stage of the ratings, whose name may have been replaced by its folder."""
    given = str(context.config.ratings)
    return given if given in context.inputs else Path(given).name


def read_ratings(config: QualityConfig, stage: Path) -> tuple[list[str], list[float], list[str]]:
    """(texts, ratings, hosts). Raises: UserError where a column is not there, or holds something else."""
    texts, ratings, hosts = list[str](), list[float](), list[str]()
    for file in shard_files(stage):
        for row in read_shard(file):
            text, rating = row.get(config.text_column), row.get(config.column)
            if (
                not isinstance(text, str)
                or isinstance(rating, bool)
                or not isinstance(rating, int | float)
            ):
                raise UserError(
                    f"{file}, row {row.get('id')!r}: {config.text_column!r} and {config.column!r} must be a text "
                    f"and a number; its columns are: {', '.join(row)}"
                )
            texts.append(text)
            ratings.append(float(rating))
            hosts.append(str(row.get(config.host_column) or row.get("id")))
    return texts, ratings, hosts


def is_held_out(host: str, share: float) -> bool:
    """By a digest of the host: the same hosts whatever else is rated."""
    digest = blake2b(host.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def plan_quality(config: QualityConfig, recipe: Recipe) -> StagePlan:
    """Seconds of one core."""
    line = f"ridge on {config.buckets:,} hashed features of the ratings of {config.ratings}"
    return StagePlan(lines=(line,), disk_bytes=4 * config.buckets)
