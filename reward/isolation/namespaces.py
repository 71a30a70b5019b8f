"""A private view of the machine: own PIDs, network, mounts, IPC, and a root of almost nothing."""

import contextlib
import os
from collections.abc import Sequence

from . import kernel

_COMMON = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)
_DEVICES = ("null", "zero", "random", "urandom")
# Shared libraries of the interpreter's extension modules; bound read-only where they exist.
_LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


def enter() -> str | None:
    """Unshare; "root" (privileged), "user" (through a user namespace) or None (not permitted).

    The PID namespace holds for the next child, not for this process.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            kernel.unshare(_COMMON)
            return "root"
    uid, gid = os.geteuid(), os.getegid()
    try:
        kernel.unshare(_COMMON | kernel.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"1000 {uid} 1")
        _write("/proc/self/gid_map", f"1000 {gid} 1")
    except OSError:
        return None
    return "user"


def build_root(
    scratch: str, python_prefix: str, tmp_bytes: int, readable: Sequence[str] = ()
) -> None:
    """Make `scratch` a root that holds Python's library, what else is `readable`, /dev/null and an
    empty /tmp; go there.

    Everything is read-only but /tmp, which is memory of at most `tmp_bytes`.
    """
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", scratch, "tmpfs", flags, "size=1m,nr_inodes=1000,mode=755")
    # Where the interpreter's own library is a subfolder of these, the later bind covers it.
    libraries = [f"{python_prefix}/lib", f"{python_prefix}/lib64", *_LIBRARY_FOLDERS]
    late = [path for path in readable if path.startswith("/tmp/")]  # the new /tmp would cover them
    for folder in dict.fromkeys([*libraries, *readable]):
        if folder not in late:
            _expose(folder, scratch)
    for device in _DEVICES:
        _expose(f"/dev/{device}", scratch)
    os.makedirs(f"{scratch}/tmp")
    kernel.make_read_only(scratch)
    data = f"size={tmp_bytes},nr_inodes=4096,mode=1777"
    kernel.mount("none", f"{scratch}/tmp", "tmpfs", flags, data)
    for path in late:
        _expose(path, scratch)
        kernel.make_read_only(scratch + path)
    os.chdir(scratch)
    dot = kernel.ctypes.c_char_p(b".")
    kernel.syscall("pivot_root", dot, dot)
    kernel.detach(".")
    os.chdir("/tmp")


def _expose(path: str, root: str) -> None:
    """Bind `path` at the same place below `root`, or recreate the symlink it is."""
    target = root + path
    if not os.path.exists(path) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, target, "", kernel.MS_BIND | kernel.MS_REC)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
