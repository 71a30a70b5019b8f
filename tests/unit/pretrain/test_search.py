"""Stage kind `search`: the stages that one stands for, the rule of its choice, and the model it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.hybrid import save_model
from model.presets import shape
from pretrain.compress.config import PruneConfig
from pretrain.compress.fitting import PAPER_LOAD, PAPER_SPACE, candidates
from pretrain.compress.target import planned_shape, target_of
from pretrain.hybrid import build_config, load_model
from pretrain.search import stage
from pretrain.search.choice import Candidate, markdown, pick
from pretrain.search.expand import expand, plan_search
from workbench.errors import UserError
from workbench.recipe import build, load
from workbench.records import UNKNOWN, Estimate, Sample, to_json
from workbench.rundir import RunDir
from workbench.stage import StageContext

RECIPE = Path("recipes/miniature-search.yaml")
# [paper] Table 10: accuracy after 19B tokens of distillation, output tokens a second on an A10G.
TABLE_10 = {"1": (59.07, 161.02), "2": (63.02, 156.42), "3": (62.94, 155.86)}


def exact(value: float) -> Estimate:
    return Estimate(value, 0.0, (value, value), 1)


def measured(rows: dict[str, tuple[float, float | None]]) -> list[Candidate]:
    return [
        Candidate(name, shape("miniature"), 1000, exact(accuracy / 100),
                  UNKNOWN if speed is None else exact(speed))
        for name, (accuracy, speed) in rows.items()
    ]  # fmt: skip


def test_a_search_stands_for_its_stages_and_reads_back_the_same() -> None:
    recipe = load(RECIPE)
    one: Any = recipe.stages["depth-layers-6"]
    assert (one.kind, one.target.layers, one.needs) == ("prune", 6, ["sft3"])
    taught: Any = recipe.stages["depth-layers-6-2"]
    assert (taught.kind, taught.seed, taught.teacher) == ("distill", 2, "sft3")
    assert taught.needs == ["depth-layers-6", "sft3"]
    ranked: Any = recipe.stages["widths-3"]
    assert (ranked.target, ranked.fit.rank, ranked.needs) == (None, 3, ["depth", "sft3"])
    # A candidate without sizes is not pruned; its blend is its own.
    assert "shares-half" not in recipe.stages
    half: Any = recipe.stages["shares-half-1"]
    assert half.needs == ["widths", "sft3"] and half.blend.phases[0].weights[
        "mix"
    ] == pytest.approx(0.36)
    assert recipe.stages["depth-evals"].needs[0] == "sft3"
    assert build(recipe.resolved()).resolved() == recipe.resolved()
    fewer = load(RECIPE, ["stages.depth.seeds=[4]", "stages.depth.distill.total_tokens=2048"])
    assert fewer.stages["depth-layers-7-4"].total_tokens == 2048  # type: ignore[attr-defined]
    assert "depth-layers-7-1" not in fewer.stages


def test_the_plan_knows_the_sizes_of_what_may_be_picked() -> None:
    recipe = load(RECIPE)
    found = planned_shape(recipe, ["depth"])
    assert found is not None and len(found.pattern) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "other"}, "not in needs"),
        ({"candidates": {"a": {"target": {"layers": 3}}}}, "not a search"),
        ({"candidates": {}}, "give `candidates` (by name) or `fit`"),
        ({"seeds": [2, 2]}, "repeat"),
        ({"throughput": None, "least_tokens_per_s": 5.0}, "needs `throughput`"),
        ({"candidates": {"a": {"target": {}}, "b": {}}}, "no size to prune to"),
        ({"candidates": {"7": {"target": {"layers": 7}}, "7-1": {"target": {"layers": 7}}}}, "would be called 'x-7-1'"),
        ({"candidates": {"evals": {"target": {"layers": 7}}, "b": {}}}, "would be called 'x-evals'"),
    ],
)  # fmt: skip
def test_a_wrong_search_is_one_line(change: dict[str, Any], words: str) -> None:
    body = {
        "kind": "search", "needs": ["base"], "teacher": "base", "benchmarks": ["mini-math"],
        "candidates": {"a": {}, "b": {}}, **change,
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        expand("x", body)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_rule_picks_the_papers_candidate() -> None:
    """[paper] Of Table 10 the second was chosen: the most accurate, and faster than the one beside it."""
    found = measured(TABLE_10)  # type: ignore[arg-type]
    assert pick(found, within=0.005, least=None).name == "2"
    # Slower by a little and better by nothing: the fastest of those alike.
    assert pick(found, within=0.05, least=None).name == "1"
    assert pick(found, within=0.005, least=158.0).name == "1"
    assert pick(found, within=0.0, least=156.0).name == "2"
    with pytest.raises(UserError, match=r"least_tokens_per_s 200; the fastest, 1, makes 161\.0"):
        pick(found, within=0.005, least=200.0)


def test_without_throughput_the_most_accurate_is_picked() -> None:
    found = measured({"a": (40.0, None), "b": (51.5, None), "c": (51.4, None)})
    assert pick(found, within=0.01, least=None).name == "b"
    text = markdown("depth", found, [], found[1], "A rule.")
    assert [line.split(" | ")[0] for line in text.splitlines()[6:9]] == ["| b", "| c", "| a"]
    assert text.count("picked") == 1


def test_the_rank_of_what_fits_is_what_is_pruned_to() -> None:
    s = shape("nano2-9b")
    body = {"space": PAPER_SPACE.model_dump(), "load": PAPER_LOAD.model_dump()}
    third = PruneConfig.read(
        {"kind": "prune", "fit": {**body, "rank": 3}, "blend": _blend()}, where=""
    )
    chosen = candidates(s, PAPER_SPACE, PAPER_LOAD)[2].shape
    target = target_of(third, s)
    assert (target.hidden_size, target.ffn, target.mamba_heads, target.layers) == (
        chosen.hidden_size, chosen.intermediate_size, chosen.mamba_num_heads, None,
    )  # fmt: skip
    last = PruneConfig.read(
        {"kind": "prune", "fit": {**body, "rank": 999}, "blend": _blend()}, where=""
    )
    with pytest.raises(UserError, match=r"fit\.rank 999: only \d+ combinations fit; give 1 to"):
        target_of(last, s)
    with pytest.raises(UserError, match="`target` .* or `fit`"):
        PruneConfig.read({"kind": "prune", "blend": _blend()}, where="")


def test_only_questions_that_all_candidates_answered_compare() -> None:
    """[derived] Of q1 and q2 the second has no verdict of `a`'s second seed: it counts for nobody."""
    one = {"math": {(1, "q1"): (1.0, "q1"), (1, "q2"): (0.0, "q2"), (2, "q1"): (1.0, "q1")}}
    two = {"math": {(1, "q1"): (0.0, "q1"), (1, "q2"): (1.0, "q2"), (2, "q1"): (0.0, "q1"),
                    (2, "q2"): (1.0, "q2")}}  # fmt: skip
    kept, left_out = stage.shared({"a": one, "b": two})
    assert left_out == 1 and list(kept["b"]["math"]) == list(one["math"])
    with pytest.raises(UserError, match="no question has a verdict for all candidates; b has 0"):
        stage.shared({"a": one, "b": {"math": {}}})


