"""How far a model in bf16 is from itself in fp32 on the probes of a weight sync, in nats and in bf16's steps.

    PYTHONPATH=. python benchmarks/bf16_probes.py runs/smollm2/base/model --syncs 8

A line a sync: the largest difference, the largest logit, bf16's step at that size, the difference in
steps, and the limit that a sync allows. No engine: only what rounding does.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("--syncs", type=int, default=8)
    options = parser.parse_args()
    from engine.sync_check import BF16_STEP, largest_difference, probe_ids, probe_limit
    from model.hybrid import load_model
    from rl.weight_sync import score

    models = [load_model(options.model, dtype=dtype) for dtype in ("float32", "bfloat16")]
    vocabulary = int(models[0].get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    chunk = getattr(models[0].config, "chunk_size", None)
    for version in range(options.syncs):
        prompts = probe_ids(vocabulary, 256, version, chunk=chunk)
        full, half = (score(model, prompts, half=True) for model in models)
        gap = max(
            largest_difference(a.logprobs, b.logprobs) for a, b in zip(full, half, strict=True)
        )
        step = BF16_STEP * full[0].largest
        line = {
            "nats": gap, "largest_logit": full[0].largest, "step": step, "steps": gap / step,
            "limit": probe_limit("bfloat16", full[0].largest),
        }  # fmt: skip
        print(json.dumps({name: round(value, 4) for name, value in line.items()}), flush=True)


if __name__ == "__main__":
    main()
