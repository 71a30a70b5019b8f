"""A stage that makes no progress says where each of its processes stands, once; nothing is ended.

Every process of a stage (its task, the ranks of a training, its engines) answers in a thread of its own:
asked by a file in STAGE/stacks, it writes the stacks of all its threads there. Where something holds the
interpreter's lock, so that no thread can answer, C code writes them after a while. All of it goes through
the run's folder, which the nodes of a cluster share.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from workbench.files import write_whole
from workbench.progress import duration_words

FOLDER, REPORT = "stacks", "stuck.txt"
_ASKED, _HELD = "asked", ".held"
_POLL_S, _ANSWER_S = 1.0, 6.0
_HELD_S = 60.0  # longer than compiled code holds the lock at a time
_SHOWN_FRAMES = 8


class _Answers:
    """The answering thread of this process."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.who = ""
        self._answered = 0
        self._held: IO[str] | None = None
        self._changing = threading.RLock()
        self._thread: threading.Thread | None = None

    def move_to(self, folder: Path | None, who: str) -> None:
        """Answer in this folder from now on; None: nowhere."""
        with self._changing:
            self._leave()
            self.folder, self.who = folder, who
            if folder is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="stacks")
                self._thread.start()

    def _leave(self) -> None:
        faulthandler.cancel_dump_traceback_later()  # before its file is closed
        if self._held is not None:
            self._held.close()
            Path(self._held.name).unlink(missing_ok=True)
            self._held = None

    def _run(self) -> None:
        while True:
            with self._changing, suppress(OSError):  # the folder may be gone, or its disk full
                if self.folder is not None:
                    self._look(self.folder)
            time.sleep(_POLL_S)

    def _look(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        if self._held is None:
            self._held = (folder / f"{self.who}{_HELD}").open("w+", encoding="utf-8")
        self._held.seek(0)
        self._held.truncate()
        # Told again at each look: it is reached only where this thread cannot run.
        faulthandler.dump_traceback_later(_HELD_S, file=self._held)
        asked = folder / _ASKED
        when = asked.stat().st_mtime_ns if asked.is_file() else 0
        if when > self._answered:
            self._answered = when
            write_whole(folder / f"{self.who}.txt", own_stacks(self.who))


_ANSWERS = _Answers()


@contextmanager
def answering(stage_dir: Path, who: str) -> Iterator[None]:
    """This process answers for a stage meanwhile. who: its name in the report."""
    before = _ANSWERS.folder, _ANSWERS.who
    answer_in(stage_dir / FOLDER, who)
    try:
        yield
    finally:
        _ANSWERS.move_to(*before)


def answer_in(folder: Path | None, who: str) -> None:
    """This process answers in a folder from now on, until another one is named."""
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    _ANSWERS.move_to(folder, who)


def answers_where() -> str:
    """The folder in which this process answers, for those that it starts; "" for none."""
    return "" if _ANSWERS.folder is None else str(_ANSWERS.folder)


def own_stacks(who: str) -> str:
    """Every thread of this process but the one that asks, the main one first."""
    names = {t.ident: t.name for t in threading.enumerate()}
    frames = sys._current_frames()
    main = threading.main_thread().ident
    order = sorted(frames, key=lambda ident: (ident != main, names.get(ident, "")))
    lines = [f"{who} (process {os.getpid()} on {socket.gethostname()})"]
    for ident in order:
        if ident == threading.get_ident():
            continue
        lines.append(f" thread {names.get(ident, ident)}, newest call last:")
        lines += [line.rstrip("\n") for line in traceback.format_stack(frames[ident])]
    return "\n".join(lines) + "\n"


class StuckWatch:
    """Looks at a stage from outside; tells once when it has made no progress for `after_s` seconds, and
    again only after it has gone on."""

    def __init__(self, stage_dir: Path, after_s: float, tell: Callable[[str], object]) -> None:
        self.stage_dir, self.after_s, self.tell = stage_dir, after_s, tell
        self.name = stage_dir.name
        self._seen: tuple[int, float] | None = None
        self._told_at: int | None = None

    def look(self) -> None:
        """Cheap where there is progress. Never raises: it only tells."""
        with suppress(OSError):
            newest = _newest(self.stage_dir)
            now = time.monotonic()
            if newest and (self._seen is None or self._seen[0] != newest):
                self._seen = newest, now
            if self._seen is None or self._told_at == newest:
                return
            if now - self._seen[1] >= self.after_s:
                self._told_at = newest
                self._report(now - self._seen[1])

    def _report(self, silent_s: float) -> None:
        folder = self.stage_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        asked = folder / _ASKED
        write_whole(asked, f"{time.time()}\n")
        stacks = _answers(folder, asked.stat().st_mtime_ns)
        head = (
            f"{self.name}: no progress for {duration_words(silent_s)}; it goes on, and this is where each "
            "of its processes stands"
        )
        whole = "\n".join([head, *(stacks or ["no process of it answered; see its log"])])
        write_whole(folder / REPORT, whole + "\n")
        # Behind the report: writing to the log is not progress of the stage.
        with (self.stage_dir / "log.txt").open("a", encoding="utf-8") as log:
            log.write(whole + "\n")
        self._told_at = _newest(self.stage_dir)
        self._seen = (self._told_at, self._seen[1]) if self._seen else None
        shown = [_short(text) for text in stacks] or ["  no process of it answered"]
        self.tell("\n".join([head, *shown, f"  whole stacks: {folder / REPORT}"]))


def _newest(stage_dir: Path) -> int:
    """When a file of the stage was last written; 0 before there is one."""
    return max((p.stat().st_mtime_ns for p in stage_dir.glob("*") if p.is_file()), default=0)


def _answers(folder: Path, asked_ns: int) -> list[str]:
    """What the processes wrote: those that answered, and those whose lock is held."""
    names = {p.name.removesuffix(_HELD) for p in folder.glob(f"*{_HELD}")}
    until = time.monotonic() + _ANSWER_S
    found: dict[str, str] = {}
    while time.monotonic() < until and len(found) < len(names):
        for name in names - found.keys():
            path = folder / f"{name}.txt"
            if path.is_file() and path.stat().st_mtime_ns >= asked_ns:
                found[name] = path.read_text(encoding="utf-8")
        time.sleep(0.1)
    for name in sorted(names - found.keys()):
        held = (folder / f"{name}{_HELD}").read_text(encoding="utf-8", errors="replace")
        if held:
            found[name] = f"{name} (compiled code holds its lock; newest call first)\n{held}"
        else:
            found[name] = f"{name} did not answer: it has ended, or compiled code holds its lock\n"
    return [found[name] for name in sorted(found)]


def _short(stacks: str) -> str:
    """A process's head with the newest frames of its first thread."""
    head, *lines = stacks.splitlines()
    first: list[str] = []
    for line in lines:
        if line.startswith(" thread ") and first:
            break
        if line.lstrip().startswith("File "):
            first.append("    " + line.strip())
    oldest_first = "newest call first" not in head
    kept = first[-_SHOWN_FRAMES:] if oldest_first else first[:_SHOWN_FRAMES]
    return "\n".join([f"  {head}", *kept])


@contextmanager
def watched(watch: StuckWatch) -> Iterator[None]:
    """Looked at from a thread of this process, where no driver in another one does."""
    over = threading.Event()

    def looks() -> None:
        while not over.wait(_POLL_S):
            watch.look()

    thread = threading.Thread(target=looks, daemon=True, name="stuck")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * _ANSWER_S)
