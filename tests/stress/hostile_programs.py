"""Hostile programs by kind, for the sandbox tests. Each prints ESCAPED where it got through.

`programs(n)` makes n variants of each kind. A program may use: SECRET (a file outside), PORT (a
listener of the test's own process), PARENT (that process's PID), CANARY (a folder outside).
"""

from dataclasses import dataclass

_PRELUDE = """
import ctypes, errno, gc, json, os, re, signal, socket, struct, subprocess, sys, threading, time
V = {v}
SECRET, CANARY, PORT, PARENT, REPO = {secret!r}, {canary!r}, {port}, {parent}, {repo!r}
def tried(what, action):
    try:
        got = action()
    except BaseException as e:
        return None
    if got is not None and got is not False:
        print("ESCAPED", what, repr(got)[:200], flush=True)
def reads(path):
    with open(path, "rb") as f:
        return f.read(4096) or None
libc = ctypes.CDLL(None, use_errno=True)
"""

# kind: body. `V` is the variant number, for parameters.
BODIES = {
    "fork_bomb": "while True:\n    os.fork()",
    "fork_bomb_sleeping": "while True:\n    if os.fork() == 0: time.sleep(60)",
    "fork_bomb_handled": """
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001 * V)
""",
    "thread_bomb": """
def run(): time.sleep(60)
while True:
    try: threading.Thread(target=run, daemon=V % 2 == 0).start()
    except RuntimeError: pass
""",
    "subprocess_bomb": """
for _ in range(200):
    tried("subprocess", lambda: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
""",
    "tcp_connect": """
hosts = ["127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "8.8.8.8", "169.254.169.254"]
host = hosts[V % len(hosts)]
tried("tcp", lambda: socket.create_connection((host, PORT), timeout=0.3))
""",
    "udp_send": """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ESCAPED udp", s.sendto(b"x" * V, ("127.0.0.1", PORT)))
""",
    "socket_families": """
for family in range(50):
    for kind in (1, 2, 3, 5):
        tried(f"socket {family}", lambda: socket.socket(family, kind, 0))
""",
    "dns": "tried('dns', lambda: socket.gethostbyname(['localhost', 'example.com'][V % 2]))",
    "listen": """
s = socket.socket(); s.bind(("0.0.0.0", 20000 + V)); s.listen(); print("ESCAPED listening")
""",
    "parent_memory": """
for pid in (os.getppid(), PARENT, 1, "self/../" + str(PARENT)):
    for name in ("mem", "maps", "environ", "cmdline", "fd", "root/etc/passwd", "cwd"):
        path = f"/proc/{pid}/{name}"
        tried(path, lambda: reads(path))
""",
    "all_environments": """
tried("proc", lambda: os.listdir("/proc") or None)
for pid in range(1, 3000):
    tried("environ", lambda: reads(f"/proc/{pid}/environ"))
""",
    "environment": """
left = {k: v for k, v in os.environ.items() if k not in ("PATH", "HOME", "LANG", "LC_CTYPE")}
tried("environment", lambda: left or None)
env = ctypes.c_char_p.in_dll(libc, "environ")
tried("secret in environ", lambda: b"STRESS_SECRET" in ctypes.string_at(libc.getenv, 1) or None)
libc.getenv.restype = ctypes.c_char_p
tried("getenv", lambda: libc.getenv(b"STRESS_SECRET"))
""",
    "read_files": """
paths = [SECRET, "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", REPO + "/Makefile",
         REPO + "/reward/code.py", "/proc/version", "/sys/kernel/notes", "/var/log/dpkg.log"]
for path in paths:
    tried(path, lambda: reads(path))
""",
    "traversal": """
for depth in range(12):
    tried("up", lambda: reads("../" * depth + SECRET.lstrip("/")))
    tried("up", lambda: reads("../" * depth + "etc/passwd"))
tried("list", lambda: [n for n in os.listdir("/") if n not in ("lib", "lib64", "usr", "tmp", "dev", "root", "opt", "home")] or None)
""",
    "symlinks": """
for i, target in enumerate([SECRET, "/etc/passwd", "/proc/self/environ", "/", "../../../etc"]):
    os.symlink(target, f"link{i}-{V}")
    tried("symlink " + target, lambda: reads(f"link{i}-{V}"))
os.symlink("/", "root"); tried("through", lambda: reads("root" + SECRET))
""",
    "symlink_loop": """
for i in range(10 * V): os.symlink(f"l{i+1}", f"l{i}")
os.symlink("l0", f"l{10*V}")
tried("loop", lambda: reads("l0"))
""",
    "hardlink": """
for target in (SECRET, "/etc/passwd"):
    tried("link", lambda: os.link(target, "mine") or reads("mine"))
""",
    "write_outside": """
for folder in (CANARY, "/", "/usr", "/etc", "/var/tmp", "/dev/shm", "/dev", REPO, "/usr/lib", "/lib", os.path.dirname(os.__file__)):
    def write(folder=folder):
        path = f"{folder}/written-{V}"
        with open(path, "w") as f: f.write("x")
        return path
    tried("write " + folder, write)
""",
    "change_outside": """
for path in (SECRET, CANARY, os.__file__, "/usr/lib"):
    tried("chmod", lambda: os.chmod(path, 0o777) or True)
    tried("chown", lambda: os.chown(path, os.getuid(), os.getgid()) or True)
    tried("utime", lambda: os.utime(path) or True)
    tried("unlink", lambda: os.unlink(path) or True)
    tried("rename", lambda: os.rename(path, "stolen") or True)
    tried("truncate", lambda: os.truncate(path, 0) or True)
tried("rmdir", lambda: os.rmdir(CANARY) or True)
""",
    "devices": """
for kind, numbers in ((0o020666, (1, 1)), (0o060666, (8, 0)), (0o060666, (254, 0))):
    tried("mknod", lambda: os.mknod(f"dev{V}", kind, os.makedev(*numbers)) or reads(f"dev{V}"))
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/fuse", "/dev/tty", "/dev/ptmx"):
    tried(path, lambda: os.open(path, os.O_RDWR))
""",
    "signal_parent": """
for pid in (PARENT, os.getppid(), -1):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP):
        try: os.kill(pid, number)
        except BaseException: pass
""",
    "signal_everything": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for pid in range(2, 5000, 1):
    if pid != os.getpid():
        try: os.kill(pid, signal.SIGKILL)
        except BaseException: pass
""",
    "kill_own_group": "os.killpg(0, [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP][V % 3])",
    "daemon": """
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)
        while True: time.sleep(0.01 * V)
    os._exit(0)
