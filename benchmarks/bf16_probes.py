"""How far a model in bf16 is from itself in fp32 on the probes of a weight sync, before and after probes that
rounding alone moves are drawn again.

    PYTHONPATH=. python benchmarks/bf16_probes.py runs/smollm2/base/model --syncs 100

A line a sync: the largest difference in nats and the limit, of the first draws and of the probes that are asked,
and how many of the three were drawn again; then the sums. No engine: only what rounding does.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported


class Gap(NamedTuple):
    nats: float
    limit: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("--syncs", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="version of the first sync")
    options = parser.parse_args()
    from model.hybrid import load_model
    from rl.probes import ask, drawing

    full, half = (load_model(options.model, dtype=dtype) for dtype in ("float32", "bfloat16"))
    again, before, after = 0, list[Gap](), list[Gap]()
    for version in range(options.first, options.first + options.syncs):
        draw = drawing(full, version=version, longest=256, cached=False)
        plain, asked = draw([0, 0, 0]), ask(full, draw, half=True)
        drawn = sum(ids != probe.token_ids for ids, probe in zip(plain, asked, strict=True))
        before.append(_gap(full, half, plain))
        same = before[-1]
        after.append(_gap(full, half, [probe.token_ids for probe in asked]) if drawn else same)
        again += drawn
        line = {"before": before[-1]._asdict(), "after": after[-1]._asdict(), "drawn_again": drawn}
        print(json.dumps({"sync": version, **line}), flush=True)
    refused = {
        name: sum(gap.nats > gap.limit for gap in gaps)
        for name, gaps in (("before", before), ("after", after))
    }
    most = max(after, key=lambda gap: gap.nats / gap.limit)
    share = again / (3 * options.syncs)
    print(json.dumps({"syncs": options.syncs, "refused": refused, "probes_drawn_again": share}))
    print(json.dumps({"nearest_to_its_limit": most._asdict()}))


def _gap(full: Any, half: Any, prompts: list[list[int]]) -> Gap:
    from engine.sync_check import largest_difference, probe_limit
    from rl.probes import scored

    wide, narrow = (scored(model, prompts, half=True) for model in (full, half))
    pairs = zip(wide, narrow, strict=True)
    nats = max(largest_difference(a.logprobs, b.logprobs) for a, b in pairs)
    return Gap(nats, probe_limit("bfloat16", wide[0].largest))


if __name__ == "__main__":
    main()
