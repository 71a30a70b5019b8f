"""Tasks of lm-eval over a served model: texts are asked for, log-likelihoods are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.config import EvalsConfig
from evals.models import Model
from evals.sweep import sweep
from tests.judge_server import Said, judge_server
from workbench.errors import UserError

pytestmark = pytest.mark.integration


def _swept(
    name: str, out: Path, say: Callable[[dict[str, Any]], Said], **more: Any
) -> dict[str, Any]:
    with judge_server(say) as server:
        config = EvalsConfig(kind="evals", benchmarks=[name], **more)
        return sweep([Model("m", server.address)], config, out=out / "evals", seed=1)["m"][0]


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_a_task_of_lm_eval_over_an_endpoint(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sacrebleu", reason="scripts/setup.sh evals installs what lm-eval imports")
    folder = tmp_path / "lm-eval"
    folder.mkdir()
    (tmp_path / "rows.jsonl").write_text('{"q": "2 x 3", "a": "6"}\n{"q": "2 x 4", "a": "8"}\n')
    (folder / "doubles.yaml").write_text(
        f"task: doubles\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        f'test_split: test\noutput_type: {kind}\ndoc_to_text: "{{{{q}}}}?"\ndoc_to_target: "{{{{a}}}}"\n'
        + (
            "generation_kwargs: {until: ['.'], max_gen_toks: 40}\nmetric_list: [{metric: exact_match}]\n"
            if kind == "generate_until"
            else "metric_list: [{metric: acc}]\n"
        )
    )
    asked: list[dict[str, Any]] = []

    def say(one: dict[str, Any]) -> Said:
        asked.append(one)
        text = str(one["messages"][-1]["content"])
        # A trace, then the answer up to the task's stop.
        return Said("<think>hm. hm</think>6. So it is." if text.startswith("2 x") else "hm")

    if kind == "loglikelihood":
        with pytest.raises(UserError, match="reads log-likelihoods of prompts"):
            _swept("lm-eval-doubles", tmp_path, say, data=str(tmp_path))
        return
    result = _swept("lm-eval-doubles", tmp_path, say, data=str(tmp_path))
    assert (result["n"], result["failed"]) == (2, 0)
    assert result["metrics"]["accuracy"]["value"] == 0.5
    questions = [a for a in asked if str(a["messages"][-1]["content"]).startswith("2 x")]
    assert [(a["max_tokens"], a["temperature"]) for a in questions] == [(40, 0.0)] * 2