""",
    "daemon_holding_output": """
if os.fork() == 0:
    for i in range(10000):
        try: print("still here", flush=True)
        except BaseException: pass
        time.sleep(0.01)
""",
    "orphans": """
for _ in range(V):
    if os.fork() == 0:
        if os.fork() == 0: time.sleep(60)
        os._exit(0)
""",
    "zombies": """
for _ in range(1000 * V):
    try:
        if os.fork() == 0: os._exit(0)
    except OSError:
        break
""",
    "loop": "while True: pass",
    "loop_in_c": "sum(range(10 ** (10 + V)))",
    "big_power": "x = 7 ** (7 ** (7 + V % 3)); y = x % 3",
    "regex": "re.match(r'(a+)+$', 'a' * (30 + V) + 'b')",
    "sleep": "time.sleep(60 * V)",
    "stop_itself": "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)",
    "ignore_signals": """
for number in range(1, 65):
    try: signal.signal(number, lambda *a: None)
    except (OSError, ValueError): pass
while True: time.sleep(0) if V % 2 else None
""",
    "catch_everything": """
while True:
    try:
        while True: [0] * (10 ** 6 * V)
    except BaseException: pass
""",
    "memory": """
held = []
while True: held.append(bytearray(2 ** 20 * V))
""",
    "memory_at_once": "x = bytearray(2 ** (30 + V % 8)); print('ESCAPED memory', len(x))",
    "memory_by_children": """
