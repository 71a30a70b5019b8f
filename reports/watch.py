"""A live page of a run, served from its directory: read anew for each request, nothing kept, nothing sent.

The page has no scripts, whatever the samples hold: the browser is told to ask again by a header.
"""

import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from reports.charts import loss_panel, stage_panels
from reports.page import filled
from reports.read import RunFacts, StageFacts, read_run
from reports.run_warnings import run_warnings
from reports.write import page_of
from workbench.errors import UserError, one_line
from workbench.progress import duration_words
from workbench.rundir import read_json_lines
from workbench.statistics import mean_interval
from workbench.stuck import FOLDER, REPORT

ROLLOUTS = "rollouts.jsonl"
_SHOWN, _CHARACTERS = 12, 3000
_SILENT_S = 120.0
_STACKS_CHARACTERS = 50_000


def watch_page(root: Path, *, every_s: float = 3.0) -> str:
    """The page as it is now. Raises: UserError where `root` holds no run."""
    facts = read_run(root)
    now = time.time()
    context = {
        "run": facts,
        "now": time.strftime("%H:%M:%S", time.localtime(now)),
        "every": f"{every_s:g}",
        "stages": [_stage(facts, stage, now) for stage in facts.stages.values()],
        "warnings": _warnings(facts, now),
    }
    return filled("watch.html", context, "style.css")


def _stage(facts: RunFacts, stage: StageFacts, now: float) -> dict[str, Any]:
    rows = _newest(facts.root / stage.name / ROLLOUTS)
    losses = [p for x in ("tokens", "step") if (p := loss_panel(stage, x))]
    return {
        "name": stage.name,
        "kind": stage.kind,
        "status": stage.status,
        "where": _where(stage),
        "heard": _heard(stage, now),
        "panels": [*losses, *stage_panels(stage)],
        "waits": _waits(stage),
        "stuck": _stuck(facts.root / stage.name, stage),
        "step": rows[0]["step"] if rows else None,
        "reward": _reward(rows),
        "rollouts": [_rollout(row) for row in rows[:_SHOWN]],
    }


def _stuck(folder: Path, stage: StageFacts) -> str:
    """Where a stage's processes stood when it made no progress, until it goes on."""
    path = folder / FOLDER / REPORT
    if stage.status != "unfinished" or not path.is_file():
        return ""
    progress, since = folder / "progress.json", path.stat().st_mtime
    gone_on = progress.is_file() and progress.stat().st_mtime > since
    return (
        "" if gone_on else path.read_text(encoding="utf-8", errors="replace")[:_STACKS_CHARACTERS]
    )


def _where(stage: StageFacts) -> str:
    progress = stage.progress
    if stage.status in ("done", "not started") or not progress:
        return ""
    step, total = progress.get("step"), progress.get("total")
    parts = [str(progress.get("message") or "")]
    parts += [f"{step:,} of {total:,}" if total else f"step {step:,}"] if step is not None else []
    rate = progress.get("rate")
    parts += [f"{rate:,.0f} {progress.get('rate_unit')}"] if rate else []
    left = progress.get("eta_s")
    parts += [f"{duration_words(left)} left"] if left else []
    return ", ".join(part for part in parts if part)


def _heard(stage: StageFacts, now: float) -> str:
    at = stage.progress.get("updated_at")
    if not at or stage.status == "done":
        return ""
    return f"{duration_words(max(now - float(at), 0.0))} ago"


def _waits(stage: StageFacts) -> str:
    """Who waits for whom: the last step's times, of a stage that samples."""
    last = next((row for row in reversed(stage.metrics) if "rollout_s" in row), None)
    if last is None:
        return ""
    names = {
        "rollout_s": "sampling and scoring", "wait_s": "trainer waited", "update_s": "update",
        "sync_s": "weight sync", "overlap_s": "sampled during updates",
    }  # fmt: skip
    shown = [
        f"{text} {last[n]:.3g} s" for n, text in names.items() if isinstance(last.get(n), float)
    ]
    return f"step {last['step']}: " + ", ".join(shown)


def _newest(path: Path) -> list[dict[str, Any]]:
    """The rollouts of the last step that has any."""
    if not path.is_file():
        return []
    rows = list(read_json_lines(path))
    return [row for row in rows if row.get("step") == rows[-1].get("step")] if rows else []


def _reward(rows: list[dict[str, Any]]) -> str:
    """Mean reward of the rollouts that are kept, with its interval, clustered by prompt."""
    scored = [row for row in rows if isinstance(row.get("reward"), int | float)]
    if not scored:
        return "none of them has a reward" if rows else ""
    found = mean_interval([float(r["reward"]) for r in scored], [str(r["prompt"]) for r in scored])
    failed = len(rows) - len(scored)
    more = f", {failed} without one" if failed else ""
    return f"mean reward {found.value:.3f} (95% {found.low:.3f} to {found.high:.3f}, n = {len(scored)} kept{more})"


def _rollout(row: Mapping[str, Any]) -> dict[str, Any]:
    reward = row.get("reward")
    return {
        "reward": f"{reward:.3f}" if isinstance(reward, int | float) else "none",
        "status": str(row.get("status") or ""),
        "prompt": str(row.get("prompt") or "")[-_CHARACTERS:],
        "reply": str(row.get("reply") or "")[:_CHARACTERS],
        "parts": list(_flat(row.get("parts") or {})),
    }


def _flat(parts: Any, name: str = "") -> list[tuple[str, str]]:
    """Every part of a reward by its path."""
    if not isinstance(parts, Mapping):
        return [(name, str(parts)[:300])]
    return [
        pair
        for key, value in parts.items()
        for pair in _flat(value, f"{name}/{key}" if name else str(key))
    ]


def _warnings(facts: RunFacts, now: float) -> list[str]:
    lines = []
    for stage in facts.stages.values():
        told = [*stage.result.warnings, *run_warnings(stage.metrics)]
        at = stage.progress.get("updated_at")
        if stage.status == "unfinished" and at and now - float(at) > _SILENT_S:
            told.append(f"nothing heard of it for {duration_words(now - float(at))}")
        lines += [f"{stage.name}: {line}" for line in told]
    return lines


def server(root: Path, *, port: int, every_s: float = 3.0) -> ThreadingHTTPServer:
    """A server of this machine alone; `serve_forever` runs it. Raises: UserError where the port is taken."""
    read_run(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                if self.path == "/":
                    self._send(200, watch_page(root, every_s=every_s))
                elif self.path == "/report":
                    self._send(200, filled("report.html", page_of(read_run(root)), "style.css"))
                else:
                    self._send(404, "not here")
            except (UserError, OSError, ValueError, KeyError) as error:  # written at this moment
                self._send(
                    503, f"not to be read at this moment ({one_line(error)}); it is tried again"
                )

        def _send(self, status: int, text: str) -> None:
            body = text.encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            if self.path == "/":
                self.send_header("Refresh", f"{every_s:g}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be used ({one_line(error)}); give another --port"
        ) from None
