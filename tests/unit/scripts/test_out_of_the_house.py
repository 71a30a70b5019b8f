"""`anneal publish`, `anneal serve` and `anneal chat`: what goes out, and what is said where nothing can."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import anneal, publish, serve
from tests.fake_run import write_fake_run
from tests.judge_server import Said, judge_server
from workbench.errors import UserError


def _anneal(*words: str) -> int:
    args = anneal.parser().parse_args(words)
    return int(args.entry(args))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "r"
    write_fake_run(root, n=10, budgets=False)
    model = root / "grpo" / "model"
    model.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "optimizer.pt", ".secret", "tokenizer.json"):
        (model / name).write_text("{}")
    return root


class Hub:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo: str, **given: Any) -> None:
        """See HfApi."""
        self.calls.append(("create", {"repo": repo, **given}))

    def upload_folder(self, **given: Any) -> None:
        """See HfApi."""
        self.calls.append(("folder", given))

    def upload_file(self, **given: Any) -> None:
        """See HfApi."""
        text = Path(given["path_or_fileobj"]).read_text()
        self.calls.append(("file", {**given, "text": text}))


def test_a_dry_run_shows_files_and_card_and_sends_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("asked the hub"))
    assert _anneal("publish", str(run), "grpo", "--repo", "me/mine") == 0
    told = capsys.readouterr().out
    assert "model.safetensors" in told and "nothing was sent" in told
    assert "optimizer.pt" not in told and ".secret" not in told
    results = json.loads((run / "evals/grpo/mini-math/results.json").read_text())
    metric = results["metrics"]["accuracy"]
    low, high = metric["ci95"]
    assert (
        f"| mini-math | accuracy | {100 * metric['value']:.1f} | {100 * low:.1f} to {100 * high:.1f} "
        f"| {results['n']} |" in told
    )
    assert "`grpo` (grpo), seed" in told


def test_push_sends_what_was_shown_with_the_card(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("workbench.hub.must_answer", lambda *_: None)
    assert _anneal("publish", str(run), "grpo", "--repo", "me/mine", "--push", "--private") == 0
    (_, made), (_, folder), (_, card) = hub.calls
    assert made == {"repo": "me/mine", "private": True, "exist_ok": True}
    assert folder["allow_patterns"] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert card["path_in_repo"] == "README.md" and "# mine" in card["text"]


def test_a_card_of_the_users_own_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    (run / "grpo" / "model" / "README.md").write_text("mine")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("workbench.hub.must_answer", lambda *_: None)
    _anneal("publish", str(run), "grpo", "--repo", "me/mine", "--push")
    assert [name for name, _ in hub.calls] == ["create", "folder"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere", "--repo", "me/mine"], "has no model; stages with one: grpo"),
        (["grpo", "--repo", "mine"], "write it as ORG/NAME"),
        (["grpo", "--repo", "me/mine", "--adapter"], "has no adapter"),
        (
            ["grpo", "--repo", "me/mine", "--form", "int8"],
            "has no form 'int8'; make it: anneal export",
        ),
    ],
)
def test_what_cannot_be_published_is_one_line(run: Path, words: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        _anneal("publish", str(run), *words)


def test_a_refusal_of_the_hub_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401 Client Error\nUnauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: argparse.Namespace(create_repo=refuse))
    monkeypatch.setattr("workbench.hub.must_answer", lambda *_: None)
    with pytest.raises(UserError, match=r"401 Client Error Unauthorized\); log in"):
        _anneal("publish", str(run), "grpo", "--repo", "me/mine", "--push")
    assert publish.__doc__


def test_the_server_has_the_budget_processor(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", str(run / "grpo"), "--port", "8123", "--vllm=--max-model-len=99", "--dry-run"]
    assert _anneal(*words) == 0
    line, address = capsys.readouterr().out.splitlines()
    assert f"--model {run / 'grpo' / 'model'} " in line
    assert "--logits-processors budget.processor:ThinkingBudgetProcessor" in line
    assert line.endswith("--max-model-len=99")
    # vLLM's own default refuses to start where other work has a tenth of the memory.
    assert "--kv-cache-memory-bytes" in line
    # In parts, the prompt of a seeded request ends vLLM's engine on a CPU.
    assert "--no-enable-chunked-prefill" in line
    assert address == "http://127.0.0.1:8123/v1#grpo"
    with pytest.raises(UserError, match="is not a stage's folder"):
        serve.server_command("nowhere", None, "h", 1, [])


def test_a_chat_keeps_its_turns_and_hides_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(asked: dict[str, Any]) -> Said:
        last = asked["messages"][-1]["content"]
        if last == "fail":
            return Said(status=400)
        return Said(f"you said {last}", more={"reasoning_content": "hm"})

    with judge_server(say) as server:
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\nfail\ntwo\n/new\nthree\n"))
        assert _anneal("chat", server.address, "--system", "Be brief.") == 0
        asked = [a["messages"] for a in server.asked if a["max_tokens"] == 2048]
    told = capsys.readouterr().out.splitlines()
    assert (
        told[:2] == ["[hm]", "you said one"]
        and "no reply" in told[2]
        and told[-1] == "you said three"
    )
    # A turn that failed is not in the next one's history; a new one has none.
    assert [[m["content"] for m in turn] for turn in asked] == [
        ["Be brief.", "one"],
        ["Be brief.", "one", "you said one", "fail"],
        ["Be brief.", "one", "you said one", "two"],
        ["Be brief.", "three"],
    ]