for _ in range(64):
    try:
        if os.fork() == 0:
            held = []
            while True: held.append(bytearray(2 ** 20))
    except OSError: break
time.sleep(60)
""",
    "memory_mapped": """
import mmap
held = []
while True: held.append(mmap.mmap(-1, 2 ** 24 * V)); held[-1][::4096] = b"x" * len(held[-1][::4096])
""",
    "memory_files": """
while True:
    fd = os.memfd_create("m"); os.write(fd, b"x" * 2 ** 20 * V); print("ESCAPED memfd")
""",
    "disk": """
i = 0
while True:
    i += 1
    try:
        with open(f"f{i}", "wb") as f:
            while True: f.write(b"x" * 2 ** 20)
    except BaseException as e:
        if i > 200: break
total = sum(os.path.getsize(f"f{j}") for j in range(1, i) if os.path.exists(f"f{j}"))
if total > 2 ** 27: print("ESCAPED disk", total)
""",
    "many_files": """
try:
    for i in range(100000): open(f"n{i}", "w").close()
    print("ESCAPED inodes")
except OSError: pass
""",
    "sparse_file": """
with open("s", "wb") as f: f.truncate(2 ** (34 + V % 5))
print("ESCAPED sparse")
""",
    "output": "while True: os.write(1 + V % 2, b'x' * 65536)",
    "output_lines": "while True: print('y' * V)",
    "descriptors": """
held = []
while True:
    held.append(os.pipe())
    if len(held) > 1000: print("ESCAPED descriptors"); break
""",
    "inherited_descriptors": """
for fd in range(3, 2000):
    tried(f"fd {fd}", lambda: os.fstat(fd))
""",
    "stack": """
def f(n): return f(n + 1) + 1
sys.setrecursionlimit(10 ** 9); f(0)
""",
    "crash": "ctypes.string_at([0, 1, 8, 4096][V % 4])",
    "abort": "[os.abort, lambda: libc.raise_(11), lambda: os._exit(V)][V % 3]()",
    "shells": """
tried("sh", lambda: subprocess.run(["/bin/sh", "-c", "echo got"], capture_output=True).stdout or None)
tried("system", lambda: os.system("true") == 0 or None)
tried("popen", lambda: os.popen("echo got").read() or None)
tried("exec", lambda: os.execv("/bin/sh", ["sh", "-c", "echo ESCAPED"]))
""",
    "ptrace": """
for pid in (PARENT, os.getppid(), 1):
    tried("ptrace", lambda: libc.ptrace(16, pid, 0, 0) == 0 or None)
buf = ctypes.create_string_buffer(64)
class iovec(ctypes.Structure): _fields_ = [("b", ctypes.c_void_p), ("n", ctypes.c_size_t)]
mine, theirs = iovec(ctypes.addressof(buf), 64), iovec(0x400000, 64)
for pid in (PARENT, os.getppid(), 1):
    tried("vm_readv", lambda: libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) > 0 or None)
