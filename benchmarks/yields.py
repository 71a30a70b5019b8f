"""What of SmolLM2's writing the gates let through: pages cleaned, and every task of `synthesize` (docs/synthesis.md).

    scripts/setup.sh real evals; PYTHONPATH=. python benchmarks/yields.py run   all: pages, model, server, both recipes
    PYTHONPATH=. python benchmarks/yields.py                                   tables of what has run so far

Serves SmolLM2-135M-Instruct at port 8000 while the stages of recipes/miniature-rewrite.yaml and
recipes/miniature-families.yaml run one after another; a stage through whose gates nothing came ends in one line, and
the next one begins. Needs lynx. Run again, it goes on where it was.
"""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_mix.curate.debian import unpack, write_warc
from data_mix.shards import ShardFacts, shard_facts, total
from evals.synthesis.stage import cost_of
from workbench.recipe import load

RECIPES = ("miniature-rewrite", "miniature-families")
PAGES, PACKAGE = Path("data/few-pages.warc.gz"), {"python-mpmath-doc": 36}
PORT, START_S = 8000, 900


def make_pages() -> None:
    """36 pages of mpmath's documentation, where they are not there."""
    if not PAGES.exists():
        unpack(PACKAGE, PAGES.parent / "debian")
        write_warc(PAGES, PAGES.parent / "debian", PACKAGE)


def run(recipe: str, stage: str) -> None:
    """Run a stage; how it ends is said, and nothing else follows from it."""
    began = time.monotonic()
    line = [sys.executable, "scripts/run_stage.py", stage, "--recipe", f"recipes/{recipe}.yaml"]
    done = subprocess.run([*line, "--set", "cluster.backend=local"], check=False)
    print(
        f"{recipe}, {stage}: exit code {done.returncode}, {time.monotonic() - began:.0f} s",
        flush=True,
    )


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """The model behind an OpenAI-compatible server, in bfloat16."""
    options = ("--dtype=bfloat16", "--max-model-len=4096", "--max-num-seqs=32")
    line = [
        sys.executable,
        "scripts/serve.py",
        str(folder),
        "--name",
        "smollm2",
        "--port",
        str(PORT),
    ]
    server = subprocess.Popen([*line, *(f"--vllm={option}" for option in options)])
    try:
        until = time.monotonic() + START_S
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
                break
            assert server.poll() is None and time.monotonic() < until, "the server does not start"
            time.sleep(2)
        yield
    finally:
        server.terminate()
        server.wait(60)


def facts_of(stage: Path) -> ShardFacts:
    """The sums over a stage's shards."""
    numbers = (int(path.stem) for path in sorted((stage / "shards").glob("*.json")))
    found = (shard_facts(stage, number) for number in numbers)
    return total(facts for facts in found if facts is not None)


def named(reasons: dict[str, int]) -> str:
    """Reasons without their step's name, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda one: -one[1])
    return ", ".join(f"{why.partition(': ')[2] or why} {count}" for why, count in ordered) or "-"


def tables() -> None:
    """Both recipes' yields, as Markdown."""
    clean = facts_of(Path("runs/miniature-rewrite/clean"))
    print(f"\nrewrite: {clean.rows_in} pages, {clean.kept} kept, failed: {named(clean.failed)}")
    for what, count in sorted(clean.counts.items()):
        print(f"  {what}: {count}")
    print(
        "\n| task | rows | kept | removed | without a decision | replies | cut | tokens read, written |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name, config in load("recipes/miniature-families.yaml", []).stages.items():
        stage = Path("runs/miniature-families") / name
        sums = facts_of(stage)
        if config.kind != "synthesize" or not sums.rows_in:
            continue
        costs = cost_of(stage).values()
        asked, cut, said, read = (
            sum(c.get(k, 0) for c in costs) for k in ("replies", "cut", "tokens", "prompt_tokens")
        )
        print(
            f"| {name} | {sums.rows_in} | {sums.kept} | {named(sums.removed)} | {named(sums.failed)} | {asked} | {cut} | {read:,}, {said:,} |"
        )


def main() -> None:
    """Run all, then say what came through."""
    if sys.argv[1:] == ["run"]:
        make_pages()
        run(RECIPES[1], "base")
        stages = {name: load(f"recipes/{name}.yaml", []).stages for name in RECIPES}
        with served(Path("runs") / RECIPES[1] / "base"):
            run(RECIPES[0], "clean")
            own = [n for n, c in stages[RECIPES[1]].items() if c.kind == "synthesize"]
            for name in (n for n in own if "base" not in stages[RECIPES[1]][n].needs):
                run(RECIPES[1], name)
        for name in (n for n in own if "base" in stages[RECIPES[1]][n].needs):
            run(RECIPES[1], name)
    tables()


if __name__ == "__main__":
    main()