def test_a_throughput_longer_than_the_model_is_refused_by_the_plan() -> None:
    recipe = load(RECIPE, ["stages.widths.throughput.prompt_tokens=8192"])
    config: Any = recipe.stages["widths"]
    with pytest.raises(
        UserError, match=r"8,192 \+ 256 tokens are more than the model takes \(4,096\)"
    ):
        plan_search(config, recipe)


def test_the_stage_leaves_the_picked_model_and_a_table(tmp_path: Path, tokenizer: Any) -> None:
    """Two candidates, two seeds, verdicts by hand: 3 of 4 against 2 of 4, and the first seed's model."""
    recipe = build({
        "name": "s", "model": {"preset": "miniature"},
        "stages": {
            "base": {"kind": "convert", "source": {"type": "checkpoint", "path": str(tmp_path)}},
            "depth": {
                "kind": "search", "needs": ["base"], "teacher": "base", "seeds": [1, 2],
                "candidates": {"a": {"target": {"layers": 3}}, "b": {"target": {"layers": 4}}},
                "prune": {"blend": _blend()}, "distill": {"blend": _blend(), "total_tokens": 2048},
                "benchmarks": ["mini-math"], "throughput": None,
            },
        },
    })  # fmt: skip
    run = RunDir(tmp_path / "run")
    verdicts = {"a-1": [1, 0], "a-2": [1, 0], "b-1": [1, 1], "b-2": [1, 0]}
    for place, (name, values) in enumerate(verdicts.items()):
        model = load_model(_config("M-*" if name.startswith("a") else "M-*-", seed=place))
        save_model(model, run.stage(f"depth-{name}") / "model", tokenizer)
        folder = run.root / "evals" / f"depth-{name}" / "mini-math"
        folder.mkdir(parents=True)
        rows = [to_json(Sample(f"q{i}", value=float(v))) for i, v in enumerate(values)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    config = recipe.stages["depth"]
    inputs = {need: run.stage(need) for need in config.needs}
    context = StageContext("depth", config, recipe, run, inputs)
    context.stage_dir.mkdir(parents=True)
    stage.run(context)
    assert context.outputs["picked"] == "b"
    assert len(load_model(context.stage_dir / "model").config.layers_block_type) == 4
    weights = [
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (context.stage_dir, run.stage("depth-b-1"), run.stage("depth-b-2"))
    ]
    assert weights[0] == weights[1] != weights[2]
    (change,) = context.outputs["differences"]
    assert (change["model"], change["against"]) == ("a", "b")
    assert change["difference"]["value"] == pytest.approx(-0.25)
    table = (context.stage_dir / "table.md").read_text(encoding="utf-8")
    assert "| b | 4 |" in table and "Throughput was not measured" in table


def _blend() -> dict[str, Any]:
    sources = {"m": {"type": "pretraining", "category": "math"}}
    return {"sources": sources, "phases": [{"until": 1.0, "weights": {"m": 1}}]}


def _config(pattern: str, seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    return build_config(
        pattern=pattern, hidden_size=32, intermediate_size=48, mamba_num_heads=4, mamba_head_dim=8,
        n_groups=2, ssm_state_size=8, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        vocab_size=256,
    )  # fmt: skip
