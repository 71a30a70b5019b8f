import html
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports import write_report
from reports.differences import gain_table, questions, total_gains
from reports.paper import PAPER
from reports.picture import save_accuracy
from reports.read import read_run
from reports.samples import sample_groups
from tests.fake_run import ACCURACY, HOSTILE, MODELS, write_fake_run
from workbench.errors import UserError
from workbench.recipe import load
from workbench.records import to_json
from workbench.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[3]


class Page(HTMLParser):
    """Elements, attributes and text of a page, as a browser would take them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "miniature")


def _page(run: Path) -> Page:
    write_report(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def _values(run: Path, model: str, benchmark: str) -> dict[str, float]:
    path = run / "evals" / model / benchmark / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row["value"] for row in rows if row["value"] is not None}


def test_gains_are_those_of_the_samples(run: Path) -> None:
    table = dict(gain_table(read_run(run)).rows)
    before, after = (_values(run, m, "mini-tool_calling") for m in ("sft1", "sft2"))
    n = len(before)
    assert n == 99  # one of the 100 samples failed and is left out
    differences = [after[key] - before[key] for key in before]
    cell = table["tool calling"]["sft2"]
    assert cell.accuracy.value == pytest.approx(sum(after.values()) / n)
    assert cell.accuracy.n == n
    assert cell.gain is not None
    assert cell.gain.against == "sft1"
    assert cell.gain.difference.value == pytest.approx(sum(differences) / n)
    gained, lost = differences.count(1) / n, differences.count(-1) / n
    half = (cell.gain.difference.high - cell.gain.difference.low) / 2
    assert half == pytest.approx(
        1.96 * ((gained + lost - (gained - lost) ** 2) / n) ** 0.5, rel=0.05
    )
    assert table["math"]["pretrain"].gain is None


def test_a_benchmark_run_without_thinking_alone_is_in_the_table_too(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "off", n=10)
    for folder in (run / "evals").glob("*/mini-math"):
        path = folder / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"budget": 0}))
        shutil.rmtree(f"{folder}@0", ignore_errors=True)
        folder.rename(f"{folder}@0")
    table = dict(gain_table(read_run(run)).rows)
    assert "math" not in table and set(table["math (no thinking)"]) == set(MODELS)
    assert "math" in dict(gain_table(read_run(run), budget=0).rows)


def test_the_mean_weighs_benchmarks_alike_and_is_of_whole_rows_only(
    run: Path, tmp_path: Path
) -> None:
    table = dict(gain_table(read_run(run)).rows)
    mean = table.pop("mean")
    for model in MODELS:
        values = [row[model].accuracy.value for row in table.values()]
        assert mean[model].accuracy.value == pytest.approx(sum(values) / 7)
    half = write_fake_run(tmp_path / "half", n=10)
    (half / "evals" / "sft2" / "mini-math" / "results.json").unlink()
    assert "sft2" not in dict(gain_table(read_run(half)).rows)["mean"]


def test_a_branch_is_compared_with_the_model_it_was_made_from(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "branch", n=10)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["stages"]["grpo"]["needs"] = ["sft2"]
    (run / "recipe.json").write_text(json.dumps(recipe))
    cell = dict(gain_table(read_run(run)).rows)["math"]["grpo"]
    assert cell.gain is not None
    assert cell.gain.against == "sft2"


def test_without_samples_the_difference_is_said_to_be_unpaired(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "bare", n=20)
    for path in run.glob("evals/*/*/samples.jsonl"):
        path.unlink()
    cell = dict(gain_table(read_run(run)).rows)["math"]["sft1"]
    assert cell.gain is not None
    assert not cell.gain.paired
    assert "‡" in re.findall(r'class="gain [^>]*>([^<]*)<', _text_of(run))[0]


def _text_of(run: Path) -> str:
    write_report(run)
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_every_part_of_a_finished_run(run: Path) -> None:
    page = _page(run)
    for heading in ("What each stage gained", "Accuracy by stage", "Loss by stage", "Reproduce",
                    "Reinforcement learning", "Thinking budgets", "Beside the paper", "Stages",
                    "The same question, first and last model"):  # fmt: skip
        assert heading in page.text
    assert "phase 2" in page.text
    assert "GPQA-Diamond 64.48" in page.text
    assert "metrics without a declaration: mystery" in page.text
    assert "made from uncommitted changes" in page.text
    assert "two models share a name" in page.text
    assert page.text.count("What is 17 + 25 + 8?") >= 2
    # 8 accuracy panels and 6 budget pictures for two sizes, pretraining, two of GRPO likewise.
    assert page.tags.count("svg") >= 2 * (8 + 6 + 1 + 2) + 3


def test_the_commands_to_reproduce_a_run_work_as_written(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "else where" / "copy", n=5)
    recipe = load(ROOT / "recipes" / "miniature.yaml").resolved()
    (run / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    setup, command = _commands(run)[-2:]
    assert setup == "make setup"
    # As a shell would, with no environment activated; only the interpreter is this one.
    python, *words = shlex.split(command)
    assert python == ".venv/bin/python"
    done = subprocess.run(
        [sys.executable, *words, "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert words[-2:] == ["--run", "copy-again"]


def test_a_run_on_a_model_from_elsewhere_is_set_up_with_the_extras(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "real", n=5)
    recipe = load(ROOT / "recipes" / "smollm2.yaml").resolved()
    (run / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert _commands(run)[-2] == "scripts/setup.sh real evals"


def _commands(run: Path) -> list[str]:
    block = re.findall(r"<h2>Reproduce</h2>\s*<pre>(.*?)</pre>", _text_of(run), re.DOTALL)[0]
    return html.unescape(block).strip().splitlines()


def test_the_page_asks_the_network_for_nothing(run: Path) -> None:
    page = _page(run)
    links = [v for n, v in page.attributes if n in ("src", "href", "srcset", "action", "data")]
    assert links
    assert all(link.startswith("#") or link == "evals/index.html" for link in links)
    assert not {"script", "link", "iframe", "object", "img", "base", "form"} & set(page.tags)
    text = _text_of(run)
    assert not re.findall(r"url\(|@import", text)
    assert "default-src 'none'" in text


def test_hostile_text_is_only_text(tmp_path: Path, run: Path) -> None:
    hostile, plain = _page(write_fake_run(tmp_path / "hostile", hostile=True)), _page(run)
    assert set(hostile.tags) == set(plain.tags)
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    assert "<script>alert('owned')</script>" in hostile.text
    assert "{{ 7 * 7 }}" in hostile.text
    assert "&lt;WWWW" in hostile.text  # shown as it was written, not decoded
    for harmful in ("\x00", "\x1b", "\u202e", "\ud800"):
        assert harmful in HOSTILE
        assert harmful not in hostile.text
    assert "⟨202E⟩" in hostile.text


@pytest.mark.parametrize("done", range(8))
def test_a_run_can_be_reported_at_any_time(tmp_path: Path, done: int) -> None:
    run = write_fake_run(tmp_path / "part", done=done, n=5)
    stages = list(read_run(run).stages.values())
    assert [s.status for s in stages[:done]] == ["done"] * done
    if done < 7:
        assert stages[done].status == "unfinished"
        page = _page(run)
        assert f"Unfinished: {stages[done].name}." in page.text
        if done < 6:
            assert "Not started: " in page.text
            assert "No model has been evaluated yet" in page.text


def test_a_run_without_evaluations_lacks_nothing(tmp_path: Path) -> None:
    """No stage of its recipe evaluates: the page has no such section, and says what validation found."""
    run = write_fake_run(tmp_path / "plain", n=5)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["stages"] = {n: s for n, s in recipe["stages"].items() if s["kind"] != "evals"}
    (run / "recipe.json").write_text(json.dumps(recipe))
    shutil.rmtree(run / "evals")
    path = run / "sft1" / "manifest.json"
    manifest = json.loads(path.read_text())
    value = {"value": 0.5, "stderr": 0.1, "ci95": [0.3, 0.7], "n": 9}
    worse = value | {"value": 0.75}
    manifest["outputs"]["validation"] = {
        "by": "loss", "better": "lower", "keep": "best", "ended_early": True, "best_step": 4,
        "history": [{"step": 0, "loss": worse}, {"step": 4, "loss": value}, {"step": 8, "loss": worse}],
    }  # fmt: skip
    manifest["outputs"]["forked_from"] = {
        "run": "/runs/a",
        "stage": "sft1",
        "step": 3,
        "optimizer": False,
    }
    path.write_text(json.dumps(manifest))
    summary, page = write_report(run), _page(run)
    for text in (page.text, summary):
        assert "evaluated" not in text and "What each stage gained" not in text
        assert (
            "sft1: best of 3 validations at step 4, loss 0.5 (95% 0.3 to 0.7), whose weights are kept; "
            "ended early at step 8." in text
        )
        assert "sft1 begins at step 3 of sft1 in /runs/a, with its weights alone." in text


def test_a_failed_stage_says_why(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "failed", done=5, failed="grpo")
    summary, page = write_report(run), _page(run)
    assert "Failed: grpo." in summary
    assert "RuntimeError: it broke <b>here</b>" in page.text
    assert "Traceback" in page.text


def test_a_recipe_alone_makes_a_report(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "new", done=0)
    for path in run.iterdir():
        if path.is_dir():
            (path / "manifest.json").unlink()
    assert "Not started: tokenizer" in write_report(run)
    _page(run)


def test_unreadable_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "torn", n=10)
    (run / "sft1" / "manifest.json").write_text('{"stage": "sft1", ')
    (run / "sft2" / "metrics.jsonl").write_text('{"st\n{"step": 2}\n')
    (run / "evals" / "sft1" / "mini-math" / "results.json").write_text("")
    (run / "evals" / "sft2" / "mini-math" / "results.json").write_text('{"budget": null}')
    with (run / "evals" / "sft3" / "mini-math" / "samples.jsonl").open("a") as file:
        file.write('{"id": "torn')
    facts = read_run(run)
    named = ("sft1/manifest.json", "sft2/metrics.jsonl", "sft1/mini-math/results.json",
             "sft2/mini-math/results.json")  # fmt: skip
    assert [sum(name in line for line in facts.problems) for name in named] == [1, 1, 1, 1]
    assert "Files that could not be read" in _page(run).text
    assert "math" in dict(gain_table(facts).rows)


def test_samples_follow_the_stated_rule(run: Path) -> None:
    facts = read_run(run)
    first, last = (_values(run, m, "mini-safety") for m in (MODELS[0], MODELS[-1]))
    common = [key for key in last if key in first]
    group = next(g for g in sample_groups(facts) if g.benchmark == "safety")
    chosen = {pair.why: pair.id for pair in group.pairs}
    assert chosen["gained"] == next(k for k in common if (first[k], last[k]) == (0, 1))
    assert chosen["right both times"] == next(k for k in common if (first[k], last[k]) == (1, 1))
    lost = [k for k in common if (first[k], last[k]) == (1, 0)]
    still = [k for k in common if (first[k], last[k]) == (0, 0)]
    assert ("lost" in chosen) == bool(lost) != ("still wrong" in chosen)
    assert chosen.get("lost", chosen.get("still wrong")) == (lost or still)[0]
    assert [model for model, _ in group.pairs[0].replies] == ["pretrain", "grpo"]
    assert [reply.verdict for _, reply in group.pairs[0].replies] == ["wrong", "right"]


def test_the_verdict_is_of_first_and_last_model(run: Path) -> None:
    gains = total_gains(read_run(run))
    assert len(gains) == len(ACCURACY)
    mean = 100 * sum(gain.difference.value for _, gain in gains) / len(gains)
    (line,) = [x for x in write_report(run).splitlines() if x.startswith("From pretrain to grpo")]
    assert f"mean accuracy over 7 benchmarks moved by {mean:+.1f} points" in line
    assert "n = 693 questions" in line


def _rewrite(run: Path, model: str, benchmark: str, *, keep: int = 10**6, **row: Any) -> None:
    """Change a result: its first `keep` rows, each with the values of `row`."""
    folder = run / "evals" / model / benchmark
    rows = [json.loads(x) | row for x in (folder / "samples.jsonl").read_text().splitlines()][:keep]
    (folder / "samples.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    values = [x["value"] for x in rows if x["value"] is not None]
    data = json.loads((folder / "results.json").read_text())
    data |= {"n": len(values), "metrics": {"accuracy": to_json(mean_interval(values))}}
    (folder / "results.json").write_text(json.dumps(data))


def test_a_question_that_was_lost_is_shown_before_one_that_was_never_right(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "lost", n=20)
    _rewrite(run, "pretrain", "mini-math", value=0.0)
    _rewrite(run, "grpo", "mini-math", value=0.0)
    path = run / "evals" / "pretrain" / "mini-math" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[7]["value"] = 1.0  # the first seven stay wrong
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    group = next(g for g in sample_groups(read_run(run)) if g.benchmark == "math")
    assert [(pair.why, pair.id) for pair in group.pairs] == [("lost", "math-test-7")]
    assert [reply.verdict for _, reply in group.pairs[0].replies] == ["right", "wrong"]


def test_every_n_is_that_of_what_it_averages(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "mixed", n=60)
    _rewrite(run, "grpo", "mini-math", keep=10)
    table = dict(gain_table(read_run(run)).rows)
    assert questions(table["math"].values()) == "10–59"
    assert table["mean"]["grpo"].accuracy.n == 6 * 59 + 10
    summary = write_report(run).splitlines()
    assert next(line for line in summary if line.startswith("math ")).split()[1] == "10–59"
    (each,) = [line for line in summary if line.startswith("math: questions differ")]
    assert "sft3 59, grpo 10" in each
    assert "n = 364 questions" in next(line for line in summary if line.startswith("From pretrain"))
    page = _page(run)
    assert "pretrain to grpo, 7 benchmarks, n = 364 questions" in page.text
    assert "math n = 10–59" in page.text
    # The tile's two levels are over the questions of the first sentence.
    before = [_values(run, "pretrain", f"mini-{d}") for d in ACCURACY]
    before[0] = {k: v for k, v in before[0].items() if k in _values(run, "grpo", "mini-math")}
    level = sum(sum(found.values()) / len(found) for found in before) / 7
    assert f"mean accuracy {100 * level:.0f}% →" in page.text


def test_harm_by_the_last_stage_is_said_in_words(tmp_path: Path, run: Path) -> None:
    (line,) = [x for x in write_report(run).splitlines() if x.startswith("The last stage")]
    # By its seed; the mean is not down.
    assert line.startswith(
        "The last stage lost something: from sft3 to grpo, clearly down in math −"
    )
    worse = write_fake_run(tmp_path / "worse")
    for domain in ("safety", "coding"):
        _rewrite(worse, "grpo", f"mini-{domain}", value=0.0)
    _rewrite(worse, "grpo", "mini-math", value=1.0)
    (line,) = [x for x in write_report(worse).splitlines() if "did harm" in x]
    assert line.startswith("The last stage did harm: from sft3 to grpo, clearly down in mean −")
    assert re.search(r"; safety −\d\d\.\d points \(95% interval .*, n = 99\); coding −", line)
    assert "math" not in line and "conversation" not in line
    assert line in _page(worse).text


def test_a_gain_is_clustered_by_problem(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "worded", n=40)
    plain = dict(gain_table(read_run(run)).rows)["math"]["sft3"].gain
    for path in run.glob("evals/*/mini-math/samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for place, row in enumerate(rows):
            row["problem"] = f"p{place % 5}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = dict(gain_table(read_run(run)).rows)["math"]["sft3"].gain
    assert plain is not None and found is not None
    assert found.difference.value == plain.difference.value
    before, after = (_values(run, model, "mini-math") for model in ("sft2", "sft3"))
    excess = dict.fromkeys(range(5), 0.0)
    for place, key in enumerate(before):
        excess[place % 5] += after[key] - before[key] - found.difference.value
    wanted = math.sqrt(sum(e * e for e in excess.values()) * 5 / 4) / len(before)
    assert found.difference.stderr == pytest.approx(wanted)


def test_results_of_an_earlier_checkpoint_are_marked_and_count_in_no_gain(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "again", n=40)
    path = run / "sft3" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"completion": "a-later-result"}))
    facts = read_run(run)
    assert facts.evaluated == ["pretrain", "sft1", "sft2", "grpo"]
    table = dict(gain_table(facts).rows)
    assert table["math"]["sft3"].stale and table["math"]["sft3"].gain is None
    assert table["math"]["grpo"].gain is None  # against the same
    assert "sft3" not in table["mean"]
    summary = write_report(run)
    assert "Of an earlier checkpoint, and in no gain: evaluations of sft3" in summary
    assert "±" in summary and "†" in summary
    page = _page(run)
    assert page.text.count("of an earlier checkpoint") >= 2 * len(ACCURACY)
    assert "sft3 minus sft2" not in page.text  # budgets, model against model
    # Evaluated anew: results.json says of which result of the stage it is.
    for found in run.glob("evals/sft3/*/results.json"):
        data = json.loads(found.read_text())
        found.write_text(json.dumps(data | {"completion": "a-later-result"}))
    assert "sft3" in read_run(run).evaluated
    assert "earlier checkpoint" not in write_report(run)


def test_the_papers_figures_are_the_papers() -> None:
    """[paper] Table 8 of the aligned 12B, Table 5 of the base model."""
    found = {(v.benchmark, v.model): v.value for v in PAPER}
    assert found["AIME-2024", "12B aligned"] == 85.42
    assert found["BFCL v3", "12B aligned"] == 66.98
    assert found["IFEval (strict, instruction)", "12B aligned"] == 89.81
    assert found["GSM8K", "12B base"] == 91.66
    assert found["RULER at 128k", "12B base"] == 84.74
    assert len(found) == len(PAPER)


def test_the_picture_for_the_readme(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    save_accuracy(run, tmp_path / "gains.png")
    picture = Image.open(tmp_path / "gains.png").convert("RGB")
    assert picture.width > 1500
    colours = {colour for _, colour in picture.getcolors(2**24) or []}
    assert {(0x6B, 0x76, 0x86), (0xE0, 0x59, 0x0B)} <= colours  # dots of the first and last model
    with pytest.raises(UserError, match="nothing to draw"):
        save_accuracy(write_fake_run(tmp_path / "half", done=2), tmp_path / "none.png")


def test_the_command_writes_the_report_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "runs" / "mini", n=5)

    def report(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "report.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = report("mini")
    assert done.returncode == 0
    assert (run / "report.html").is_file()
    refused = report("minni")
    assert refused.returncode == 2
    assert refused.stderr == "error: 'minni' is not a run (no recipe.json); runs here: mini\n"
    for option in ("--png", "--budgets-png"):
        refused = report("mini", option, "x.xyz")
        assert refused.returncode == 2
        assert refused.stderr.startswith(
            "error: 'x.xyz' is not a picture that can be written; end it in .png"
        )
        assert refused.stderr.count("\n") == 1


def test_a_picture_makes_room_for_its_words_and_says_when_it_cannot_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_fake_run(tmp_path / "run", n=5)
    for path in (run / "evals").glob("*/mini-*"):
        if not path.name.startswith("mini-math"):
            shutil.rmtree(path)
    save_accuracy(run, tmp_path / "one.svg")
    sheet = (tmp_path / "one.svg").read_text()
    width = float(re.findall(r'width="(\d+)"', sheet)[0])
    keys = [float(x) for x in re.findall(r'class="key" x="([\d.]+)"', sheet)]
    assert len(keys) == 6 and min(keys) > 0 and max(keys) + 13 * 7 < width
    assert "var(" not in sheet
    monkeypatch.setattr("resvg_py.svg_to_bytes", lambda **options: b"blank")
    with pytest.raises(UserError, match="no font .* save the picture as .svg"):
        save_accuracy(run, tmp_path / "one.png")
    assert not (tmp_path / "one.png").exists()


def test_without_a_model_that_has_every_benchmark_there_is_no_mean(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", n=5)
    for place, model in enumerate(MODELS):
        shutil.rmtree(run / "evals" / model / ("mini-math", "mini-coding")[place % 2])
    assert "mean" not in dict(gain_table(read_run(run)).rows)
    assert "coding" in write_report(run)
