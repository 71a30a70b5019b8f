"""Metrics of a stage: their declarations, and their writer (metrics.jsonl and TensorBoard).

A metric is declared once, in METRICS; docs/metrics.md and the report take their words from there.
"""

import json
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.files import write_whole

if TYPE_CHECKING:
    from workbench.trackers import Trackers

Direction = Literal["up", "down", "none"]

# Keys of every line; all others are metrics.
LINE_KEYS = ("step", "tokens", "wall_s", "nonfinite")


@dataclass(frozen=True)
class Metric:
    """A declared metric. direction: where better is; none where neither way is.

    Example: Metric("loss", "nats/token", "mean loss of the step's counted tokens", "down")
    """

    name: str
    unit: str
    meaning: str
    direction: Direction = "none"


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "loss",
            "nats/token",
            "what the optimizer minimises: cross-entropy over the step's counted tokens in "
            "pretraining and SFT, the KL from the teacher in distillation, the clipped policy loss in "
            "GRPO (there the value itself says little)",
            "down",
        ),
        Metric(
            "kd_loss",
            "nats/token",
            "KL of the student's next-token distribution from the teacher's, mean over the step's counted "
            "tokens",
            "down",
        ),
        Metric(
            "next_token_loss",
            "nats/token",
            "a distilled student's own cross-entropy on the same tokens, which it is not trained on",
            "down",
        ),
        Metric(
            "removal_mse",
            "",
            "mean squared error of the logits without the layer that a round of depth pruning removed, "
            "against the original model's",
            "down",
        ),
        Metric("lr", "", "learning rate of the step"),
        Metric("grad_norm", "", "norm of the whole gradient before clipping"),
        Metric("valid_tokens", "tokens", "tokens of the step that carry loss"),
        Metric("tokens_per_s", "tokens/s", "trained tokens by wall time of the step", "up"),
        Metric(
            "token_accuracy",
            "share",
            "counted tokens whose most likely prediction is the right one",
            "up",
        ),
        Metric("entropy", "nats/token", "entropy of the model's next-token distribution"),
        Metric(
            "router_loss",
            "",
            "how unevenly routers choose experts, by Switch Transformer's loss, mean over layers and tokens: "
            "experts a token where all are chosen alike",
            "down",
        ),
        Metric(
            "experts/*",
            "",
            "of each layer of experts over the step: LAYER_peak, tokens of its fullest expert over the mean "
            "expert's; LAYER_entropy, of the experts' shares, 1 where they are even and 0 where one has all",
        ),
        Metric("reward", "share", "mean reward of the step's scored samples", "up"),
        Metric(
            "checker_reward",
            "share",
            "what the checker says of replies that a reward model rewards: falling while the reward "
            "rises, the policy games its reward",
            "up",
        ),
        Metric(
            "reward_of/*",
            "",
            "mean of one part of a composite reward, under the part's name",
            "up",
        ),
        Metric(
            "judge_undecided",
            "share",
            "a judge's comparisons without a verdict (no answer, or none that can be read); they count "
            "for nobody",
            "down",
        ),
        Metric(
            "judge_flips",
            "share",
            "a judge's comparisons that prefer the reply in the same place in both orders; they count "
            "half for each",
            "down",
        ),
        Metric(
            "failed_share",
            "share",
            "samples whose generation or check failed; they are left out, never scored 0",
            "down",
        ),
        Metric(
            "mixed_groups",
            "share",
            "groups whose samples do not all have the same reward: only these teach",
        ),
        Metric("reply_tokens", "tokens", "mean length of a sampled reply, thinking included"),
        Metric("truncated", "share", "sampled replies that hit the token limit", "down"),
        Metric(
            "forced_share",
            "share",
            "sampled tokens that the thinking budget forced; they carry no loss",
        ),
        Metric(
            "mismatch_kl",
            "nats/token",
            "KL between the engine that sampled and the trainer, k3 estimate on sampled tokens",
            "down",
        ),
        Metric("clip_fraction", "share", "tokens whose policy ratio was clipped"),
        Metric(
            "unsupported",
            "share",
            "sampled tokens that the trainer's truncated policy (top-p, top-k, min-p) cannot sample; "
            "they carry no loss",
            "down",
        ),
        Metric(
            "correction_weight",
            "",
            "mean importance weight from the policy that sampled to the trainer's; 1 where they agree",
        ),
        Metric(
            "staleness", "updates", "mean age of the trained tokens' policy, at most max_staleness"
        ),
        Metric(
            "sampled_groups",
            "",
            "groups sampled for the step; more than trained on with dynamic sampling",
        ),
        Metric("wait_s", "s", "time the trainer waited for rollouts", "down"),
        Metric("overlap_s", "s", "part of rollout_s during which the trainer was updating", "up"),
        Metric("update_s", "s", "time of the policy update: forward, backward, optimizer", "down"),
        Metric("sync_s", "s", "time to copy the weights into the engine and to check them", "down"),
        Metric("sync_share", "share", "sync_s of step_s", "down"),
        Metric("sync_mb", "MB", "sent to the engines at a sync: all weights, or adapters", "down"),
        Metric(
            "probe_error",
            "nats",
            "largest difference of a probe token's log-probability between engine and trainer, and "
            "between the engine's own two paths, right after a weight sync",
            "down",
        ),
        Metric("rollout_s", "s", "time to sample and score the step's rollouts", "down"),
        Metric("step_s", "s", "wall time of the whole step", "down"),
        Metric(
            "pair_accuracy",
            "share",
            "pairs in which the better side scores higher (DPO: its log-probability has risen more)",
            "up",
        ),
        Metric("pair_margin", "", "mean score of the better side minus that of the worse", "up"),
        Metric("paid_share", "share", "of the reward that a reply's budget pays (condition)", "up"),
        Metric("thinking_tokens", "tokens", "mean length of the traces (condition)"),
        Metric("teacher_kl", "nats", "mean KL(student || teacher) at the student's own tokens"),
        Metric("teacher_agrees", "share", "tokens where both find the same one likeliest", "up"),
        Metric("chosen_reward", "", "beta times how far good replies became likelier, mean", "up"),
        Metric("rejected_reward", "", "beta times how far bad replies became likelier, mean"),
        Metric("kl", "nats", "KTO's zero: drift of replies behind other prompts, at least 0"),
        Metric("chosen_logp", "nats", "mean log-probability of a pair's better episode"),
        Metric("rejected_logp", "nats", "mean log-probability of a pair's worse episode"),
        Metric(
            "merge_score", "", "the sweep's metric at one alpha, mean over its benchmarks", "up"
        ),
        Metric("accuracy", "share", "mean of the answers' values over all benchmarks", "up"),
        Metric(
            "validation/reward",
            "share",
            "mean reward of replies to prompts that are not trained on, at the training's temperature",
            "up",
        ),
        Metric(
            "validation/checker_reward",
            "share",
            "what the checker says of the same replies, where another source rewards them",
            "up",
        ),
        Metric(
            "validation/loss",
            "nats/token",
            "loss on rows that are not trained on: cross-entropy of a token in pretraining and SFT; of "
            "preferences the logistic loss of a pair's margin (KTO: of a reply's), in nats",
            "down",
        ),
        Metric(
            "validation/accuracy",
            "share",
            "of the same rows: tokens whose likeliest prediction is the right one; pairs in which the "
            "better side scores higher; replies that went the way of their label",
            "up",
        ),
        Metric(
            "validation/*",
            "",
            "NAME_low and NAME_high: ends of that value's 95% interval, clustered by problem",
        ),
        Metric("validation_s", "s", "time of the step's validation", "down"),
    )
}


