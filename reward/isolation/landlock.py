"""Landlock: the process gives up files, TCP and signals to others. Needs no privilege."""

import ctypes
import os
from collections.abc import Sequence

from . import kernel

_FS_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_EXECUTE, _READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE, _IOCTL = (
    1,
    1 << 2,
    1 << 3,
    1 << 1,
    1 << 14,
    1 << 15,
)
_READ_ONLY = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL
_TCP = 0b11  # bind, connect (version 4)
_SCOPES = 0b11  # abstract unix sockets, signals to processes outside (version 6)
_PATH_BENEATH = 1


class _Ruleset(ctypes.Structure):
    _fields_ = [
        ("fs", ctypes.c_uint64),
        ("net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def restrict(
    read_only: Sequence[str], writable: Sequence[str], listable: Sequence[str] = ()
) -> None:
    """Allow reading below `read_only`, everything below `writable`, names of what lies below
    `listable`, and nothing else.

    no_new_privs must be set. A path that does not exist is left out.
    """
    abi = version()
    rights = (1 << _FS_RIGHTS_BY_VERSION.get(min(abi, 5), 0)) - 1
    ruleset = _Ruleset(rights, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    fd = kernel.syscall("landlock_create_ruleset", ctypes.byref(ruleset), size, 0)
    try:
        for paths, allowed in (
            (read_only, _READ_ONLY),
            (writable, rights),
            (listable, _READ_DIR),
        ):
            for path in paths:
                _allow(fd, path, allowed & rights)
        kernel.syscall("landlock_restrict_self", fd, 0)
    finally:
        os.close(fd)


def _allow(ruleset_fd: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _FILE_RIGHTS
        rule = _PathBeneath(allowed, fd)
        kernel.syscall("landlock_add_rule", ruleset_fd, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)
