"""One worker of a stage, as Ray Train would start it: python -m tests.stage_worker JOB.json"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from workbench.distributed import launch
from workbench.stage import StageContext


def worker(job: dict[str, Any]) -> None:
    """The stage's work in this process of a group; ANNEAL_TEST_STOP=N stops it after N steps."""
    after = int(os.environ.get("ANNEAL_TEST_STOP", "0"))
    seen: list[int] = []

    def stops(self: StageContext) -> bool:
        seen.append(1)
        return len(seen) == after

    StageContext.should_stop = stops  # type: ignore[method-assign]
    launch._in_worker(job)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    worker(json.loads(Path(sys.argv[1]).read_text()))
    dist.destroy_process_group()
