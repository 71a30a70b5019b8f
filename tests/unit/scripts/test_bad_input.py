"""Every mistake a user can make: one line on stderr, exit code 2, no traceback, nothing lost."""

import json
import resource
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import tiny

Stages = dict[str, Any]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """scripts/run_stage.py as `python` runs it, in this process."""

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["run_stage.py", *words])
        monkeypatch.chdir(tiny.ROOT)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("scripts/run_stage.py", run_name="__main__")
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def assert_one_line(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.out + ended.err
    for word in words:
        assert word in lines[0], lines[0]


def part(**source: Any) -> dict[str, Any]:
    return {"rows": {"source": source, "samples": 2}}


def blend(weights: dict[str, float], **source: Any) -> dict[str, Any]:
    sources = {"math": source or {"type": "pretraining", "category": "math"}}
    return {"sources": sources, "phases": [{"until": 1.0, "weights": weights}]}


PIPELINE = {"tokenizer": tiny.tokenizer_stage(), "pretrain": tiny.pretrain_stage()}
EVALS = {"kind": "evals", "needs": ["pretrain"], "benchmarks": ["mini-math"]}
# What is wrong, the stages it is wrong in, words of the command line, words of the error.
AT_ONCE: list[tuple[str, Stages, list[str], list[str]]] = [
    ("stage", PIPELINE, ["pretain"], ["unknown stage 'pretain'", "did you mean 'pretrain'"]),
    ("key", PIPELINE, ["all", "--set", "stages.pretrain.row_token=8"],
     ["unknown key 'stages.pretrain.row_token'", "did you mean 'row_tokens'"]),
    ("model field", PIPELINE, ["all", "--set", "model.overrides.hiden_size=8"],
     ["unknown model field 'hiden_size'", "did you mean 'hidden_size'"]),
    ("preset", PIPELINE, ["all", "--set", "model.preset=nano2-9B", "--set", "model.overrides={}"],
     ["unknown model preset 'nano2-9B'", "did you mean 'nano2-9b'"]),
    ("preset, of a stage that builds none", {"sft": tiny.sft_stage(needs=[])},
     ["sft", "--set", "model.preset=mini"], ["unknown model preset 'mini'"]),
    ("benchmark", {**PIPELINE, "evals": EVALS}, ["tokenizer", "--set", "stages.evals.benchmarks=[mini-maths]"],
     ["mini-maths", "did you mean 'mini-math'"]),
    ("kind", PIPELINE, ["all", "--set", "stages.pretrain.kind=pretain"], ["did you mean 'pretrain'"]),
    ("need", PIPELINE, ["all", "--set", "stages.pretrain.needs=[tokeniser]"],
     ["needs 'tokeniser', which is not a stage"]),
    ("cycle", PIPELINE, ["all", "--set", "stages.tokenizer.needs=[pretrain]"],
     ["circle", "tokenizer", "pretrain"]),
    ("self", PIPELINE, ["tokenizer", "--set", "stages.pretrain.needs=[pretrain]"], ["circle"]),
    ("negative weight", {"tokenizer": tiny.tokenizer_stage(blend=blend({"math": -1}))}, ["all"],
     ["weight of 'math' is -1", "0 or more"]),
    ("sum of weights", {"tokenizer": tiny.tokenizer_stage(blend=blend({"math": 0.7}))}, ["all"],
     ["sum to 0.7", "make them sum to 1"]),
    ("disk", PIPELINE, ["all", "--set", "model.overrides.intermediate_size=100000000000"],
     ["no disk space", "GB free", "the run needs about"]),
    ("recipe file", PIPELINE, ["all", "--recipe", "recipes/minature.yaml"], ["does not exist"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "words", "says"), [c[1:] for c in AT_ONCE], ids=[c[0] for c in AT_ONCE]
)
def test_a_mistake_in_the_recipe_is_found_before_anything_runs(
    tmp_path: Path, command: Any, stages: Stages, words: list[str], says: list[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path, stages)
    given = words if "--recipe" in words else [*words, "--recipe", str(recipe)]
    assert_one_line(command(*given), *says)
    assert not list((tmp_path / "runs").glob("*/*/manifest.json"))


def test_a_run_directory_of_another_recipe_is_left_alone(tmp_path: Path, command: Any) -> None:
    recipe = tiny.write_recipe(tmp_path, PIPELINE)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text('{"name": "other"}')
    ended = command("tokenizer", "--recipe", str(recipe), "--run", "mine")
    assert_one_line(ended, "belongs to recipe 'other', not 'tiny'", "--run")
    assert (run / "recipe.json").read_text() == '{"name": "other"}'
    assert {path.name for path in run.iterdir()} == {"recipe.json"}
    assert_one_line(
        command("tokenizer", "--recipe", str(recipe), "--run", "mine", "--dry-run"),
        "belongs to recipe 'other', not 'tiny'",
    )


def test_a_run_directory_that_cannot_be_made(tmp_path: Path, command: Any) -> None:
    recipe = tiny.write_recipe(tmp_path, PIPELINE)
    (tmp_path / "file").write_text("")
    words = ["tokenizer", "--recipe", str(recipe), "--set", f"runs_dir={tmp_path}/file/runs"]
    assert_one_line(command(*words), "cannot be written (Not a directory)", "runs_dir")


@pytest.mark.parametrize("kind", ["nobody", "another server", "no port", "client"])
def test_an_unreachable_ray_address(tmp_path: Path, command: Any, kind: str) -> None:
    recipe = tiny.write_recipe(tmp_path, PIPELINE)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        if kind == "another server":
            server.listen()
        address = {"no port": "head", "client": "ray://head:10001"}.get(kind, f"127.0.0.1:{port}")
        ended = command("tokenizer", "--recipe", str(recipe), "--address", address)
    says = {
        "nobody": "does not answer", "another server": "not the head of a Ray cluster",
        "no port": "write host:port", "client": "ray job submit",
    }  # fmt: skip
    assert_one_line(ended, address, says[kind])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tokenizer and a pretrained model."""
    folder = tmp_path_factory.mktemp("base")
    recipe = tiny.write_recipe(folder, PIPELINE, cluster={"backend": "local"})
    argv, sys.argv = sys.argv, ["run_stage.py", "all", "--recipe", str(recipe)]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tiny.ROOT / "scripts/run_stage.py"), run_name="__main__")
    finally:
        sys.argv = argv
    assert ended.value.code == 0
    return folder / "runs"


def jsonl(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def without_special_tokens(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        edit(folder / name, no_special_tokens)


def no_special_tokens(text: str) -> str:
    """The vocabulary as it was, with other words where the chat format's tokens stood."""
    return text.replace("<SPECIAL_1", "<EXTRA_1").replace("</s>", "</end>")


SFT = {**PIPELINE, "sft": tiny.sft_stage()}
TEXT = {"type": "jsonl", "form": "text", "column": "text"}
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho " * 400}]
Harm = Callable[[Path, Path], dict[str, Any]]
# What is wrong, what makes it so (folder, run) -> stages, the stage, words of the error.
IN_A_STAGE: list[tuple[str, Harm, str, list[str]]] = [
    ("no such file",
     lambda f, r: {"tokenizer": tiny.tokenizer_stage(blend=blend({"math": 1}, path=f"{f}/no*", **TEXT))},
     "tokenizer", ["source 'math'", "no file matches"]),
    ("no such column",
     lambda f, r: {"tokenizer": tiny.tokenizer_stage(
         blend=blend({"math": 1}, path=jsonl(f, {"txt": "a"}), **TEXT))},
     "tokenizer", ["source 'math'", "no column 'text'", "its columns are: txt"]),
    ("no such column, sft",
     lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(parts=part(type="jsonl", path=jsonl(f, {"msgs": []})))},
     "sft", ["source 'rows'", "no column 'messages'", "its columns are: msgs"]),
    ("empty file",
     lambda f, r: {"tokenizer": tiny.tokenizer_stage(blend=blend({"math": 1}, path=jsonl(f), **TEXT))},
     "tokenizer", ["source 'math'", "none of its 0 rows"]),
    ("nothing left after filtering",
     lambda f, r: {"tokenizer": tiny.tokenizer_stage(blend=blend(
         {"math": 1}, path=jsonl(f, {"text": "short"}), **TEXT,
         clean={"filters": [{"name": "min_characters", "limit": 99}]}))},
     "tokenizer", ["source 'math'", "none of its 1 rows is left", "min_characters", "loosen"]),
    ("fewer samples than asked for",
     lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(
         parts=part(type="jsonl", path=jsonl(f, {"messages": TURNS})))},
     "sft", ["source 'rows' has 1 documents, 2 were asked for"]),
    ("no assistant turns",
     lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(
         parts=part(type="jsonl", path=jsonl(f, *[{"messages": TURNS[:1]}] * 2)))},
     "sft", ["part 'rows'", "none of its 2 conversations ends with an assistant turn", "'user'"]),
    ("sample longer than the row",
     lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(
         row_tokens=64, parts=part(type="jsonl", path=jsonl(f, *[{"messages": TURNS}] * 2)))},
     "sft", ["1,250 tokens, the row 64", "raise row_tokens"]),
    ("nothing left that fits the row",
     lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(
         row_tokens=64, drop_longer=True, parts=part(type="jsonl", path=jsonl(f, *[{"messages": TURNS}] * 2)))},
     "sft", ["no sample is left", "64", "raise row_tokens"]),
    ("tokenizer without the chat tokens",
     lambda f, r: without_special_tokens(r / "pretrain/model") or SFT,
     "sft", ["tokenizer lacks <SPECIAL_1"]),
    ("tokenizer of another model",
     lambda f, r: edit(r / "pretrain/model/tokenizer.json", no_special_tokens) or SFT,
     "sft", ["has 288 ids", "the model beside it 278"]),
    ("tokenizer without an end of text",
     lambda f, r: without_special_tokens(r / "tokenizer/tokenizer")
     or {**PIPELINE, "again": tiny.pretrain_stage()},
     "again", ["tokenizer", "</s>"]),
    ("checkpoint cut short", lambda f, r: cut(r / "pretrain/model/model.safetensors") or SFT,
     "sft", ["model.safetensors", "cut short"]),
    ("checkpoint of another config",
     lambda f, r: edit(r / "pretrain/model/config.json",
                       lambda t: t.replace('"intermediate_size": 64', '"intermediate_size": 96')) or SFT,
     "sft", ["does not match its config", "shape"]),
    ("checkpoint without weights",
     lambda f, r: (r / "pretrain/model/model.safetensors").unlink() or SFT,
     "sft", ["no weights"]),
    ("config cut short", lambda f, r: cut(r / "pretrain/model/config.json") or SFT,
     "sft", ["config.json", "not valid JSON"]),
    ("manifest cut short", lambda f, r: cut(r / "pretrain/manifest.json") or SFT,
     "sft", ["manifest.json", "delete it"]),
    ("no stage with a model", lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(needs=["tokenizer"])},
     "sft", ["needs a stage that makes a model"]),
    ("option that TRL does not know", lambda f, r: {**PIPELINE, "sft": tiny.sft_stage(trl={"packign": True})},
     "sft", ["TRL refuses", "packign"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "stage", "says"), [c[1:] for c in IN_A_STAGE], ids=[c[0] for c in IN_A_STAGE]
)
def test_a_mistake_in_the_data_or_a_checkpoint(
    tmp_path: Path, base: Path, command: Any, harm: Harm, stage: str, says: list[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(base / "tiny", run)
    stages = harm(tmp_path, run)
    recipe = tiny.write_recipe(tmp_path, stages, cluster={"backend": "local"})
    assert_one_line(command(stage, "--recipe", str(recipe)), *says)
    assert (run / "pretrain" / "model").is_dir() or (run / ".replaced").is_dir()


def grpo(**changes: Any) -> dict[str, Any]:
    source = {"type": "world", "domain": "conversation"}
    base = {"kind": "grpo", "needs": ["pretrain"], "prompts": source, "held_out": source}
    return {**PIPELINE, "last": {**base, **changes}}


def convert(**source: Any) -> dict[str, Any]:
    return {**PIPELINE, "last": {"kind": "convert", "source": source}}


# What the last stage reads, words of the error.
NOT_HERE: list[tuple[str, Callable[[Path], Stages], list[str]]] = [
    ("jsonl", lambda f: {**PIPELINE, "last": tiny.sft_stage(parts=part(type="jsonl", path="no.jsonl"))},
     ["source 'rows'", "no file matches 'no.jsonl'"]),
    ("column", lambda f: {**PIPELINE, "last": tiny.sft_stage(
        parts=part(type="jsonl", path=jsonl(f, {"msgs": []})))}, ["no column 'messages'"]),
    ("parquet", lambda f: {**PIPELINE, "last": tiny.sft_stage(
        parts=part(type="parquet", path=jsonl(f, {"messages": []})))}, ["is not a Parquet file"]),
    ("prompts", lambda f: grpo(
        held_out={"type": "jsonl", "form": "conversation", "path": f"{f}/*.jsonl"}),
     ["source 'held_out'", "no file matches"]),
    ("decontaminate", lambda f: {**PIPELINE, "last": tiny.pretrain_stage(blend=blend(
        {"math": 1}, path=jsonl(f, {"text": "a"}), **TEXT,
        clean={"decontaminate_against": f"{f}/bench.jsonl"}))}, ["decontaminate_against", "no file"]),
    ("gguf", lambda f: convert(type="gguf", path=f"{f}/m.gguf"), ["no GGUF file at"]),
    ("package", lambda f: convert(type="gguf", package="no_such_package"), ["is not installed"]),
    ("checkpoint", lambda f: convert(type="checkpoint", path=f"{f}/m"), ["no folder at"]),
    ("tokenizer", lambda f: {"last": {"kind": "tokenizer", "from_pretrained": "./none"}},
     ["no folder at './none'"]),
    ("reward mode", lambda f: grpo(reward_options={"mode": "bogus"}),
     ["reward_options: unknown mode", "'bogus'", "all, fraction"]),
    ("reward option", lambda f: grpo(reward_options={"mood": "all"}),
     ["reward_options: unknown option", "did you mean 'mode'"]),
]  # fmt: skip


@pytest.mark.parametrize("dry", [True, False], ids=["dry", "run"])
@pytest.mark.parametrize(
    ("stages", "says"), [c[1:] for c in NOT_HERE], ids=[c[0] for c in NOT_HERE]
)
def test_what_the_last_stage_reads_is_looked_for_before_the_first_one_runs(
    tmp_path: Path, command: Any, stages: Callable[[Path], Stages], says: list[str], dry: bool
) -> None:
    recipe = tiny.write_recipe(tmp_path, stages(tmp_path), cluster={"backend": "local"})
    words = ["all", "--recipe", str(recipe), *(["--dry-run"] if dry else [])]
    assert_one_line(command(*words), "stage 'last'", *says)
    assert not (tmp_path / "runs").exists()


def test_what_a_stage_that_does_not_run_reads_need_not_be_here(
    tmp_path: Path, command: Any
) -> None:
    gone = {"type": "jsonl", "path": f"{tmp_path}/none", "form": "text", "column": "text"}
    unused = {"sources": {**blend({})["sources"], "gone": gone},
              "phases": [{"until": 1.0, "weights": {"math": 1, "gone": 0}}]}  # fmt: skip
    hub = convert(type="checkpoint", path="org/name")["last"]
    stages = {"tokenizer": tiny.tokenizer_stage(blend=unused), "hub": hub,
              "sft": tiny.sft_stage(needs=["tokenizer"], parts=part(**gone))}  # fmt: skip
    recipe = tiny.write_recipe(tmp_path, stages)
    assert command("tokenizer", "hub", "--dry-run", "--recipe", str(recipe)).code == 0


def test_typos_cost_no_result(tmp_path: Path, base: Path, command: Any) -> None:
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(base / "tiny", run)
    recipe = tiny.write_recipe(tmp_path, PIPELINE, cluster={"backend": "local"})
    words = ["pretrain", "--recipe", str(recipe), "--set"]
    lost = "stages.pretrain.blend.sources.math={type: jsonl, form: text, column: text, path: "
    before = (run / "pretrain/model/model.safetensors").read_bytes()
    assert_one_line(command(*words, f"{lost}{tmp_path}/typo}}"), "no file matches")
    assert (run / "pretrain/model/model.safetensors").read_bytes() == before
    assert not (run / ".replaced").exists()
    # One that only reading all of it can find.
    path = jsonl(tmp_path, {"text": "a b c"}, {"txt": "d"})
    for _ in range(2):
        assert_one_line(command(*words, f"{lost}{path}}}", "--fresh"), "no column 'text'")
        assert (run / ".replaced/pretrain/model/model.safetensors").read_bytes() == before


def test_fresh_moves_nothing_where_ray_does_not_take_the_run(
    tmp_path: Path, base: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a program that has imported Ray before."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    import ray  # noqa: F401 - it reads how to authenticate now

    run = tmp_path / "runs" / "tiny"
    shutil.copytree(base / "tiny", run)
    recipe = tiny.write_recipe(tmp_path, PIPELINE, cluster={"num_cpus": 1})
    too_large = ["--set", "stages.pretrain.cpus=64"]
    words = ["pretrain", "--fresh", "--recipe", str(recipe)]
    assert_one_line(command(*words, *too_large), "asks for (stage: 64 CPUs, 0 GPUs)")
    assert (run / "pretrain/model").is_dir() and not (run / ".replaced").exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 12_000, 60_000, 120_000])
def test_a_disk_that_fills_up_while_training_loses_nothing(
    tmp_path: Path, base: Path, command: Any, size: int
) -> None:
    """At the manifest, the log and metrics, the tokenizer copy, the checkpoint."""
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(base / "tiny", run)
    stages = {**PIPELINE, "again": tiny.pretrain_stage()}
    recipe = tiny.write_recipe(tmp_path, stages, cluster={"backend": "local"})
    with file_size_limit(size):
        assert_one_line(command("again", "--recipe", str(recipe)), "no disk space", "continues")
    assert not [p for p in run.rglob("*") if ".writing-" in p.name or ".pt." in p.name]
    ended = command("again", "--recipe", str(recipe))
    assert ended.code == 0, ended
    assert "- tokenizer: skipped" in ended.out
    weights = [run / stage / "model/model.safetensors" for stage in ("pretrain", "again")]
    assert weights[0].stat().st_size == weights[1].stat().st_size


def test_a_terminal_that_is_full(tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path, PIPELINE)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "scripts/run_stage.py", "all", "--recipe", str(recipe), "--dry-run"],
            cwd=tiny.ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert_one_line(Ended(done.returncode, "", done.stderr), "no disk space")
