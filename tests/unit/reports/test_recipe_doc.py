"""docs/recipes.md: the reference is the schema's, and what is written by hand works as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_mix.config import JsonlSource
from data_mix.supervised import take_conversations
from reports.recipe_doc import MARK, recipe_reference
from reward import check
from workbench import registry
from workbench.recipe import load

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BY_HAND, _, REFERENCE = PAGE.partition(MARK)


def test_the_reference_of_recipes_is_current() -> None:
    assert recipe_reference() == MARK + REFERENCE, "run: python scripts/recipes_doc.py"
    for kind, entry in registry.kinds().items():
        assert f"### Stage {kind}\n" in REFERENCE
        for name in registry.resolve(entry.config).model_fields:
            assert f"| `{name}` |" in REFERENCE or name == "kind"


def test_every_key_of_a_recipe_says_what_it_means() -> None:
    cells = [row.split(" | ") for row in REFERENCE.splitlines() if row.startswith("| `")]
    silent = [row[0] for row in cells if not row[-1].rstrip(" |").strip()]
    assert silent == []


def test_every_link_leads_to_a_heading_that_stands_there_once() -> None:
    headings = [line.lstrip("# ") for line in PAGE.splitlines() if re.match("#+ ", line)]
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert {link: anchors.count(link) for link in links} == dict.fromkeys(links, 1)
    for page in re.findall(r"\]\(([\w-]+\.md)\)", PAGE):
        assert (ROOT / "docs" / page).is_file()


def test_defaults_and_bounds_are_those_of_the_schema() -> None:
    """Read by eye from the schema: sft.lr is 5e-6 and above 0, its row_tokens 131,072, parts has none."""
    sft = REFERENCE.partition("### Stage sft\n")[2].partition("### ")[0]
    assert "| `lr` | number > 0 | `5.0e-06` |" in sft
    assert "| `row_tokens` | whole number ≥ 8 | `131072` |" in sft
    assert "| `parts` | NAME: [Part](#part) | **required** |" in sft
    assert "| `lora` | [Lora](#lora), or null | `null` |" in sft


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", BY_HAND, re.DOTALL)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The page's files, as a reader would save them."""
    whole, _, grpo = _blocks("yaml")
    lines, conversations = _blocks("json")
    stages = yaml.safe_load(grpo)
    checked = "".join(f"{row}\n" for row in conversations.splitlines() if '"check"' in row)
    own = {"own.jsonl": conversations, "prompts.jsonl": checked, "held-out.jsonl": checked}
    for name, text in {"mine.yaml": whole, "mine.jsonl": lines, **own}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    demo = tmp_path / "runs/miniature/sft1/model"
    demo.mkdir(parents=True)
    (demo / "config.json").write_text("{}", encoding="utf-8")
    more = {"extends": "mine.yaml", "name": "more", "stages": stages}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["mine.yaml", "more.yaml"])
def test_the_recipes_of_the_page_plan(written: Path, name: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/run_stage.py"), "all", "--recipe", name]
    done = subprocess.run(
        [*command, "--dry-run", "--set", "stages.tuned.lr=1e-5"],
        cwd=written, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 samples one a row of at most 512 tokens" in done.stdout
    assert ('"num_prompts": 400' in done.stdout) == (name == "more.yaml")


def test_the_lines_of_the_page_are_conversations(written: Path) -> None:
    part = load(written / "mine.yaml").stages["tuned"].parts["own"]  # type: ignore[attr-defined]
    source = part.source.model_copy(update={"path": str(written / "mine.jsonl")})
    first, second = sorted(
        take_conversations(source, part.samples, name="own", seed=1),
        key=lambda conversation: len(conversation.messages),
    )
    assert first.reply == {
        "role": "assistant", "reasoning_content": "12 + 30 = 42\n42 + 7 = 49", "content": "49",
    }  # fmt: skip
    assert second.reply == {
        "role": "assistant", "reasoning_content": "2 + 3 = 5", "content": "5",
    }  # fmt: skip


def test_the_rows_of_the_page_have_a_check_and_tools(written: Path) -> None:
    own = JsonlSource(type="jsonl", form="conversation", path=str(written / "own.jsonl"))
    by_id = {c.id: c for c in take_conversations(own, 2, name="own", seed=1)}
    asked = by_id["sum-1"].check
    assert asked is not None
    assert check(asked.kind, "<think>42 + 7</think>49", asked.reference).value == 1.0
    tools = by_id["w-1"].tools
    assert tools is not None
    assert tools[0]["name"] == by_id["w-1"].messages[1]["tool_calls"][0]["name"]
