"""FP8: what is quantised, by which scales, and what travels."""

from tests.mutations.mutation import Mutation

_BLOCKS = ("tests/unit/fp8/test_blocks.py",)
_MODEL = ("tests/unit/fp8/test_model.py",)
_GATHER = ("tests/unit/fp8/test_gather.py",)

MUTATIONS = (
    Mutation(
        "a block's largest value is cut off",
        "model/fp8/blocks.py",
        "(mantissa > _MANTISSA).int()",
        "(mantissa > 0.9).int()",
        "values between 448 and 461 scales become 448 without a word",
        _BLOCKS,
    ),
    Mutation(
        "a NaN is lost in its scale",
        "model/fp8/blocks.py",
        "torch.where(finite, multiplier, torch.nan), torch.where(finite, scale, torch.nan)",
        "multiplier, scale",
        "infinity has a scale of its own, and a broken step goes on",
        _BLOCKS,
    ),
    Mutation(
        "tiles along the tokens cross rows",
        "model/fp8/blocks.py",
        "x = functional.pad(x, (0, 0, 0, -x.shape[1] % TILE))",
        "x = functional.pad(x, (0, 0, 0, 0))",
        "a weight's gradient depends on how rows are grouped",
        _BLOCKS,
    ),
    Mutation(
        "the backward pass rounds x twice",
        "model/fp8/linear.py",
        "along = _tiles(by_rows(_rows(x)), how)",
        "along = _tiles(by_rows(_rows(_tiles(x.flatten(0, -2), how).expanded().view(x.shape))), how)",
        "the gradient of a weight has two roundings of its input",
        _BLOCKS,
    ),
    Mutation(
        "the proof of isolation forgets FP8's scales",
        "model/layers/isolation.py",
        "        if not scales_are_a_tokens_own(how, device):",
        "        if how.ends < 0:",
        "one scale a matrix passes where ids that change move none",
        _MODEL,
    ),
    Mutation(
        "the ends are quantised too",
        "model/fp8/linear.py",
        "middle = names[ends : len(names) - ends]",
        "middle = names[: len(names) - ends]",
        "the first four products are in FP8, unlike the paper's",
        _MODEL,
    ),
    Mutation(
        "a share's blocks begin at its own first row",
        "model/fp8/gather.py",
        "above, top = first % height, first // height",
        "above, top = 0, first // height",
        "what travels depends on where shards are cut",
        _GATHER,
    ),
    Mutation(
        "a NaN is lost between processes",
        "model/fp8/gather.py",
        "amax = torch.where(torch.isnan(amax), torch.inf, amax)",
        "amax = torch.nan_to_num(amax)",
        "the largest of NaN and a number is the number",
        _GATHER,
    ),
    Mutation(
        "weights in FP8 travel in full",
        "model/sharding/shard.py",
        "            gather_in_fp8(in_fp8[0])",
        "            pass",
        "four bytes a parameter are gathered, and nothing says so",
        _GATHER,
    ),
    Mutation(
        "cards without blocks of 128 are let through",
        "model/fp8/products.py",
        "    if capability != _SM90:",
        "    if capability < (8, 9):",
        "a 4090 fails in its first product instead of before the run",
        _MODEL,
    ),
    Mutation(
        "proofs of shards in bf16 forget autocast",
        "model/sharding/shard.py",
        'setattr(model, _HALF, precision == "bf16")',
        "setattr(model, _HALF, False)",
        "a sharded stage in bf16, the default, ends in its first proof",
        _GATHER,
    ),
)
