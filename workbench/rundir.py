"""The run directory: the only place a run writes to. Layout: docs/runs.md.

Files appear by rename, so a reader (or a rerun after `kill -9`) never sees half of one.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Self

from workbench.content import Contents
from workbench.errors import UserError, name_problem
from workbench.files import write_whole

Status = Literal["running", "done", "failed"]

UNFINISHED = ".unfinished"
"""Folder in `.replaced` of attempts that were set aside where a better one is kept."""
TAKEN = ".taken"
"""Folder of replies of other runs' evaluations, for those of this one: TAKEN/NUMBER/MODEL/JOB."""
EVALS = "evals"
"""Folder of all results of evaluations, whichever stage or sweep made them. A stage of that name has its own
records (`_RECORDS`) beside them."""
_RECORDS = (
    "manifest.json", "log.txt", "metrics.jsonl", "progress.json", "tensorboard", "stacks", "wandb",
)  # fmt: skip
_RAY_COPIES = "working_dir_files"  # the folder in which Ray unpacks what a job was submitted with
_JOB_RUNS = "anneal"
_LEFTOVER_GRACE_S = 10.0


@dataclass
class Manifest:
    """What a stage was made from and what it made (runs/RUN/STAGE/manifest.json)."""

    stage: str
    kind: str
    status: Status
    inputs: dict[str, str]
    """Stage needed -> the completion id of the result that was read."""
    config_digest: str
    seed: int
    declared: dict[str, int] = field(default_factory=dict)
    """Kind, and checkers that it runs -> the version that the result was made at."""
    data: dict[str, str] = field(default_factory=dict)
    """What it read from outside the run -> digest of its content."""
    revisions: dict[str, str] = field(default_factory=dict)
    """Name on the hub that the recipe gives no revision -> the commit that was read."""
    git: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    started_at: str = ""
    wall_s: float = 0.0
    """Seconds over all attempts."""
    attempts: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)
    completion: str | None = None
    """Id of this result, new each time the stage completes; null until then."""
    error: str | None = None


_KINDS: dict[str, Any] = {
    "kind": str, "status": str, "config_digest": str, "seed": int, "wall_s": int | float,
    "attempts": int, "inputs": dict, "git": dict, "versions": dict, "hardware": dict, "outputs": dict,
    "data": dict, "declared": dict, "revisions": dict, "completion": str | None, "started_at": str,
}  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json_text(value, indent=1) + "\n")


