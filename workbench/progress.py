"""Live progress across processes: stages write a small file, the driver shows it."""

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from workbench.files import write_whole

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_MIN_WRITE_S = 1.0  # a stage writes its file at most this often
_PLAIN_LINE_S = 10.0  # without a terminal, a running stage gets a line this often
_REDRAW_S = 0.2  # on a terminal
_RATE_WINDOW = 30  # updates that rate and ETA look back on: recent speed, not the slow first steps


class ProgressFile:
    """STAGE/progress.json, written atomically by the stage::

    {"stage": "sft1", "message": "train", "step": 12, "total": 80, "unit": "step",
     "rate": 1830.5, "rate_unit": "tok/s", "eta_s": 95.1, "updated_at": 1795487037.0}
    """

    def __init__(self, path: Path, *, stage: str) -> None:
        self.path, self.stage = path, stage
        self._written: float | None = None
        self._message: str | None = None
        self._seen: deque[tuple[float, int, int | None]] = deque(maxlen=_RATE_WINDOW)

    def update(
        self,
        *,
        step: int | None = None,
        total: int | None = None,
        message: str = "",
        tokens: int | None = None,
        unit: str = "step",
    ) -> None:
        """Note how far the stage is. A new message or the last step is written at once."""
        now = time.monotonic()
        if message != self._message:
            self._seen.clear()  # another activity has another speed
        if step is not None:
            self._seen.append((now, step, tokens))
        recent = self._written is not None and now - self._written < _MIN_WRITE_S
        if recent and message == self._message and (step is None or step != total):
            return
        self._written, self._message = now, message
        state: dict[str, Any] = {
            "stage": self.stage, "message": message, "step": step, "total": total, "unit": unit,
            **self._rates(total, unit), "updated_at": time.time(),
        }  # fmt: skip
        write_whole(self.path, json.dumps(state))

    def _rates(self, total: int | None, unit: str) -> dict[str, Any]:
        unknown = {"rate": None, "rate_unit": None, "eta_s": None}
        if len(self._seen) < 2:
            return unknown
        (since, first, first_tokens), (now, step, tokens) = self._seen[0], self._seen[-1]
        spent, steps = now - since, step - first
        if spent <= 0 or steps <= 0:
            return unknown
        eta = spent / steps * max(total - step, 0) if total is not None else None
        if tokens is not None and first_tokens is not None and tokens > first_tokens:
            return {"rate": (tokens - first_tokens) / spent, "rate_unit": "tok/s", "eta_s": eta}
        return {"rate": steps / spent, "rate_unit": f"{unit}/s", "eta_s": eta}


def read_progress(path: Path) -> dict[str, Any]:
    """The newest progress of a stage; empty where it has not written any."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


@dataclass
class ProgressDisplay:
    """Shows stages on a terminal (a live line each) or in a log (a line now and then)."""

    out: TextIO
    _running: dict[str, tuple[Path, float]] = field(default_factory=dict)
    """Stage -> its folder and when it was first watched."""
    _last_drawn: float = field(default_factory=lambda: time.monotonic())
    _live: "Live | None" = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_live()

    def note(self, text: str) -> None:
        """A line of its own."""
        self._stop_live()
        self.out.write(f"{text}\n")
        self.out.flush()

    def decided(self, stage: str, run: bool, reason: str) -> None:
        """A stage is about to run or is skipped."""
        self.note(f"{'>' if run else '-'} {stage}: {'runs' if run else 'skipped'} ({reason})")

    def watch(self, stage: str, folder: Path) -> None:
        """Show this stage's progress from now on; an earlier attempt's is forgotten."""
        (folder / "progress.json").unlink(missing_ok=True)
        self._running[stage] = (folder, time.monotonic())

    def finished(self, stage: str, status: str, message: str, wall_s: float) -> None:
        """A stage ended."""
        self._running.pop(stage, None)
        mark = {"done": "+", "stopped": "="}.get(status, "!")
        text = f"{mark} {stage}: {status} after {duration(wall_s)}"
        self.note(f"{text}  {message}".rstrip())

    def refresh(self) -> None:
        """Redraw, if it is time to."""
        now = time.monotonic()
        tty = self.out.isatty()
        wait_s = _REDRAW_S if tty else _PLAIN_LINE_S
        if not self._running or now - self._last_drawn < wait_s:
            return
        self._last_drawn = now
        if tty:
            self._draw(now)
            return
        for stage, (folder, _) in self._running.items():
            self.note(f"  {describe(stage, read_progress(folder / 'progress.json'))}")

    def _draw(self, now: float) -> None:
        from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
        from rich.live import Live  # noqa: PLC0415

        if self._live is None:
            console = Console(file=self.out, highlight=False)
            # Transient: the finished line of `note` takes the place of the live ones.
            self._live = Live(
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(self._table(now), refresh=True)

    def _table(self, now: float) -> "Table":
        from rich.progress_bar import ProgressBar  # noqa: PLC0415 - only where there is a terminal
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table.grid(padding=(0, 1))
        for _ in range(2):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for stage, (folder, since) in self._running.items():
            state = read_progress(folder / "progress.json")
            step, total = state.get("step"), state.get("total")
            known = isinstance(step, int) and isinstance(total, int) and total > 0
            bar = (
                ProgressBar(total=total, completed=step or 0, width=20)
                if known
                else ProgressBar(total=None, width=20, pulse=True, animation_time=now)
            )
            text = describe(stage, state).removeprefix(f"{stage}: ")
            spent = duration(now - since)
            table.add_row(Text(stage, style="bold"), bar, Text(f"{spent}  {text}"))
        return table

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def describe(stage: str, state: dict[str, Any]) -> str:
    """One line for a stage's progress.

    >>> describe("sft1", {"message": "train", "step": 12, "total": 80, "unit": "step",
    ...                   "rate": 1830.5, "rate_unit": "tok/s", "eta_s": 95.1})
    'sft1: train  step 12/80 (15%)  1,830 tok/s  ETA 1:35'
    """
    if not state:
        return f"{stage}: waiting for a worker with its CPUs and GPUs"
    step, total, rate = state.get("step"), state.get("total"), state.get("rate")
    parts = [str(state.get("message") or "running")]
    if step is not None:
        share = f" ({step / total:.0%})" if total else ""
        parts.append(f"{state.get('unit', 'step')} {step}{f'/{total}' if total else ''}{share}")
    if rate:
        number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        parts.append(f"{number} {state['rate_unit']}")
    if state.get("eta_s") is not None:
        parts.append(f"ETA {duration(state['eta_s'])}")
    return f"{stage}: {'  '.join(parts)}"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some.

    >>> duration(95.1), duration(7325)
    ('1:35', '2:02:05')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def duration_words(seconds: float) -> str:
    """A duration to read: two units at most.

    >>> duration_words(3.2), duration_words(110), duration_words(7325)
    ('3 s', '1 min 50 s', '2 h 2 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