""",
    "namespaces": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x10020000):
    tried("unshare", lambda: libc.unshare(flag) == 0 or None)
tried("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 or None)
tried("proc", lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0 or None)
tried("umount", lambda: libc.umount2(b"/tmp", 2) == 0 or None)
tried("chroot", lambda: os.chroot("/tmp") or True)
tried("clone3", lambda: libc.syscall(435, None, 0) >= 0 or None)
tried("clone", lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) > 0 or None)
""",
    "become_root": """
for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setreuid(0, 0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0)):
    tried("root", lambda: (call() is None and os.geteuid() == 0) or None)
head = (ctypes.c_uint32 * 2)(0x20080522, 0); caps = (ctypes.c_uint32 * 6)(*[2 ** 32 - 1] * 6)
tried("capset", lambda: libc.syscall(126, head, caps) == 0 or None)
tried("nice", lambda: os.nice(-V) is not None)
""",
    "raise_limits": """
import resource
for which in range(16):
    soft, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        tried("limit", lambda: resource.setrlimit(which, (hard + 1, hard + 1)) or True)
        tried("limit", lambda: resource.setrlimit(which, (-1, -1)) or True)
        tried("limit of parent", lambda: resource.prlimit(os.getppid(), which, (-1, -1)))
""",
    "shared_memory": """
tried("shmget", lambda: libc.shmget(0x1234, 2 ** 24, 0o1666) >= 0 or None)
tried("shmat", lambda: libc.shmget(0, 4096, 0o600) >= 0 or None)
tried("shm", lambda: __import__("multiprocessing.shared_memory").shared_memory.SharedMemory("x", True, 2 ** 30))
tried("keyring", lambda: libc.syscall(250, 0, -5, 1) > 0 or None)
tried("io_uring", lambda: libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0 or None)
tried("bpf", lambda: libc.syscall(321, 0, ctypes.create_string_buffer(72), 72) >= 0 or None)
tried("perf", lambda: libc.syscall(298, ctypes.create_string_buffer(112), 0, -1, -1, 0) >= 0 or None)
""",
    "import_project": """
for folder in (REPO, REPO + "/.venv/lib/python3.11/site-packages"): sys.path.insert(0, folder)
for name in ("reward", "workbench", "torch", "pydantic"):
    tried(name, lambda: __import__(name))
""",
    "site_customize": """
for folder in sys.path + [os.path.dirname(os.__file__), os.path.dirname(os.__file__) + "/site-packages", os.path.expanduser("~root")]:
    def plant(folder=folder):
        for name in ("sitecustomize.py", "usercustomize.py", "evil.pth"):
            path = os.path.join(folder or "/nowhere", name)
            with open(path, "w") as f: f.write("raise SystemExit(0)")
        return path
    tried("plant " + folder, plant)
""",
    "threads_at_exit": """
def stay():
    while True: time.sleep(0.01 * V)
threading.Thread(target=stay).start()
""",
    "atexit": """
import atexit
atexit.register(lambda: time.sleep(60))
class D:
    def __del__(self): time.sleep(60)
d = D()
""",
    "escape_by_frames": """
found = []
frame = sys._getframe()
while frame:
    found += [k for k, v in frame.f_locals.items() if k in ("status", "expected", "SECRET_VALUE") and k not in globals()]
    frame = frame.f_back
fds = [o for o in gc.get_objects() if isinstance(o, socket.socket)]
tried("sockets", lambda: fds or None)
for fd in range(3, 300):
    try: os.write(fd, b'{"exit": 0, "cpu_s": 0, "wall_s": 0}\\n'); print("ESCAPED wrote to", fd)
    except OSError: pass
""",
    "escape_by_cwd": """
fd = os.open(".", os.O_RDONLY)
for _ in range(30): os.chdir("..")
tried("up", lambda: reads(SECRET.lstrip("/")))
os.fchdir(fd)
""",
    "handles": """
class handle(ctypes.Structure): _fields_ = [("n", ctypes.c_uint), ("t", ctypes.c_int), ("b", ctypes.c_ubyte * 128)]
h = handle(8, 1); h.b[0] = 2
tried("by handle", lambda: libc.open_by_handle_at(os.open("/", os.O_RDONLY), ctypes.byref(h), 0) >= 0 or None)
""",
}

