"""Figures of the data stages: equations, duplicates, benchmarks, languages, memory (docs/data.md).

    python benchmarks/data_stages.py                       what needs no pages: dedup's memory
    python benchmarks/data_stages.py data/debian           all, on packages that scripts/debian_warc.py unpacked
    python benchmarks/data_stages.py data/debian equations duplicates

Speeds are CPU time of one process; lynx's and pandoc's own time counts.
"""

import glob
import html as escape
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_mix.curate.equations import Page, markup_characters, surviving
from data_mix.curate.questions import ALL_HERE, gather, looked_for, read
from data_mix.curate.steps.html import by_lynx, by_resiliparse
from data_mix.decontaminate import Decontaminator
from data_mix.dedup import shingles
from data_mix.duplicates.files import KEEP, ShardFile, Work, opened
from data_mix.duplicates.passes import Shape, decide, pair, ranges_of, write_keys
from data_mix.duplicates.signature import Signer, exact_key
from data_mix.hashed_runs import hashed

MATH = re.compile(r'<(span|div)([^>]*class="[^"]*\bmath\b[^"]*"[^>]*)>(.*?)</\1>', re.DOTALL)
PAGES, PER_PACKAGE, INNOCENT = 300, 100, 5000
VOCABULARY = ["number", "of", "the", "matrix", "find", "all", "values", "a", "function", "returns"]
BEGINS_ALIKE = "what is the answer to the question of number"


def cpu_s() -> float:
    """CPU seconds of this process and of those it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def tex_in(text: str) -> tuple[str, bool] | None:
    """The TeX of a Sphinx element, and whether it is displayed."""
    bare = escape.unescape(re.sub(r"<[^>]+>", "", text)).strip()
    for opens, closes in ((r"\(", r"\)"), (r"\[", r"\]")):
        if bare.startswith(opens) and bare.endswith(closes) and bare[2:-2].strip():
            return bare[2:-2].strip(), opens == r"\["
    return None


def pages_with_equations(folder: Path) -> list[tuple[str, list[str]]]:
    """(HTML, TeX of its equations) of real pages, in equal parts from each package."""
    rng, out = random.Random(5), list[tuple[str, list[str]]]()
    for package in sorted((folder / "usr/share/doc").iterdir()):
        paths = sorted(p for p in package.rglob("*.html") if p.is_file() and not p.is_symlink())
        rng.shuffle(paths)
        found = 0
        for path in paths:
            text = path.read_text(encoding="utf-8", errors="replace")
            equations = [tex[0] for m in MATH.finditer(text) if (tex := tex_in(m[3]))]
            if equations and len(text) < 700_000 and found < PER_PACKAGE and len(out) < PAGES:
                out.append((text, equations))
                found += 1
    return out


def as_script(match: re.Match[str]) -> str:
    """MathJax 2's source, with its preview."""
    found = tex_in(match[3])
    if found is None:
        return match[0]
    mode = "; mode=display" if found[1] else ""
    return f'<span class="MathJax_Preview">[math]</span><script type="math/tex{mode}">{found[0]}</script>'


def as_image(match: re.Match[str]) -> str:
    """An image whose alternative text is TeX."""
    found = tex_in(match[3])
    return f'<img class="math" src="e.png" alt="{escape.escape(found[0])}">' if found else match[0]


def as_mathml(match: re.Match[str]) -> str:
    """MathML that carries its TeX; what it draws does not matter here."""
    found = tex_in(match[3])
    if found is None:
        return match[0]
    note = f'<annotation encoding="application/x-tex">{escape.escape(found[0])}</annotation>'
    return f"<math><semantics><mrow><mi>drawn</mi></mrow>{note}</semantics></math>"


def as_katex(match: re.Match[str]) -> str:
    """KaTeX: MathML, and the same drawn from spans."""
    drawn = '<span class="katex-html" aria-hidden="true"><span class="mord">drawn</span></span>'
    math = as_mathml(match)
    return f'<span class="katex"><span class="katex-mathml">{math}</span>{drawn}</span>' if math != match[0] else math  # fmt: skip


