"""--set changes the place that it names, and nothing else, in every recipe that is shipped."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import UserError
from workbench.inherit import extended, with_likes
from workbench.recipe import _override, build, load, read_yaml

RECIPES = sorted(Path("recipes").glob("*.yaml"))


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Dotted place -> scalar."""
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and value:
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {place: value}
    return {k: v for key, inner in parts for k, v in flat(inner, f"{place}.{key}").items()}


def places(stages: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every scalar of the stages, those they inherit with them, as --set names it."""
    for place, value in flat(with_likes(stages)).items():
        if not isinstance(value, dict | list):
            yield f"stages{place}", value


def resolved(raw: dict[str, Any], override: str) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    _override(changed, [override])
    return {place.strip("."): value for place, value in flat(build(changed).resolved()).items()}


def others(value: Any) -> list[Any]:
    """Values to try in a place's stead; the schema refuses some."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [other for other in (value * 2, value + 1, value / 2, value * 1.1) if other != value]
    words = ["validation", "train", "test", "math", "crawl-high", "bf16", "fp32", "linear", "cosine",
             "mini-math", "anything", "protocol", "with", "bfloat16", "zero2", "checkpoint"]  # fmt: skip
    return [word for word in words if word != value]


# Numbers that must fit their neighbours: a change of one alone is refused, or divides all by their sum.
# A seed of an ablation names one of its arms' stages too.
BOUND = (
    ".weights.", ".until", ".microbatch_rows", ".requests.", ".distributed.", ".share.", ".seeds.",
)  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_setting_a_place_to_what_it_is_changes_nothing(path: Path) -> None:
    raw = extended(path, read_yaml)
    before = {place.strip("."): value for place, value in flat(build(raw).resolved()).items()}
    for place, value in places(raw["stages"]):
        assert resolved(raw, f"{place}={json.dumps(value)}") == before, place


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_setting_a_place_to_another_value_changes_that_key_alone(path: Path) -> None:
    raw = extended(path, read_yaml)
    before = {place.strip("."): value for place, value in flat(build(raw).resolved()).items()}
    changed = 0
    for place, value in places(raw["stages"]):
        if any(part in place for part in BOUND) or place.endswith(".kind"):
            continue
        for other in others(value):
            try:
                after = resolved(raw, f"{place}={json.dumps(other)}")
            except UserError:
                continue
            differing = {key for key in {*before, *after} if before.get(key) != after.get(key)}
            # The stages that one expands to follow it. Options of a plug-in may stand beside its type.
            own = {key for key in differing if key.split(".")[1] in raw["stages"]}
            assert {key.replace(".options.", ".") for key in own} == {
                place.replace(".options.", ".")
            }, (place, other)
            changed += 1
            break
        else:
            # Names and closed lists may have nothing else that fits; a number or a flag has.
            assert isinstance(value, str) or value is None, (place, value)
    assert changed > 2


TEXT = """
name: t
stages:
  a:
    kind: pretrain
    total_tokens: 10
    schedule: {peak_lr: 1.0e-3, min_lr: 1.0e-4}
    blend: {sources: {"v1.5": {type: world}}, phases: [{until: 1.0, weights: {"v1.5": 1}}]}
  b: {like: a, total_tokens: 20}
  c: {like: b}
"""


def stages_after(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    (tmp_path / "r.yaml").write_text(TEXT)
    found: dict[str, Any] = load(tmp_path / "r.yaml", overrides).resolved()["stages"]
    return found


def test_an_override_stays_in_its_stage_both_ways_along_like(tmp_path: Path) -> None:
    stages = stages_after(tmp_path, "stages.b.schedule.min_lr=1e-5", "stages.a.total_tokens=30")
    rates = {n: (s["schedule"]["peak_lr"], s["schedule"]["min_lr"]) for n, s in stages.items()}
    assert rates == {"a": (1e-3, 1e-4), "b": (1e-3, 1e-5), "c": (1e-3, 1e-4)}
    assert [stages[n]["total_tokens"] for n in "abc"] == [30, 20, 20]


def test_what_a_stage_is_like_can_be_set_and_a_stage_made_of_another(tmp_path: Path) -> None:
    stages = stages_after(tmp_path, "stages.c.total_tokens=7", "stages.c.like=a")
    assert stages["c"] == {**stages["a"], "total_tokens": 7}
    stages = stages_after(tmp_path, "stages.d={like: b}", "stages.d.schedule.min_lr=0")
    assert stages["d"]["schedule"] == {**stages["b"]["schedule"], "min_lr": 0.0}


def test_a_place_in_a_default_list_and_a_name_with_a_dot(tmp_path: Path) -> None:
    stages = stages_after(tmp_path, "stages.c.betas.1=0.97", "stages.c.blend.sources.v1.5.split=rl")
    assert stages["c"]["betas"] == [0.9, 0.97]
    assert stages["c"]["blend"]["sources"]["v1.5"]["split"] == "rl"
    assert stages["b"]["blend"]["sources"]["v1.5"]["split"] == "train"


@pytest.mark.parametrize(
    "override", ["stages..lr=1", "=1", "stages.a.betas.5=1", "stages.a.like.x=1"]
)
def test_a_place_that_is_none_is_one_line(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError) as caught:
        stages_after(tmp_path, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("1_000", 1000),
        ("1_000.5", 1000.5), ("010", 10), ("0o10", 8), ("0x1F", 31), ("0b1", "0b1"),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("true", True), ("TRUE", True), ("~", None),
        ("", None), ("null", None), ("1__0", "1__0"), ("=", "="), ('"1e-6"', "1e-6"), ("nein", "nein"),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{TEXT}\nmodel: {{overrides: {{x: {text}}}}}\n")
    in_file = load(tmp_path / "r.yaml").model.overrides["x"]
    (tmp_path / "r.yaml").write_text(TEXT)
    by_set = load(tmp_path / "r.yaml", [f"model.overrides.x={text}"]).model.overrides["x"]
    assert in_file == by_set == value
    assert type(in_file) is type(by_set) is type(value)


def test_yes_and_no_are_true_and_false_or_text_by_the_key_and_refused_where_it_is_either(
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "r.yaml"
    source = "{type: hub, id: a/b, config: no, split: on}"
    recipe.write_text(
        f"name: t\nstages: {{s: {{kind: sft, concatenate: yes, drop_longer: Off, parts: "
        f"{{on: {{source: {source}, samples: 1}}}}}}}}"
    )
    stage = load(recipe).resolved()["stages"]["s"]
    assert (stage["concatenate"], stage["drop_longer"]) == (True, False)
    assert stage["parts"]["on"]["source"]["config"] == "no"
    assert stage["parts"]["on"]["source"]["split"] == "on"
    with pytest.raises(UserError, match=r'stages\.s\.trl\.fp16: off may mean .* "off" in quotes'):
        load(recipe, ["stages.s.trl.fp16=off"])
    assert load(recipe, ['stages.s.trl.fp16="off"']).stages["s"].trl == {"fp16": "off"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["1e400", "9" * 5000, "{a: 1, a: 2}", "<<", "[1"])
def test_a_value_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "r.yaml", [f"model.overrides.x={text}"])
    assert "\n" not in str(caught.value)
