"""Merging against numpy on the loaded models, its exact ends, and what it refuses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from model.hybrid import build_config, load_model, save_model
from rl.merge import stage as merge_stage
from rl.merge.config import MergeConfig
from rl.merge.linear import interpolate
from rl.merge.plan import plan_merge
from rl.merge.stage import Point, pick, read_point, summary
from workbench.errors import UserError
from workbench.recipe import build
from workbench.records import to_json
from workbench.rundir import Manifest, RunDir, write_json
from workbench.stage import StageContext
from workbench.statistics import mean_interval, paired_interval

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip


def _save(folder: Path, tokenizer: Any, seed: int, **fields: Any) -> Path:
    model = load_model(build_config(**(SMALL | fields)), seed=seed)
    with torch.no_grad():
        # Values whose bits an arithmetic shortcut loses: negative zero, the smallest subnormal.
        model.lm_head.weight[seed, :16] = torch.tensor([-0.0, 1e-45] * 8)
    return save_model(model, folder, tokenizer)


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("merge")
    return _save(root / "a", tokenizer, 1), _save(root / "b", tokenizer, 2)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {k: v.numpy() for k, v in model.state_dict().items()}


def test_interpolates_every_tensor(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = map(_weights, pair)
    merged = _weights(interpolate(*pair, 0.3, tmp_path / "out"))
    assert merged.keys() == first.keys()
    for name, got in merged.items():
        a, b = first[name].astype(np.float64), second[name].astype(np.float64)
        expected = (a * 0.7 + b * 0.3).astype(np.float32)
        # One rounding from float64: at most the last bit differs from another order of operations.
        np.testing.assert_array_max_ulp(got, expected, maxulp=1)
    assert any((merged[k] != first[k]).any() for k in merged)


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
def test_the_ends_are_the_models_bit_for_bit(
    pair: tuple[Path, Path], tmp_path: Path, alpha: float
) -> None:
    merged, end = _weights(interpolate(*pair, alpha, tmp_path / "out")), _weights(pair[int(alpha)])
    for name, got in merged.items():
        assert got.tobytes() == end[name].tobytes(), name
    special = merged["lm_head.weight"][int(alpha) + 1]
    assert np.signbit(special[0:16:2]).all() and (special[1:16:2] > 0).all()


def test_equal_models_merge_to_themselves(pair: tuple[Path, Path], tmp_path: Path) -> None:
    merged, own = _weights(interpolate(pair[0], pair[0], 0.37, tmp_path / "out")), _weights(pair[0])
    assert all((merged[k] == own[k]).all() for k in own)


def test_reads_sharded_checkpoints_and_keeps_the_tokenizer(
    pair: tuple[Path, Path], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    load_model(pair[1]).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / "shards" / name).write_bytes((pair[1] / name).read_bytes())
    # save_pretrained writes attn_implementation of ours; the checkpoint's own config is the plain one
    (tmp_path / "shards" / "config.json").write_bytes((pair[1] / "config.json").read_bytes())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    one = _weights(interpolate(pair[0], tmp_path / "shards", 0.5, tmp_path / "one"))
    two = _weights(interpolate(tmp_path / "shards", pair[0], 0.5, tmp_path / "two"))
    plain = _weights(interpolate(*pair, 0.5, tmp_path / "plain"))
    for name in plain:
        assert (one[name] == plain[name]).all() and (two[name] == plain[name]).all()
    kept = json.loads((tmp_path / "one" / "tokenizer.json").read_text())
    assert kept == json.loads((pair[0] / "tokenizer.json").read_text())


def test_refuses_what_cannot_be_merged(
    pair: tuple[Path, Path], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    wide = _save(tmp_path / "wide", tokenizer, 3, intermediate_size=48)
    with pytest.raises(UserError, match="configurations .*intermediate_size: 64 and 48"):
        interpolate(pair[0], wide, 0.5, tmp_path / "o1")
    order = _save(tmp_path / "order", tokenizer, 3, pattern="M*--")
    with pytest.raises(UserError, match="differ in their configurations"):
        interpolate(pair[0], order, 0.5, tmp_path / "o2")
    other = _save(tmp_path / "other", tokenizer, 3)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"<SPECIAL_19>"', '"<SPECIAL_20>"'))
    with pytest.raises(UserError, match=r"differ in their tokenizer\.json"):
        interpolate(pair[0], other, 0.5, tmp_path / "o3")
    half = tmp_path / "half"
    model = load_model(pair[1], dtype="bfloat16")
    save_model(model, half, tokenizer)
    with pytest.raises(UserError, match="differ in their tensors .*bfloat16"):
        interpolate(pair[0], half, 0.5, tmp_path / "o4")
    broken = load_model(pair[1])
    with torch.no_grad():
        broken.lm_head.weight[3, 3] = float("nan")
    save_model(broken, tmp_path / "nan", tokenizer)
    with pytest.raises(UserError, match=r"lm_head\.weight holds a value that is not finite"):
        interpolate(pair[0], tmp_path / "nan", 0.5, tmp_path / "o5")
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="from 0 to 1"):
            interpolate(*pair, alpha, tmp_path / "o6")


def test_picks_the_best_and_among_equals_the_middle() -> None:
    points = [Point(a, s, {}) for a, s in ((0.1, 0.5), (0.4, 0.7), (0.6, 0.6), (0.9, 0.7))]
    assert pick(points).alpha == 0.4


def _result(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "benchmark": "b", "budget": None, "n": 1, "metrics": metrics}


def _measured(folder: Path, benchmarks: dict[str, list[float]], alpha: float) -> Point:
    for name, values in benchmarks.items():
        found = mean_interval(values)
        own = folder / f"{alpha:g}" / name
        write_json(own / "results.json", _result({"accuracy": to_json(found)}))
        rows = [{"id": f"q{i}", "value": value} for i, value in enumerate(values)]
        (own / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_point(folder / f"{alpha:g}", alpha, "accuracy")


def test_the_intervals_weigh_benchmarks_as_the_score_does(tmp_path: Path) -> None:
    """100 questions of one kind and 10 of another, half the score each: the small one's gain of 0.4
    outweighs the large one's loss of 0.1, which would win among the 110."""
    end = _measured(tmp_path, {"large": [1.0] * 50 + [0.0] * 50, "small": [0.0] * 10}, 0.0)
    best = _measured(
        tmp_path, {"large": [1.0] * 40 + [0.0] * 60, "small": [1.0] * 4 + [0.0] * 6}, 0.4
    )
    assert (end.score, best.score) == (0.25, 0.4)
    found = summary([end, best], best, "accuracy", ["left", "right"])
    (difference,) = found["differences"]
    assert difference["against"] == "left"
    gain = difference["difference"]
    assert gain["value"] == pytest.approx(0.15) and gain["n"] == 110
    large = paired_interval([1.0] * 50 + [0.0] * 50, [1.0] * 40 + [0.0] * 60)
    small = paired_interval([0.0] * 10, [1.0] * 4 + [0.0] * 6)
    assert gain["stderr"] == pytest.approx(math.hypot(large.stderr, small.stderr) / 2)
    for point, row in zip((end, best), found["sweep"], strict=True):
        low, high = row["ci95"]
        assert (low + high) / 2 == pytest.approx(point.score) and row["n"] == 110