def equations(folder: Path) -> None:
    """Recall of every notation by both renderers, with and without the pre-pass."""
    pages = pages_with_equations(folder)
    total = sum(len(found) for _, found in pages)
    print(f"equations: {len(pages)} pages, {total:,} equations")
    writers: dict[str, Callable[[re.Match[str]], str] | None] = {
        **{"text": None, "script": as_script, "katex": as_katex},
        **{"mathml": as_mathml, "image": as_image},
    }
    for notation, writer in writers.items():
        written = [MATH.sub(writer, html) if writer else html for html, _ in pages]
        size = sum(map(len, written)) / 1e6
        before = cpu_s()
        made = [Page(html, pandoc=False).html for html in written]
        spent = cpu_s() - before
        print(f"  {notation}: pre-pass {size / spent:.1f} MB/s")
        for name, render, given in (
            ("lynx alone", by_lynx, written),
            ("pre-pass + lynx", by_lynx, made),
            ("pre-pass + resiliparse", by_resiliparse, made),
        ):
            before = cpu_s()
            texts = [render(html) for html in given]
            speed = size / (cpu_s() - before)
            kept = sum(surviving(own, text) for (_, own), text in zip(pages, texts, strict=True))
            markup = sum(map(markup_characters, texts)) / sum(map(len, texts))
            print(f"    {name}: recall {kept / total:.4f}, markup {markup:.3%}, {speed:.1f} MB/s")


def texts_of(folder: Path, most: int) -> list[str]:
    """Texts of real pages."""
    paths = sorted(
        p for p in glob.glob(f"{folder}/**/*.html", recursive=True) if not os.path.islink(p)
    )
    random.Random(1).shuffle(paths)
    read_texts = (Path(p).read_text(encoding="utf-8", errors="replace") for p in paths[:most])
    return [text for html in read_texts if len(text := by_resiliparse(html, main=False)) > 600]


def verdict_of(texts: list[str], shape: Shape) -> np.ndarray:
    """What dedup's passes decide of texts."""
    with tempfile.TemporaryDirectory() as place:
        work, part = Work(Path(place)), ShardFile(0, Path(place), 0, 0, len(texts), True)
        signer = Signer(shape.places)
        signatures = np.stack([signer.signature(text) for text in texts])
        exact = np.array([exact_key(text) for text in texts], np.uint64)
        write_keys(work, 0, signatures, exact, shape)
        for band in range(shape.bands + 1):
            pair(work, [part], band, 0, shape)
        decide(work, [part], shape.bands + 1)
        return np.array(opened(work.verdict))


def planted(
    texts: list[str], share: Callable[[int], float], units: Callable[[str], list[str]], join: str
) -> None:
    """Plant edited copies of texts, and say which were found."""
    rng, shape = random.Random(3), Shape(20, 6, 0.8, 1)
    first = verdict_of(texts, Shape(20, 6, 0.5, 1))
    base = [text for text, found in zip(texts, first, strict=True) if found == KEEP]
    copies, likeness = [], []
    for number, text in enumerate(base):
        parts = units(text)
        edited = [rng.choice(parts) if rng.random() < share(number) else part for part in parts]
        copies.append(join.join(edited))
        one, other = shingles(text), shingles(copies[-1])
        likeness.append(len(one & other) / len(one | other))
    found = verdict_of(base + copies, shape) != KEEP
    like, gone = np.array(likeness), found[len(base) :]
    close, far = like >= 0.8, like < 0.6
    print(
        f"  {len(base):,} texts, {int(close.sum()):,} copies with J >= 0.8, {int(far.sum()):,} with J < 0.6: "
        f"recall {gone[close].mean():.4f}, wrong {gone[far].mean():.4f}, others removed "
        f"{int(found[: len(base)].sum())}"
    )


SHARES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.06, 0.1)


def duplicates(folder: Path) -> None:
    """Recall of planted near duplicates, and the speed of signatures."""
    texts = texts_of(folder, 3000)
    size, signer = sum(map(len, texts)) / 1e6, Signer(120)
    before = cpu_s()
    for text in texts:
        signer.signature(text)
    print(f"duplicates: signatures {size / (cpu_s() - before):.1f} MB/s of {size:.0f} MB")
    planted(texts, lambda n: SHARES[n % len(SHARES)], lambda t: t.split(" "), " ")


