"""The run directory: the only place a run writes to. Layout: docs/run-directory.md.

Files appear by rename, so a reader (or a rerun after `kill -9`) never sees half of one.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.errors import UserError

Status = Literal["running", "done", "failed"]


@dataclass
class Manifest:
    """What a stage was made from and what it made (runs/RUN/STAGE/manifest.json)."""

    stage: str
    kind: str
    status: Status
    inputs: dict[str, str]
    """Stage needed -> the completion id of the result that was read."""
    config_digest: str
    code_digest: str
    seed: int
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


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(half, path)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises: UserError where it is not JSON (cut short or edited by hand)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it or rerun --fresh") from None


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

    def stage(self, name: str) -> Path:
        """The folder of a stage (may not exist yet)."""
        return self.root / name

    def manifest(self, stage: str) -> Manifest | None:
        """The stage's manifest, or None where it never started."""
        path = self.stage(stage) / "manifest.json"
        if not path.is_file():
            return None
        try:
            return Manifest(**read_json(path))
        except TypeError:
            raise UserError(f"{path} is not a manifest of this version; rerun --fresh") from None

    def write_manifest(self, manifest: Manifest) -> None:
        """Write (replace) a stage's manifest."""
        write_json(self.stage(manifest.stage) / "manifest.json", asdict(manifest))

    def set_aside(self, stage: str) -> None:
        """Move a stage's old result out of the way; the newest replaced one is kept.

        A recipe change must not delete days of training: `.replaced/STAGE` holds it.
        """
        folder = self.stage(stage)
        if not folder.exists():
            return
        kept = self.root / ".replaced" / stage
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, kept)

    @property
    def stop_file(self) -> Path:
        """Its presence asks every running stage to save and stop."""
        return self.root / ".stop"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it even after `kill -9`."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"run {self.root.name!r} is in use by another process; "
                    "wait for it or choose another name with --run"
                ) from None
            self.stop_file.unlink(missing_ok=True)
            yield

    def adopt(self, resolved: dict[str, Any]) -> None:
        """Write recipe.json. Raises: UserError where the folder holds a run of another recipe."""
        path = self.root / "recipe.json"
        if path.is_file():
            owner = read_json(path).get("name")
            if owner != resolved["name"]:
                raise UserError(
                    f"run directory {self.root} belongs to recipe {owner!r}, not "
                    f"{resolved['name']!r}; choose another name with --run"
                )
        write_json(path, resolved)


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
