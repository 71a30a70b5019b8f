"""An ablation on a disk that fills: at an arm's training, and at the table."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from scripts.run_stage import arguments
from scripts.run_stage import run as run_stage
from tests import tiny
from tests.small_disk import small_disk
from workbench.command import finish

ABLATION: dict[str, Any] = {
    "kind": "ablation", "needs": ["tokenizer", "pretrain"], "base": "pretrain",
    "blend": {
        "sources": {**tiny.BLEND["sources"], "code": {"type": "pretraining", "category": "code"}},
        "phases": [{"until": 1.0, "weights": {"math": 1}}],
    },
    "arms": {"without": {}, "with": {"share": {"code": 0.3}}},
    "seeds": [1, 2],
    "train": {
        "total_tokens": 1024, "row_tokens": 64, "rows_per_step": 4, "microbatch_rows": 4,
        "precision": "fp32", "threads": 1,
    },
    "held_out": {"sums": {"type": "world", "domain": "math", "split": "test"}},
    "held_out_documents": 8,
}  # fmt: skip
STAGES = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage(), "table": ABLATION}


def run(path: Path, stage: str) -> int:
    parser = ArgumentParser()
    arguments(parser)
    return finish(lambda: run_stage(parser.parse_args([stage, "--recipe", str(path)])))


def tables(folder: Path) -> list[bytes]:
    return [
        (folder / "runs/tiny/table" / name).read_bytes()
        for name in ("table.md", "comparisons.json")
    ]


@pytest.mark.stress
@pytest.mark.parametrize(("done", "room"), [("pretrain", 8), ("parts", 0)])  # fmt: skip
def test_a_full_disk_under_an_ablation_is_one_line_and_the_table_is_the_undisturbed_ones(
    done: str, room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = {"cluster": {"backend": "local"}}
    calm = tmp_path / "calm"
    calm.mkdir()
    assert run(tiny.write_recipe(calm, STAGES, **local), "all") == 0
    with small_disk(tmp_path / "disk") as disk:
        path = tiny.write_recipe(disk.place, STAGES, **local)
        parts = [f"table-{arm}-{seed}" for arm in ("without", "with") for seed in (1, 2)]
        for stage in parts if done == "parts" else [done]:
            assert run(path, stage) == 0
        capsys.readouterr()
        disk.leave(room)
        assert run(path, "all") == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "could not be written in full" in line and "continues" in line
        disk.grow()
        assert run(path, "all") == 0
        assert tables(disk.place) == tables(calm)