def harder(prompts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Prompts of other numbers and likeness: what is looked for must not decide how long it takes."""
    rng = random.Random(2)
    other = [" ".join(rng.choices(VOCABULARY, k=rng.randint(8, 40))) for _ in range(100_000)]
    yield "benchmarks", prompts
    yield "and 100,000 more", prompts + other
    yield "20,000 that begin alike", [f"{BEGINS_ALIKE} {n}" for n in range(20_000)]


def speed_of(guard: Decontaminator, texts: list[str]) -> tuple[float, int]:
    """(MB of text a CPU-second, best of three; how many texts are contaminated)."""
    times, flagged = [], 0
    for _ in range(3):
        before = cpu_s()
        flagged = sum(map(guard.is_contaminated, texts))
        times.append(cpu_s() - before)
    return sum(map(len, texts)) / 1e6 / min(times), flagged


def benchmarks(folder: Path) -> None:
    """Every benchmark that is here, against innocent pages and exact copies."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "questions.jsonl"
        gather([ALL_HERE], "data/evals", path)
        prompts, common = looked_for(path, 13)
        questions = read(path)
    guard = Decontaminator(prompts, ngram_words=13, common=common)
    texts = texts_of(folder, INNOCENT)
    _, flagged = speed_of(guard, texts)
    asked = [q.texts[0] for q in questions if q.texts and hashed(q.texts[0]).num_words >= 8]
    found = sum(guard.is_contaminated(f"Words before. {text} And words after.") for text in asked)
    names = len({question.benchmark for question in questions})
    print(
        f"benchmarks: {names}, {len(questions):,} questions; innocent removed {flagged} of {len(texts):,}; "
        f"exact copies found {found:,} of {len(asked):,} (of 8 words and more)"
    )
    asking = [text.replace(". ", f". {BEGINS_ALIKE} none. ") for text in texts]
    for name, looked in harder(prompts):
        own = Decontaminator(looked, ngram_words=13, common=common)
        speed, _ = speed_of(own, asking if BEGINS_ALIKE in looked[0] else texts)
        print(f"  {name} ({len(looked):,} texts looked for): {speed:.1f} MB/s")


def most_bytes() -> int:
    """The most memory of this process since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def memory(count: int = 2_000_000) -> None:
    """Pair and decide on random signatures, a tenth of them copies: bytes a row beyond the start."""
    rng, size = np.random.default_rng(0), 100_000
    shape = Shape(20, 6, 0.8, ranges_of(count))
    with tempfile.TemporaryDirectory() as place:
        work, parts = Work(Path(place)), list[ShardFile]()
        for number in range(count // size):
            signatures = rng.integers(0, 2**32, (size, shape.places), dtype=np.uint32)
            signatures[-size // 10 :] = signatures[: size // 10]
            exact = rng.integers(0, 2**64, size, dtype=np.uint64)
            write_keys(work, number, signatures, exact, shape)
            parts.append(ShardFile(number, Path(place), number, number * size, size, True))
        del signatures, exact
        signing = most_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        start, began = most_bytes(), time.monotonic()
        for band in range(shape.bands + 1):
            for number in range(shape.ranges):
                pair(work, parts, band, number, shape)
        decide(work, parts, (shape.bands + 1) * shape.ranges)
        gone = int((opened(work.verdict) != KEEP).sum())
    peak = most_bytes()
    print(
        f"memory: {count:,} rows, {gone:,} copies found of {count // 10:,}, {time.monotonic() - began:.0f} s; "
        f"{start / 2**20:,.0f} MB before the passes, {peak / 2**20:,.0f} MB at most in them, "
        f"{signing / 2**20:,.0f} MB while keys were written"
    )


def main() -> None:
    """Run what is asked for, or all that can be."""
    folder, *wanted = [Path(sys.argv[1]), *sys.argv[2:]] if len(sys.argv) > 1 else [None]
    parts: dict[str, Callable[[Path], None]] = {
        "equations": equations,
        "duplicates": duplicates,
        "benchmarks": benchmarks,
    }
    for name, measure in parts.items():
        if folder is not None and (not wanted or name in wanted):
            measure(folder)
    if not wanted or "memory" in wanted:
        memory()


if __name__ == "__main__":
    main()
