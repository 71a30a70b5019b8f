import json
import math
from pathlib import Path

import pytest

from workbench import tracking
from workbench.tracking import METRICS, MetricsWriter, metrics_markdown, read_metrics

ROOT = Path(__file__).resolve().parents[3]


def _write(folder: Path, steps: range, value: float = 1.0) -> None:
    writer = MetricsWriter(folder)
    for step in steps:
        writer.log(step, {"loss": value}, tokens=100 * step)
    writer.close()


def test_a_line_holds_step_tokens_time_and_values(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 3), value=0.5)
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first) | {"wall_s": 0} == {"step": 1, "tokens": 100, "wall_s": 0, "loss": 0.5}
    assert json.loads(second)["tokens"] == 200


def test_a_line_torn_by_kill_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tok')
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    _write(tmp_path, range(4, 6))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_broken_line_before_the_last_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_resuming_from_a_checkpoint_leaves_each_step_once(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8), value=1.0)
    writer = MetricsWriter(tmp_path)
    writer.truncate_after(4)
    assert [line["step"] for line in read_metrics(writer.path)] == [1, 2, 3, 4]
    for step in range(5, 9):
        writer.log(step, {"loss": 2.0})
    writer.close()
    lines = read_metrics(writer.path)
    assert [(line["step"], line["loss"]) for line in lines] == [
        *((step, 1.0) for step in range(1, 5)),
        *((step, 2.0) for step in range(5, 9)),
    ]


def test_starting_over_without_a_checkpoint_leaves_each_step_once(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8), value=1.0)  # killed before its first checkpoint
    _write(tmp_path, range(1, 4), value=2.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_wall_time_goes_on_from_the_last_kept_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        now[0] += 10
        writer.log(step, {"loss": 1.0})
    writer.close()
    now[0] += 5000  # the machine was off
    writer = MetricsWriter(tmp_path)
    writer.truncate_after(2)
    now[0] += 7
    writer.log(3, {"loss": 1.0})
    writer.close()
    assert [line["wall_s"] for line in read_metrics(writer.path)] == [10.0, 20.0, 27.0]


def test_a_value_that_is_not_finite_is_null_and_named(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.log(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.1})
    writer.close()
    (line,) = read_metrics(writer.path)
    assert (line["loss"], line["grad_norm"], line["lr"]) == (None, None, 0.1)
    assert line["nonfinite"] == {"loss": "nan", "grad_norm": "inf"}
    assert "NaN" not in writer.path.read_text()


def test_steps_do_not_go_back_within_a_process_and_two_parts_of_a_step_are_one_record(
    tmp_path: Path,
) -> None:
    writer = MetricsWriter(tmp_path)
    writer.log(1, {"loss": 1.0})
    writer.log(1, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="step 0 after those of step 1"):
        writer.log(0, {"loss": 1.0})
    writer.close()
    (line,) = read_metrics(writer.path)
    assert (line["loss"], line["accuracy"]) == (1.0, 0.5)


def test_tensorboard_has_the_same_values_and_hides_what_a_resume_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _write(tmp_path, range(1, 6), value=1.0)
    writer = MetricsWriter(tmp_path)
    writer.truncate_after(2)
    writer.log(3, {"loss": 3.0, "lr": math.nan})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("loss")]
    assert seen == [(1, 1.0), (2, 1.0), (3, 3.0)]
    assert events.Tags()["scalars"] == ["loss"]


def test_an_undeclared_metric_is_written_with_one_warning(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    with pytest.warns(UserWarning, match="'mystery' is not declared") as caught:
        writer.log(1, {"mystery": 1.0})
        writer.log(2, {"mystery": 2.0})
    writer.close()
    assert len(caught) == 1
    assert [line["mystery"] for line in read_metrics(writer.path)] == [1.0, 2.0]


def test_the_page_of_metrics_is_current() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_markdown(), "run: python scripts/metrics_doc.py"
    assert all(f"| `{name}` |" in page for name in METRICS)
