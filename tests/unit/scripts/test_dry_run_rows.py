"""`--dry-run` looks at every row of local files: one bad row is one line and exit code 2."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import data_mix.inputs
import rl.rows
from tests import tiny


def dry_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: Path, *words: str
) -> tuple[int, str, str]:
    command = ["run_stage.py", "all", "--recipe", str(recipe), "--dry-run", *words]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.chdir(tiny.ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("scripts/run_stage.py", run_name="__main__")
    return int(ended.value.code or 0), *capsys.readouterr()


def spoil(path: Path, line: int, **changes: Any) -> None:
    """Change one row of a file (lines count from 1)."""
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    rows[line - 1] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_twelfth_prompt_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage()}
    recipe = tiny.write_recipe(tmp_path, stages | {"grpo": tiny.grpo_stage(tmp_path)})
    code, out, err = dry_run(monkeypatch, capsys, recipe)
    assert (code, err) == (0, "")
    assert "    prompts: 16 of 16 rows looked at\n    held_out: 16 of 16 rows looked at\n" in out
    spoil(tmp_path / "prompts.jsonl", 12, check={"kind": "contain", "reference": ["e"]})
    code, _, err = dry_run(monkeypatch, capsys, recipe)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: stage 'grpo': prompts: row 'q11' (")
    assert (
        "prompts.jsonl, line 12): unknown kind of check 'contain'; did you mean 'contains'" in err
    )
    code, out, err = dry_run(monkeypatch, capsys, recipe, "--set", "stages.grpo.skip_bad=true")
    assert (code, err) == (0, "")
    assert "prompts: 16 of 16 rows looked at; skip_bad leaves out 1 (check 1)" in out
    # Rows beyond the limit wait for the run, and the plan says so.
    for module in (rl.rows, data_mix.inputs):
        monkeypatch.setattr(module, "LOOKED_AT", 5)
    code, out, _ = dry_run(monkeypatch, capsys, recipe, "--set", "stages.grpo.skip_bad=true")
    assert code == 0
    assert "held_out: 5 of 16 rows looked at (the others before anything is sampled)" in out


def test_a_row_in_the_middle_of_an_sft_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"messages": messages}) + "\n") * 6, encoding="utf-8")
    stages = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage()}
    parts = {"own": {"source": {"type": "jsonl", "path": str(path)}, "samples": 6}}
    recipe = tiny.write_recipe(tmp_path, stages | {"sft": tiny.sft_stage(parts=parts)})
    code, out, err = dry_run(monkeypatch, capsys, recipe)
    assert (code, err) == (0, "") and "    own: 6 of 6 rows looked at\n" in out
    spoil(path, 5, messages="hello")
    code, _, err = dry_run(monkeypatch, capsys, recipe)
    assert code == 2 and err.count("\n") == 1
    assert "stage 'sft': source 'own': " in err and "rows.jsonl, line 5" in err