def _recipe(**fields: Any) -> Any:
    merge = {
        "kind": "merge", "needs": ["left", "right"],
        "evals": {"benchmarks": ["mini-math-validation"], "limit": 4},
    } | fields  # fmt: skip
    stages = {n: {"kind": "tokenizer", "blend": _BLEND} for n in ("left", "right")}
    return build({"name": "t", "stages": {**stages, "merged": merge}})


_BLEND = {
    "sources": {"math": {"type": "pretraining", "category": "math"}},
    "phases": [{"until": 1.0, "weights": {"math": 1}}],
}


def _until(function: Any, count: int) -> Any:
    """The function, which dies at its call number count + 1."""
    calls: list[int] = []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return function(*args)

    return dies


def test_the_stage_picks_by_the_named_metric(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep whose metric peaks at 0.3, read from the candidates' own weights."""
    run = RunDir(tmp_path / "run")
    run.stage("merged").mkdir(parents=True)
    for name, model in zip(("left", "right"), pair, strict=True):
        (run.stage(name)).mkdir(parents=True)
        (run.stage(name) / "model").symlink_to(model)
    ends = [_weights(folder)["lm_head.weight"] for folder in pair]
    asked = []

    def sweep(models: dict[str, Path], config: Any, *, out: Path, seed: int) -> None:
        ((name, folder),) = models.items()
        weight = _weights(folder)["lm_head.weight"]
        alpha = round(float(((weight - ends[0])[5:] / (ends[1] - ends[0])[5:]).mean()), 4)
        asked.append(round(alpha, 3))
        metrics = {
            m: {"value": v, "stderr": 0.1, "ci95": [0, 1]}
            for m, v in (("accuracy", alpha), ("score", 1 - abs(alpha - 0.3)))
        }
        folder = out / name / "mini-math-validation"
        write_json(folder / "results.json", _result(metrics))
        rows = [{"id": f"q{i}", "value": float(i / 10 < alpha)} for i in range(10)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    real = merge_stage.registry.resolve
    monkeypatch.setattr(
        merge_stage.registry, "resolve", lambda t: sweep if t == "evals.stage:sweep" else real(t)
    )
    recipe = _recipe(alphas=[0.1, 0.3, 0.5], metric="score")
    inputs = {n: run.stage(n) for n in ("left", "right")}
    run.write_manifest(Manifest("merged", "merge", "running", {}, "", 0))
    # Killed while the third alpha is measured: the first two are in the manifest already.
    with monkeypatch.context() as patch:
        patch.setattr(merge_stage, "read_point", _until(merge_stage.read_point, 2))
        with pytest.raises(KeyboardInterrupt):
            merge_stage.run(StageContext("merged", recipe.stages["merged"], recipe, run, inputs))
    manifest = run.manifest("merged")
    assert manifest is not None
    assert [row["alpha"] for row in manifest.outputs["sweep"]] == [0.0, 0.1]
    assert manifest.outputs["models"] == {"alpha 0": "left", "alpha 1": "right"}
    context = StageContext("merged", recipe.stages["merged"], recipe, run, inputs)
    merge_stage.run(context)
    assert asked == [0.0, 0.1, 0.3, 0.5, 1.0]
    assert context.outputs["alpha"] == 0.3 and context.outputs["metric"] == "score"
    # In the metric that picked, 1 against 0.3, although alpha 1 answers more of the ten questions.
    found = {d["against"]: d["difference"]["value"] for d in context.outputs["differences"]}
    assert found["right"] == pytest.approx(0.7)
    got = _weights(run.stage("merged") / "model")["lm_head.weight"]
    np.testing.assert_allclose(got, 0.7 * ends[0] + 0.3 * ends[1], atol=1e-7)
    # All results are there: nothing is measured again.
    merge_stage.run(StageContext("merged", recipe.stages["merged"], recipe, run, inputs))
    assert len(asked) == 5
    with pytest.raises(UserError, match="'f1' is not measured; there are: accuracy, score"):
        read_point(run.stage("merged") / "sweep" / "alpha-0.1", 0.1, "f1")


def test_configuration_errors_are_one_line() -> None:
    for fields, words in (
        ({"alphas": [0.5, 0.1]}, "alphas must rise"),
        ({"alphas": [1.5]}, "less than or equal to 1"),
        ({"evals": {"benchmarks": ["x"], "benchmark": 1}}, "did you mean 'benchmarks'"),
    ):
        with pytest.raises(UserError, match=words):
            _recipe(**fields)
    recipe = _recipe()
    config = recipe.stages["merged"]
    # Eleven models of four questions each.
    assert "44 samples" in " ".join(plan_merge(config, recipe).lines)
    assert isinstance(config, MergeConfig) and config.alphas == [i / 10 for i in range(1, 10)]