def json_text(value: Any, **layout: Any) -> str:
    """JSON of a value; what is not a finite number is null, for JSON knows neither NaN nor infinity."""
    layout = {"ensure_ascii": False, **layout}
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        whole = json.dumps(value, default=layout.get("default"))
        known = json.loads(whole, parse_constant=lambda _: None)
        return json.dumps(known, **layout)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises: UserError where it is not JSON (cut short or edited by hand)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it to start anew") from None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, none where there is no file.

    A line that was being written when its process died is passed over.
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears, whole, at `path` when the block ends without an error.

    An older folder at `path` is replaced. Nothing appears if the block raises.
    """
    half = path.with_name(f".{path.name}.half-{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        yield half
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.exists():
        os.rename(path, old)
    os.rename(half, path)
    shutil.rmtree(old, ignore_errors=True)


class RunDir:
    """One run's folder. `root` is absolute: Ray workers have other working directories."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.contents = Contents(self.root)

    @classmethod
    def of(cls, runs_dir: str, name: str) -> tuple[Self, str | None]:
        """The run `name` under a recipe's `runs_dir`, and a line to show where it lies elsewhere.

        `ray job submit --working-dir` runs a copy of the folder that Ray deletes later, so a
        relative `runs_dir` there means the home folder of the head node instead.
        """
        if problem := name_problem(name):
            raise UserError(
                f"run name {name!r:.250} {problem}; a run is one folder under runs_dir: give a plain "
                "name with --run, and another place with --set runs_dir=FOLDER"
            )
        if not runs_dir.isprintable() or not runs_dir:
            raise UserError(f"runs_dir {runs_dir!r} is not the name of a folder")
        folder, here = Path(runs_dir).expanduser(), Path.cwd()
        if folder.is_absolute() or _RAY_COPIES not in here.parts:
            return cls(folder / name), None
        run = cls(Path.home() / _JOB_RUNS / folder / name)
        line = f"this is a copy of the working directory, so the run is kept in {run.root}"
        return run, f"{line} (choose another place with --set runs_dir=/shared/folder)"

    def unseen(self) -> str | None:
        """What to say where this machine does not see the run, which another one made; None where it does."""
        if (self.root / "recipe.json").is_file():
            return None
        return (
            f"run directory {self.root} is not to be seen on node {socket.gethostname()}; set "
            "runs_dir to storage that all nodes of the cluster share"
        )

    def stage(self, name: str) -> Path:
        """The folder of a stage (may not exist yet)."""
        return self.root / name

    def manifest(self, stage: str) -> Manifest | None:
        """The stage's manifest, or None where it never started."""
        path = self.stage(stage) / "manifest.json"
        if not path.is_file():
            return None
        found = read_json(path)
        if isinstance(found, dict):
            found.pop("code_digest", None)  # of runs before versions were declared: they run again
        try:
            manifest = Manifest(**found)
            # Its name says where it is written: it must not lead to another folder.
            sound = manifest.stage == stage and all(
                isinstance(getattr(manifest, key), kind) for key, kind in _KINDS.items()
            )
        except TypeError:
            sound = False
        if not sound:
            raise UserError(f"{path} is not a manifest of this version; delete it to start anew")
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write (replace) a stage's manifest."""
        write_json(self.stage(manifest.stage) / "manifest.json", asdict(manifest))

    def set_aside(self, stage: str) -> None:
        """Move a stage's old result out of the way.

        A change must not delete days of training: `.replaced/STAGE` holds the newest of the best that
        there was (done, else with state to continue from, else begun). A lesser attempt, such as one
        that failed on a typo, goes to `.replaced/.unfinished/STAGE` by the same rule, or nowhere. Results of
        evaluations stay where they are: of a stage `evals` its records alone move.
        """
        folder = self.stage(stage)
        own = _own_parts(stage, folder)
        if not own:
            return
        aside = self.root / ".replaced"
        for kept in (aside / stage, aside / UNFINISHED / stage):
            if _worth(folder) >= _worth(kept):
                for part in _own_parts(stage, kept):
                    _remove(part)
                for part in own:
                    target = kept / part.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(part, target)
                return
        for part in own:
            _remove(part)

    @property
    def stop_file(self) -> Path:
        """Its presence asks every running stage to save and stop."""
        return self.root / ".stop"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it even after `kill -9`."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock_file = (self.root / ".lock").open("a+")
        except OSError as error:
            raise UserError(
                f"run directory {self.root} cannot be written ({error.strerror}); "
                "set runs_dir to a folder that can"
            ) from None
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"run {self.root.name!r} is in use by another process; "
                    "wait for it or choose another name with --run"
                ) from None
            self.stop_file.unlink(missing_ok=True)
            yield

    @contextmanager
    def stage_claimed(self, stage: str, *, wait_s: float = 60.0) -> Iterator[None]:
        """Hold a stage for this process, which outlives the driver where that one was killed.

        Whoever else holds it is left over from such a driver (the run itself is claimed): it gets
        a few seconds to notice, then it is killed. Raises: UserError where it is out of reach.
        """
        path = self.root / ".locks" / stage
        path.parent.mkdir(parents=True, exist_ok=True)
        # A record lock: unlike flock's it is not shared with forked children.
        with path.open("a+") as file:
            deadline = time.monotonic() + wait_s
            while not _try_lock(file):
                if time.monotonic() > deadline - wait_s + _LEFTOVER_GRACE_S:
                    _kill_leftover(path)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"stage {stage!r} is still running as {path.read_text().strip()}, left over "
                        "from an earlier command; end it there and run this command again"
                    )
                time.sleep(0.2)
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def tidy(self, stage: str, *, keep_states: bool = False) -> None:
        """Delete what a finished stage does not need: resumable state, halves left by a kill.

        keep_states: others are going to begin at its checkpoints.
        """
        folder = self.stage(stage)
        if not keep_states:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for half in folder.glob(".*"):
            _remove(half)

    def adopt(self, resolved: dict[str, Any]) -> None:
        """Write recipe.json. Raises: UserError where the folder holds a run of another recipe."""
        self.check_owner(resolved)
        write_json(self.root / "recipe.json", resolved)

    def check_owner(self, resolved: dict[str, Any]) -> None:
        """Raises: UserError where the folder holds a run of another recipe. Writes nothing."""
        path = self.root / "recipe.json"
        if path.is_file():
            found = read_json(path)
            owner = found.get("name") if isinstance(found, dict) else None
            if owner != resolved["name"]:
                raise UserError(
                    f"run directory {self.root} belongs to recipe {owner!r}, not "
                    f"{resolved['name']!r}; choose another name with --run"
                )


def find_run(name: str, runs: Path) -> Path | None:
    """The run that is the folder `name`, or has that name in `runs`."""
    places = (Path(name).expanduser(), runs / name)
    return next((p for p in places if (p / "recipe.json").is_file()), None)


def _own_parts(stage: str, folder: Path) -> list[Path]:
    """What of a stage's folder is the stage's own: the folder, or its records where others have theirs in it."""
    parts = [folder / name for name in _RECORDS] if stage == EVALS else [folder]
    return [part for part in parts if part.exists()]


def _remove(path: Path) -> None:
    """Delete a file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _worth(folder: Path) -> int:
    """What would be lost with a stage's folder: 2 a result, 1 state to continue from, 0 neither."""
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, UserError):
        return int((folder / "model").is_dir())  # cut short: what is beside it may be whole
    if isinstance(manifest, dict) and manifest.get("status") == "done":
        return 2
    begun = isinstance(manifest, dict) and bool(manifest.get("outputs"))
    return int(begun or any((folder / "checkpoints").glob("*")))


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _kill_leftover(path: Path) -> None:
    pid, _, host = path.read_text().strip().partition(" on ")
    if host == socket.gethostname() and pid.isdecimal() and int(pid) != os.getpid():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), signal.SIGKILL)


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