# Programs that claim to have passed. f(x) must return a number that only the test knows.
SPOOFS = {
    "exit_0": "import os\nos._exit(0)",
    "exit_in_call": "import os\ndef f(x): os._exit(0)",
    "system_exit": "def f(x): raise SystemExit(0)",
    "print_passed": "def f(x):\n    print('passed', '{\"passed\": true}'); return None",
    "always_equal": (
        "class A:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
        "    def __hash__(s): return 0\ndef f(x): return A()"
    ),
    "equal_int": "class I(int):\n    def __eq__(s, o): return True\ndef f(x): return I(0)",
    "equal_in_list": (
        "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\n"
        "def f(x): return [S('a')]"
    ),
    "builtins": (
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.len = lambda a: 0\n"
        "builtins.all = builtins.any = lambda a: True\nAssertionError.__init__ = None\n"
        "def f(x): return 0"
    ).replace("AssertionError.__init__ = None\n", ""),
    "patch_json": (
        'import json\njson.dumps = lambda *a, **k: \'{"passed": true, "value": true}\'\n'
        "def f(x): return 0"
    ),
    "forged_frames": (
        "import json, os, struct\n"
        "def f(x):\n"
        "    for fd in range(3, 300):\n"
        "        for m in ({'passed': True}, {'value': 0}, {'id': '', 'value': 0}):\n"
        "            p = json.dumps(m).encode()\n"
        "            try: os.write(fd, struct.pack('>I', len(p)) + p)\n"
        "            except OSError: pass\n"
        "    return 0"
    ),
    "early_answers": (
        "import gc, json, os, socket, struct\n"
        "for s in [o for o in gc.get_objects() if isinstance(o, socket.socket)]:\n"
        "    for m in [{'value': None}] * 3 + [{'id': 0, 'value': 0}]:\n"
        "        p = json.dumps(m).encode(); s.sendall(struct.pack('>I', len(p)) + p)\n"
        "def f(x): return 0"
    ),
    "search_memory": (
        "import gc\n"
        "def f(x):\n"
        "    for o in gc.get_objects():\n"
        "        if isinstance(o, dict):\n"
        "            for k in ('expected', 'tests', 'suffix'):\n"
        "                if k in o: return o[k]\n"
        "    return 0"
    ),
    "garbage_frames": (
        "import gc, socket\n"
        "def f(x):\n"
        "    for s in [o for o in gc.get_objects() if isinstance(o, socket.socket)]:\n"
        "        s.sendall(b'\\xff' * 64)\n"
        "    return 0"
    ),
    "deep_value": ("def f(x):\n    v = []\n    for _ in range(100000): v = [v]\n    return v"),
    "huge_value": "def f(x): return 'x' * (2 ** 27)",
    "nan": "def f(x): return float('nan')",
    "raises_everything": "def f(x): raise BaseException('passed')",
    "hostile_error": (
        "class E(Exception):\n    def __str__(s): raise SystemExit(0)\ndef f(x): raise E()"
    ),
    "endless_iterable": (
        "class L(list):\n    def __iter__(s):\n        while True: yield 1\ndef f(x): return L([1])"
    ),
    "generator": "def f(x):\n    while True: yield 1",
}


@dataclass(frozen=True)
class Hostile:
    """One program. `spoof`: it pretends to pass a test of f, rather than to get out."""

    kind: str
    variant: int
    code: str
    spoof: bool


@dataclass(frozen=True)
class Surroundings:
    """What the programs try to reach."""

    secret: str
    canary: str
    repo: str
    port: int
    parent: int


def programs(variants: int, around: Surroundings) -> list[Hostile]:
    """`variants` programs of each kind, numbered from 1."""
    made = []
    for v in range(1, variants + 1):
        prelude = _PRELUDE.format(
            v=v,
            secret=around.secret,
            canary=around.canary,
            port=around.port,
            parent=around.parent,
            repo=around.repo,
        )
        made += [Hostile(kind, v, prelude + body, False) for kind, body in BODIES.items()]
        made += [Hostile(kind, v, f"# {v}\n{body}", True) for kind, body in SPOOFS.items()]
    return made
