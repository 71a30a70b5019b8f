"""A disk whose size tests set while it is used. tmpfs takes no memory for what is not written."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOMY_KB = 1 << 20


class SmallDisk:
    """A file system mounted at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def leave(self, room_kb: int) -> None:
        """So much is free from here on, whatever is written already."""
        stat = os.statvfs(self.place)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize // 1024
        self._mount(f"remount,size={used + room_kb}k")

    def grow(self) -> None:
        """There is room again."""
        self._mount(f"remount,size={ROOMY_KB}k")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.place)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(place: Path) -> Iterator[SmallDisk]:
    """A disk of a gigabyte, gone at the end. Skips where root alone may mount."""
    place.mkdir()
    disk = SmallDisk(place)
    try:
        disk._mount(f"size={ROOMY_KB}k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
