"""Nothing computes silently on the CPU: every stage kind that computes, on a stand-in for a card."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.card_stages import TRIALS
from tests.unit.conftest import tokenizer  # noqa: F401 - a fixture
from workbench import registry

pytestmark = pytest.mark.integration
# Their own process only asks an engine, which has a card of its own.
ASK_ONLY = {"rejection"}


@pytest.fixture(scope="module")
def trials(
    tokenizer: PreTrainedTokenizerFast,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Name -> where it computed: in a process that torch has told of the device."""
    folder = tmp_path_factory.mktemp("card")
    tokenizer.save_pretrained(folder / "tokenizer")
    done = subprocess.run(
        [sys.executable, "-m", "tests.card_stages", str(folder / "tokenizer"), str(folder)],
        cwd=tiny.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=tiny.PATIENCE_S,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["name"]: found for found in map(json.loads, lines)}


def test_every_kind_that_computes_has_its_trial() -> None:
    computing = {name for name, kind in registry.kinds().items() if kind.on_card}
    assert computing == {name.split("-")[0] for name in TRIALS} | ASK_ONLY


@pytest.mark.parametrize("name", TRIALS)
def test_a_stage_computes_where_it_is_placed(name: str, trials: dict[str, dict[str, Any]]) -> None:
    """Modules, what they are given, the optimizer's state; and no product of the CPU's."""
    found = trials[name]
    assert not found["error"], found["error"]
    assert found["on_cpu"] == {}
    assert found["work"] > 100
    assert found["modules"] == found["inputs"] == ["card:0"]
    trains = name not in ("prune", "ablation")
    assert found["states"] == (["card:0"] if trains else [])
