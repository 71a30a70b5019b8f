"""Break lines, run the tests that must notice, and keep what came of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutations.mutation import Mutation
from tests.mutations.tree import Copy, Ending, copied, files_of

# Of an unbroken tree's tests, all entries of one file together.
_UNBROKEN_LIMIT_S = 1200.0


@dataclass(frozen=True)
class Result:
    """What became of a broken line. status: caught, survived, timeout or unusable.

    by: the test that caught it, or why it is unusable. key: digest of all that it depends on.
    """

    name: str
    status: str
    by: str
    wall_s: float
    key: str

    @property
    def caught(self) -> bool:
        """Whether a test noticed."""
        return self.status == "caught"


class Results:
    """Results kept in a file, a line each, so that a run goes on where it was stopped."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, dict[str, Result]()
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # not cut short
                    result = Result(**json.loads(line))
                    self._found[result.name] = result

    def of(self, name: str, key: str) -> Result | None:
        """What was found, where nothing has changed since."""
        found = self._found.get(name)
        return found if found is not None and found.key == key else None

    def keep(self, result: Result) -> None:
        """Add one."""
        self._found[result.name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(result)) + "\n")


class Keys:
    """What a result depends on: its entry, the named test files, and all code and recipes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        whole = hashlib.sha256()
        for name in files_of(root):
            if not _is_test(name) and not _is_beside(name):
                whole.update(name.encode() + b"\0" + (root / name).read_bytes())
        self._shared = whole.digest()

    def of(self, mutation: Mutation) -> str:
        """Digest for one entry."""
        return self._digest(repr(mutation), mutation.tests)

    def of_tests(self, tests: Sequence[str]) -> str:
        """Digest for tests on the unbroken tree."""
        return self._digest("", tests)

    def _digest(self, what: str, tests: Sequence[str]) -> str:
        own = hashlib.sha256(self._shared + what.encode())
        for test in tests:
            path = self._root / test.partition("::")[0]
            own.update(test.encode())
            for file in [path] if path.is_file() else sorted(path.rglob("test_*.py")):
                own.update(file.read_bytes())
        return own.hexdigest()[:16]


def _is_test(name: str) -> bool:
    return name.startswith("tests/") and name.rpartition("/")[2].startswith("test_")


def _is_beside(name: str) -> bool:
    """Texts, and this tool: what a test finds depends on neither."""
    return name.endswith(".md") or name.startswith("tests/mutations/")


def run(
    root: Path,
    mutations: Sequence[Mutation],
    kept: Results,
    *,
    jobs: int,
    preloaded: Sequence[str],
    tell: Callable[[Mutation, Result], None],
) -> list[Result]:
    """The result of each, in order. tell is called as each is known, also of an earlier run's."""
    keys = Keys(root)
    found: dict[str, Result] = {}
    waiting: dict[str, list[Mutation]] = {}
    for mutation in mutations:
        old = kept.of(mutation.name, keys.of(mutation))
        if old is not None and old.caught:
            found[mutation.name] = old
            tell(mutation, old)
        else:
            waiting.setdefault(mutation.tests[0].partition("::")[0], []).append(mutation)
    groups = iter(waiting.values())

    def work() -> None:
        with copied(root, preloaded) as copy:
            for group in _shared(groups):
                for mutation, result in _group(copy, group, kept, keys):
                    kept.keep(result)
                    found[mutation.name] = result
                    tell(mutation, result)

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work) for _ in range(min(jobs, len(waiting)))]:
            done.result()
    return [found[mutation.name] for mutation in mutations]


def _shared(groups: Iterator[list[Mutation]]) -> Iterator[list[Mutation]]:
    """One iterator for several threads: a list's own is safe to share."""
    while (group := next(groups, None)) is not None:
        yield group


def _group(
    copy: Copy, group: list[Mutation], kept: Results, keys: Keys
) -> Iterator[tuple[Mutation, Result]]:
    """Entries that begin with the same test file: its tests must pass on the unbroken tree."""
    tests = _fewest([test for mutation in group for test in mutation.tests])
    name, key = f"unbroken: {' '.join(tests)}", keys.of_tests(tests)
    sound = kept.of(name, key)
    if sound is None:
        ending = copy.run(tests, _UNBROKEN_LIMIT_S)
        status = "passed" if ending.kind == "passed" else "unusable"
        sound = Result(name, status, ending.test, ending.wall_s, key)
        if status == "passed":
            kept.keep(sound)
    for mutation in group:
        if sound.status != "passed":
            by = f"its tests fail on the unbroken tree: {sound.by}"
            yield mutation, Result(mutation.name, "unusable", by, 0.0, keys.of(mutation))
            continue
        with copy.planted(mutation.file, mutation.broken(copy.folder)):
            ending = copy.run(mutation.tests, mutation.limit_s)
        status, by = _read(mutation, ending)
        yield mutation, Result(mutation.name, status, by, ending.wall_s, keys.of(mutation))


def _fewest(tests: Sequence[str]) -> list[str]:
    """Without repeats, nor tests of a file that is there as a whole."""
    return [
        test
        for test in dict.fromkeys(tests)
        if not any(test.startswith(f"{other}::") for other in tests)
    ]


def _read(mutation: Mutation, ending: Ending) -> tuple[str, str]:
    """(status, by) of a broken line from how its tests ended."""
    if ending.kind == "failed":
        return "caught", ending.test
    if ending.kind == "timeout":
        why = f"no end within {mutation.limit_s:g} s"
        return ("caught", why) if mutation.hangs else ("timeout", why)
    if ending.kind == "passed":
        return "survived", ""
    return "unusable", f"{ending.kind}: {ending.test}"