def metric(name: str) -> Metric | None:
    """The declaration of a metric; those of one family (`reward_of/NAME`) share theirs."""
    family, slash, _ = name.partition("/")
    return METRICS.get(name) or METRICS.get(f"{family}/*" if slash else name)


def metrics_markdown() -> str:
    """docs/metrics.md, written from METRICS by scripts/metrics_doc.py."""
    arrows = {"up": "higher", "down": "lower", "none": "neither"}
    rows = [
        f"| `{m.name}` | {m.unit or '–'} | {arrows[m.direction]} | {m.meaning} |"
        for m in METRICS.values()
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Each line of `runs/RUN/STAGE/metrics.jsonl` is one logged step: `step` (optimizer "
            "steps; models, in an evals",
            "stage), `tokens` (trained or sampled so far; null where not counted), `wall_s` "
            "(seconds of work so far, over all",
            "attempts) and any of the metrics below. A value that is not a finite number is "
            "written as null, and `nonfinite`",
            "then says what it was. The same values are in `runs/RUN/STAGE/tensorboard/`.",
            "",
            "Declared in `workbench/tracking.py`; this page is written by "
            "`python scripts/metrics_doc.py`.",
            "",
            "| name | unit | better | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


class MetricsWriter:
    """Appends to STAGE/metrics.jsonl; each line is {step, tokens, wall_s, name: value, ...}.

    No step of an earlier attempt stays beside the same step of this one: the first `log` (or
    `truncate_after`) cuts what the resumed stage is about to write again.
    """

    def __init__(self, stage_dir: Path, trackers: "Trackers | None" = None) -> None:
        """trackers: what else is told of every line."""
        stage_dir.mkdir(parents=True, exist_ok=True)
        self._trackers = trackers
        self.path = stage_dir / "metrics.jsonl"
        self._board: Any = None
        self._last_step: int | None = None
        self._unknown: set[str] = set()
        self._started = time.monotonic()
        self._open(_read_lines(self.path))

    def log(self, step: int, values: dict[str, float], *, tokens: int | None = None) -> None:
        """Append one line. Raises: ValueError where `step` goes back within this process."""
        if self._last_step is None:
            self.truncate_after(step - 1)
        elif step < self._last_step:
            raise ValueError(f"metrics of step {step} after those of step {self._last_step}")
        first = self._last_step is None
        self._last_step = step
        self._file.write(json.dumps(self._line(step, values, tokens), allow_nan=False) + "\n")
        if self._board is None:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - a second, only where metrics are

            folder = self.path.parent / "tensorboard"
            # Attempts within one second would share a file; purge_step hides what they repeat.
            self._board = SummaryWriter(
                str(folder),
                purge_step=step if first else None,
                filename_suffix=f".{len(list(folder.glob('events.*'))):04d}",
            )
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if self._trackers is not None:
            self._trackers.log(step, values)

    def _line(self, step: int, values: dict[str, float], tokens: int | None) -> dict[str, Any]:
        wall_s = round(self._before_s + time.monotonic() - self._started, 3)
        line: dict[str, Any] = {"step": step, "tokens": tokens, "wall_s": wall_s}
        for name, value in values.items():
            line[name] = value if math.isfinite(value) else None
            if metric(name) is None and name not in self._unknown:
                self._unknown.add(name)
                warnings.warn(f"metric {name!r} is not declared in tracking.METRICS", stacklevel=3)
        odd = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
        return line | ({"nonfinite": odd} if odd else {})

    def truncate_after(self, step: int) -> None:
        """Drop lines after `step`: a run resumed from there will write them again."""
        self._file.close()
        self._open([line for line in _read_lines(self.path) if line["step"] <= step])

    def _open(self, kept: list[dict[str, Any]]) -> None:
        """Write the kept lines anew and append from there (a torn last line is gone after it)."""
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._before_s = float(kept[-1]["wall_s"]) if kept else 0.0
        self._file = self.path.open("a", buffering=1, encoding="utf-8")

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._trackers is not None:
            self._trackers.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, one a step; a last line torn by `kill -9` is passed over.

    Raises: ValueError on any other line that is not JSON.
    """
    out: list[dict[str, Any]] = []
    for line in _read_lines(path):
        if out and out[-1]["step"] == line["step"]:  # logged in two parts
            out[-1] |= line
        else:
            out.append(line)
    return out


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    out = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines):
        try:
            out.append(json.loads(line))
        except ValueError as error:
            if number != len(lines) - 1:
                raise ValueError(f"{path}, line {number + 1}: not JSON ({error})") from None
    return out
