"""Some groups of each step word for word, with every part of their rewards, in rollouts.jsonl."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.sample import Rollout
from workbench.files import write_whole
from workbench.rundir import read_json_lines


class RolloutLog:
    """The first `groups` groups of each step, a reply a line; a resumed step replaces its lines."""

    def __init__(self, path: Path, tokenizer: Any, groups: int) -> None:
        self._path, self._tokenizer, self._groups = path, tokenizer, groups

    def truncate_after(self, step: int) -> None:
        """Drop what later steps wrote before the stage was stopped."""
        if self._path.is_file():
            kept = [row for row in read_json_lines(self._path) if row["step"] <= step]
            write_whole(self._path, "".join(map(_line, kept)))

    def write(self, step: int, groups: Sequence[Sequence[Rollout]]) -> None:
        """Append the step's."""
        rows = [self._row(step, r) for group in groups[: self._groups] for r in group]
        if rows:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(map(_line, rows)))

    def _row(self, step: int, rollout: Rollout) -> dict[str, Any]:
        return {
            "step": step,
            "prompt": self._tokenizer.decode(rollout.prompt),
            "reply": rollout.completion.text,
            "prompt_tokens": len(rollout.prompt),
            "reply_tokens": rollout.num_tokens,
            **({"later": self._later(rollout)} if rollout.later else {}),
            "reward": rollout.reward,
            "advantage": rollout.advantage,
            "status": rollout.status,
            "checked": rollout.checked,
            "parts": rollout.parts,
        }

    def _later(self, rollout: Rollout) -> list[dict[str, str]]:
        return [
            {"prompt": self._tokenizer.decode(t.prompt), "reply": t.completion.text}
            for t in rollout.later
        ]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
