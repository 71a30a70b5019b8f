"""A seccomp filter: system calls that no answer to a coding task needs fail with EPERM."""

import ctypes
import struct

from . import kernel

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "process_madvise": (440, 440),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "fanotify_init": (300, 262),
}
# Without namespaces: the process group is how the parent kills everything, other processes can be
# seen, and Landlock leaves the owner's files open to changes of mode, owner, times, attributes.
_WITHOUT_NAMESPACES: dict[str, tuple[int | None, int | None]] = {
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "kill": (62, 129),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_PRLIMIT = (302, 261)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020000 | 0x80
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_X32_BIT = 0x40000000


def supported() -> bool:
    """True where the filter is known for this architecture."""
    return kernel.MACHINE in _ARCHITECTURES


def install(*, namespaces: bool) -> None:
    """Install the filter for this process and its children. no_new_privs must be set."""
    code = _program(namespaces)
    buffer = ctypes.create_string_buffer(code, len(code))

    class _Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    mode_filter = 2
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.byref(program)
    if libc.prctl(kernel.PR_SET_SECCOMP, ctypes.c_ulong(mode_filter), pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the seccomp filter was refused")


def _program(namespaces: bool) -> bytes:
    """Classic BPF over struct seccomp_data {nr, arch, ip, args[6]}."""
    index, audit_arch = _ARCHITECTURES[kernel.MACHINE]
    denied = {**_DENIED, **(_WITHOUT_NAMESPACES if not namespaces else {})}
    out = [_op(_LOAD, 0, 0, 4), _op(_EQUAL, 1, 0, audit_arch), _op(_RETURN, 0, 0, _KILL_PROCESS)]
    out.append(_op(_LOAD, 0, 0, 0))
    # x86's x32 calls would slip past the numbers below.
    out += [_op(_AT_LEAST, 0, 1, _X32_BIT), _op(_RETURN, 0, 0, _KILL_PROCESS)]
    for numbers in denied.values():
        number = numbers[index]
        if number is not None:
            out += [_op(_EQUAL, 0, 1, number), _op(_RETURN, 0, 0, _ERRNO | _EPERM)]
    # prlimit64 on another process; 0 means oneself.
    out += [_op(_EQUAL, 0, 4, _PRLIMIT[index]), _op(_LOAD, 0, 0, 16), _op(_EQUAL, 0, 1, 0)]
    out += [_op(_RETURN, 0, 0, _ALLOW), _op(_RETURN, 0, 0, _ERRNO | _EPERM)]
    # glibc falls back from clone3, whose flags a filter cannot read, to clone.
    out += [_op(_EQUAL, 0, 1, _CLONE3[index]), _op(_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    out += [_op(_EQUAL, 0, 3, _CLONE[index]), _op(_LOAD, 0, 0, 16)]
    out += [_op(_ANY_BIT, 0, 1, _NEW_NAMESPACES), _op(_RETURN, 0, 0, _ERRNO | _EPERM)]
    out.append(_op(_RETURN, 0, 0, _ALLOW))
    return b"".join(out)


def _op(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)
