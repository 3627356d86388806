"""Run model-written Python in a separate process, isolated as far as the system allows.

Both sides are in this file. `run` starts it as a program: a fresh interpreter that shares nothing with this process,
neither its threads nor its memory, files and environment. That supervisor sets up the isolation, forks the program,
collects its output, ends it in time and reports in one line of JSON.

    isolation  what the program cannot do                     provided on Linux by
    network    reach any address, this machine's included     a network namespace, or the system call filter
    processes  signal others, start further processes         a PID namespace, or the system call filter
    files      read anything but Python, write anything       a root of its own, or Landlock (5.13) with the filter or
               outside its folder                             as another user; with Landlock it cannot write at all
    memory     use more than `memory_mb`                      files, and the filter or a cgroup within namespaces

Namespaces are for root, and for everybody where the system is set so; containers often have none. The filter (seccomp)
knows x86_64 and aarch64. Wherever a cgroup can be made, the program runs in it, so that the kernel counts whatever the
filter and the address space limit might overlook. Time, output and the size of a file are limited everywhere, but
none of the four exists on macOS. `Result.isolation` tells which ones the program had, `missing` what this machine
lacks.
"""

import ast
import contextlib
import ctypes
import functools
import json
import linecache
import math
import os
import platform
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import types
from dataclasses import dataclass

MAX_CODE = 100_000  # characters
FILE_BYTES = 16 << 20  # per file; with its own root, for all files together
THREADS = 32  # at once, where they can be counted
STARTING = 60.0  # seconds that a busy machine may take to start the supervisor
CGROUPS, OWN_CGROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"

# What each kind of isolation needs; any of the alternatives will do.
NEEDS = {
    "network": "network namespaces, or seccomp on x86_64 or aarch64",
    "processes": "PID and mount namespaces, or seccomp on x86_64 or aarch64",
    "files": "mount namespaces on Linux 5.12 or later, or Landlock on Linux 5.13 or later with seccomp",
    "memory": "isolated files, and seccomp or a memory cgroup",
}

# From Linux's headers; Python has no names for them.
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID, MS_NODEV, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 2, 4, 4096, 8192, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 442, -100, 0x8000, 1, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 2, 38
CAPABILITY_VERSION, KEYCTL_JOIN_SESSION_KEYRING = 0x20080522, 1
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_WRITE_FILE, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 2, 4, 8
CLONE_THREAD, ENOSYS = 0x10000, 38

# Which machine: how the filter recognises its system calls, and the column of their numbers below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
NONE = 1 << 31  # a call that this machine does not have
# fmt: off
REFUSED = {
    # other programs and processes
    "fork": (57, NONE), "vfork": (58, NONE), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the network
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # memory that RLIMIT_AS does not count
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "memfd_create": (319, 279), "inotify_init": (253, NONE), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # the kernel's keyrings
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # what Landlock leaves to the owner of a file
    "chmod": (90, NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, NONE), "fchown": (93, 55),
    "lchown": (94, NONE), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "truncate": (76, 45),
    "utime": (132, NONE), "utimes": (235, NONE), "futimesat": (261, NONE), "utimensat": (280, 88),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "mknod": (133, NONE),
    "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "unshare": (272, 97),
    "setns": (308, 268), "quotactl": (179, 60), "swapon": (167, 224), "swapoff": (168, 225),
    # the kernel itself
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116), "personality": (135, 92), "vhangup": (153, 58),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, NONE), "ioperm": (173, NONE),
    "modify_ldt": (154, NONE),
}
# fmt: on
# Both machines number these alike, and their libraries know older kernels that lack them: io_uring, pidfd, the new
# mount calls, clone3 (whose flags a filter cannot read), Landlock, memfd_secret and all that is still to come.
FIRST_RECENT_CALL = 424
# Calls that depend on an argument: (its index, which bits of it, values); one of the values is `needed` or refused.
LIMITED = [
    ("clone", (56, 220), 0, CLONE_THREAD, [CLONE_THREAD], True),  # threads
    ("prlimit64", (302, 261), 0, 0xFFFFFFFF, [0], True),  # its own limits
    ("socketpair", (53, 199), 0, 0xFFFFFFFF, [1], True),  # AF_UNIX, which asyncio needs,
    ("socketpair", (53, 199), 1, 2, [2], False),  # and no SOCK_DGRAM or SOCK_RAW, which can send to any address
    ("fcntl", (72, 25), 1, 0xFFFFFFFF, [8, 10, 15, 1031], False),  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
    ("ioctl", (16, 29), 1, 0xFFFFFFFF, [0x8901, 0x8902], False),  # FIOSETOWN, SIOCSPGRP: who gets signals
]


@dataclass(frozen=True)
class Result:
    """What became of a program."""

    stdout: str = ""
    stderr: str = ""
    error: str = ""
    """why it did not reach its end, such as "ZeroDivisionError: division by zero"; empty if it did"""
    exit_code: int | None = None
    """-9 for one that signal 9 ended; None where it was not started or had to be stopped"""
    timed_out: bool = False
    isolation: frozenset[str] = frozenset()
    """which of "network", "processes", "files" and "memory" were isolated"""

    @property
    def ok(self) -> bool:
        """Whether it reached its end. One that leaves early, be it with exit code 0, has not passed the tests after."""
        return not self.error


def missing() -> list[str]:
    """What this machine lacks for complete isolation, each with what would provide it; empty if nothing is missing."""
    empty = _empty_run()
    if empty.error:
        return [empty.error]
    return [f"{kind} (needs {needs})" for kind, needs in NEEDS.items() if kind not in empty.isolation]


@functools.cache
def _empty_run() -> Result:
    return run("", seconds=STARTING)


def run(code: str, seconds: float = 5.0, memory_mb: int = 256, output_bytes: int = 1 << 16) -> Result:
    """Run a program and wait for it. Works in any thread and in many at once; failures are in the result.

    If the last statement is an expression, its value is printed as at Python's prompt. seconds: on the clock, from
    the program's first line. output_bytes: of stdout and of stderr each; a program that prints more is stopped.
    """
    if len(code) > MAX_CODE:
        return Result(error=f"the program has {len(code)} characters; at most {MAX_CODE} are run")
    memory, cgroups = memory_mb << 20, []
    task = {"code": code, "seconds": seconds, "memory": memory, "output": output_bytes, "server": os.getpid()}
    # -I -S: nothing from the environment, the user's folders or site-packages; -B: no __pycache__ left anywhere
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", __file__]
    pipe = subprocess.PIPE
    try:
        folder = tempfile.mkdtemp(prefix="nanochat-")
        try:
            task["cgroups"] = cgroups = _make_cgroups(os.path.basename(folder), memory)
            with subprocess.Popen(
                command, cwd=folder, env={}, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
            ) as supervisor:
                try:
                    said, complaint = supervisor.communicate(json.dumps(task).encode(), seconds + STARTING)
                except subprocess.TimeoutExpired as late:
                    said, complaint = late.output or b"", b"it gave no answer"
                    supervisor.kill()
            program, _, report = said.partition(b"\n")
            if not report:
                _kill_orphan(program)
        finally:
            _remove(folder, cgroups)
    except OSError as error:
        return Result(error=f"the sandbox cannot start: {error}")
    if not report:
        reason = _last_line(complaint.decode("utf-8", "replace")) or "it was killed"
        return Result(error=f"the sandbox failed: {reason}")
    result = json.loads(report)
    return Result(**{**result, "isolation": frozenset(result["isolation"])})


def _kill_orphan(program: bytes) -> None:
    """A program whose processes are not isolated can kill its supervisor; then it has to be killed from here."""
    with contextlib.suppress(ProcessLookupError, ValueError):
        pid = int(program)
        if os.getsid(pid) == pid:  # still the same: it leads its session, which it cannot leave
            os.kill(pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _make_cgroups(name: str, memory: int) -> list[str]:
    """New cgroups, as paths, that limit memory in bytes and the number of threads; none where they cannot be made.

    A cgroup is made inside the server's own. Version 2 has no limits to give to children of a cgroup with processes,
    so there it is made inside the nearest parent that has.
    """
    # by version 1's controller, "" for version 2: where it is mounted, and the limits, of which the first is required
    hierarchies = {
        "": (CGROUPS, {"memory.max": memory, "memory.swap.max": 0, "pids.max": THREADS}),
        "memory": (f"{CGROUPS}/memory", {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory}),
        "pids": (f"{CGROUPS}/pids", {"pids.max": THREADS}),
    }
    made = []
    try:
        with open(OWN_CGROUPS, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:  # macOS
        return []
    for line in lines:
        _, controller, place = line.split(":", 2)
        if controller in hierarchies:
            mounted, limits = hierarchies[controller]
            parent = mounted + place.rstrip("/")
            while not (done := _make_cgroup(f"{parent}/{name}", limits)) and parent != mounted:
                parent = os.path.dirname(parent)
            if done:
                made.append(f"{parent}/{name}")
    return made


def _make_cgroup(path: str, limits: dict[str, int]) -> bool:
    try:
        os.mkdir(path)
    except OSError:
        return False
    for n, (file, value) in enumerate(limits.items()):
        try:
            _write(f"{path}/{file}", str(value))
        except OSError:
            if n == 0:
                os.rmdir(path)
                return False
    return True


def _write(path: str, text: str) -> None:
    """Write to an existing kernel file, never creating one. Raises OSError."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _remove(folder: str, cgroups: list[str]) -> None:
    for path in cgroups:
        for _ in range(50):  # a killed process takes a moment to leave
            try:
                os.rmdir(path)
            except FileNotFoundError:  # where server and supervisor both remove it
                break
            except OSError:
                time.sleep(0.02)
    try:
        os.rmdir(folder)  # with a root of its own the program left nothing in it
    except OSError:
        # Not shutil.rmtree: folders in folders, thousands deep, are more than Python's stack holds.
        for command in ["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]:
            if os.path.exists(folder):
                subprocess.run([*command, folder], stderr=subprocess.DEVNULL)


# ---------------------------------------------------------------- in the process that `run` starts


def _supervise() -> int:
    task = json.load(sys.stdin)
    joining = _open_for_joining(task["cgroups"])
    namespaces = _unshare()
    if sys.platform == "linux":
        # Now /proc/PID/mem of this process is closed to the program, which may run as the same user.
        _system("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    pipes = [os.pipe() for _ in ("stdout", "stderr", "progress")]
    program = os.fork()
    if program == 0:
        memory_counted = _join(joining)
        for number, descriptor in enumerate([null, *(writer for _, writer in pipes)]):
            os.dup2(descriptor, number, inheritable=number < 3)
        os.closerange(4, 256)
        return _become(task, namespaces, memory_counted)
    for _, writer in pipes:
        os.close(writer)
    said = [bytearray() for _ in pipes]
    unfinished = {reader: text for (reader, _), text in zip(pipes, said, strict=True)}
    deadline, timed_out, loud = math.inf, False, False
    try:
        print(program, flush=True)
        while unfinished and not timed_out and not loud and os.getppid() == task["server"]:
            wait = min(0.2, max(0.0, deadline - time.monotonic()))
            for reader in select.select(list(unfinished), [], [], wait)[0]:
                piece = os.read(reader, 1 << 16)
                unfinished[reader] += piece
                if not piece:
                    del unfinished[reader]
            if deadline == math.inf and said[2]:  # isolated; the program starts
                deadline = time.monotonic() + task["seconds"]
            loud = max(map(len, said)) > task["output"]
            timed_out = bool(unfinished) and time.monotonic() > deadline
    finally:
        # Either it is over, or it must be. In namespaces it is their first process, and all others go with it.
        os.kill(program, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        if os.getppid() != task["server"]:  # nobody else is there to do it
            _remove(os.getcwd(), task["cgroups"])
    stdout, stderr = (bytes(text[: task["output"]]).decode("utf-8", "replace") for text in said[:2])
    isolation, _, end = bytes(said[2]).partition(b"\n")
    if not said[2]:
        error = f"the sandbox failed: {_last_line(stderr) or 'it gave no reason'}"
    elif loud:
        error = f"it printed more than {task['output']} bytes"
    elif timed_out:
        error = f"it took longer than {task['seconds']:g} seconds"
    elif code < 0:
        error = f"it was ended by signal {-code} ({signal.strsignal(-code)})"
    elif code > 0:
        error = _last_line(stderr) or f"it left with exit code {code}"
    else:
        error = "" if end else "it left before its end"
    report = Result(stdout, stderr, error, None if loud or timed_out else code, timed_out)
    print(json.dumps({**report.__dict__, "isolation": isolation.decode().split()}), flush=True)
    return 0


def _open_for_joining(cgroups: list[str]) -> list[tuple[bool, int]]:
    """Whether it counts memory, and the open file by which to join, for each of the cgroups that can be joined."""
    files = []
    for path in cgroups:
        with contextlib.suppress(OSError):
            counts = any(os.path.exists(f"{path}/{name}") for name in ("memory.max", "memory.limit_in_bytes"))
            files.append((counts, os.open(f"{path}/cgroup.procs", os.O_WRONLY)))
    return files


def _join(cgroups: list[tuple[bool, int]]) -> bool:
    """Move this process into cgroups. Returns whether its memory counts in one of them."""
    counted = False
    for counts, file in cgroups:
        with contextlib.suppress(OSError):  # version 2 refuses who may not write to the parent of both
            os.write(file, b"0")
            counted |= counts
        os.close(file)
    return counted


def _unshare() -> bool:
    """Namespaces for the process that is forked next: no network, no other processes, mounts of its own."""
    if sys.platform != "linux":
        return False
    own = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    user, group = os.geteuid(), os.getegid()
    try:
        _system("unshare", own if user == 0 else own | CLONE_NEWUSER)
    except OSError:
        return False
    if user != 0:
        # Some systems grant the namespaces and nothing in them; then the mounts fail later, and that is reported.
        with contextlib.suppress(OSError):
            for name, text in ("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1"):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
    return True


def _become(task: dict, namespaces: bool, memory_counted: bool) -> int:
    """Isolate this process, then be the program. Returns its exit code."""
    os.setsid()  # a signal to its own group reaches nobody else
    os.umask(0o022)
    limits = {
        resource.RLIMIT_CPU: math.ceil(task["seconds"]) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    own_root = stranger = filtered = landlocked = False
    if namespaces:
        limits[resource.RLIMIT_NPROC] = THREADS
        with contextlib.suppress(OSError):
            _new_root(os.getcwd())
            own_root = True
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # of a container, which has no other users
            _become_a_stranger()
            stranger = True
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = task["memory"]
        _system("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _system("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION), (ctypes.c_uint32 * 6)())  # none
        _system("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if not own_root:
            with contextlib.suppress(OSError):
                _landlock()
                landlocked = True
        if machine := MACHINES.get(platform.machine()):
            with contextlib.suppress(OSError):  # of a kernel without keyrings, or a container that refuses them
                _system("syscall", REFUSED["keyctl"][machine[1]], KEYCTL_JOIN_SESSION_KEYRING, None)
            with contextlib.suppress(OSError):
                _filter(*machine)
                filtered = True
    files = own_root or (landlocked and (filtered or stranger))
    isolation = {
        "network": namespaces or filtered,
        "processes": own_root or filtered,
        "files": files,
        "memory": files and (filtered or (memory_counted and namespaces)),
    }
    if not isolation["processes"]:
        limits[resource.RLIMIT_NPROC] = 0  # the kernel counts all processes of the user, so only none is a limit
    for kind, value in limits.items():
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    os.write(3, f"{' '.join(kind for kind, provided in isolation.items() if provided)}\n".encode())
    return _execute(task["code"])


def _new_root(root: str) -> None:
    """Make `root` the root of all files: Python, what it is linked with, and /tmp, which is the current folder."""
    _system("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _system("mount", b"tmpfs", os.fsencode(root), b"tmpfs", MS_NOSUID, b"size=1m,mode=755")
    os.mkdir(root + "/tmp")
    for path in _readable():
        if os.path.lexists(root + path) or not os.path.exists(path):
            continue
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if os.path.islink(path) and path != sys.base_prefix:
            os.symlink(os.readlink(path), root + path)
            continue
        if os.path.isdir(path):
            os.mkdir(root + path)
        else:
            os.close(os.open(root + path, os.O_CREAT))
        _system("mount", os.fsencode(path), os.fsencode(root + path), None, MS_BIND | MS_REC, None)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
    size = ctypes.sizeof(attributes)
    _system("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, attributes, size)
    room = f"size={FILE_BYTES},nr_inodes=4096,mode=1777".encode()
    _system("mount", b"tmpfs", os.fsencode(root + "/tmp"), b"tmpfs", MS_NOSUID | MS_NODEV, room)
    os.chdir(root)
    _system("mount", b".", b"/", None, MS_MOVE, None)
    os.chroot(".")  # who has no capabilities does not come out again
    os.chdir("/tmp")


def _readable() -> list[str]:
    """Python and what it is linked with."""
    return ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom", sys.base_prefix]


def _landlock() -> None:
    """Let this process open Python's files and list its folder, but write nothing except to /dev/null. Raises OSError.

    Landlock also keeps it from the memory of others, by /proc or otherwise.
    """
    version = _system("syscall", LANDLOCK_CREATE_RULESET, None, 0, 1)
    handled = (1 << (13 + min(version - 1, 2) + (version >= 5))) - 1  # the kinds of access that this version knows
    ruleset = _system("syscall", LANDLOCK_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    for path in [*_readable(), "."]:
        if os.path.exists(path):
            access = LANDLOCK_READ_FILE | (LANDLOCK_READ_DIR if os.path.isdir(path) else 0)
            if path == os.devnull:
                access |= LANDLOCK_WRITE_FILE
            file = os.open(path, os.O_PATH)
            _system("syscall", LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, file), 0)
            os.close(file)
    _system("syscall", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _become_a_stranger() -> None:
    """Change from root to a user that nobody is, another one in each run. Raises OSError before anything is done."""
    stranger = random.SystemRandom().randrange(61184, 65520)
    os.setgroups([])
    os.chown(".", stranger, stranger)
    python = os.open(sys.base_prefix, os.O_RDONLY)
    os.setgid(stranger)
    os.setuid(stranger)
    if not os.access(os.__file__, os.R_OK):
        # Root's own Python lies where others cannot go, but this folder is open already.
        folder = f"/proc/self/fd/{python}"
        paths = [sys.path, *(module.__path__ for module in sys.modules.values() if hasattr(module, "__path__"))]
        for path in paths:
            path[:] = [entry.replace(sys.base_prefix, folder, 1) for entry in path]
    else:
        os.close(python)


def _filter(machine: int, column: int) -> None:
    """Refuse this process the calls above from now on, by a seccomp filter. Raises OSError.

    The filter is a program for the kernel: (operation, steps to skip if so, if not, number).
    """
    load, equal, at_least, mask, answer = 0x20, 0x15, 0x35, 0x54, 0x06
    refuse, unknown, allow = (answer, 0, 0, 0x50001), (answer, 0, 0, 0x50000 + ENOSYS), (answer, 0, 0, 0x7FFF0000)
    call = (load, 0, 0, 0)
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), refuse]  # a 32-bit call would have other numbers,
    steps += [call, (at_least, 0, 1, FIRST_RECENT_CALL), unknown]  # and one of x86's x32 is above all
    for numbers in REFUSED.values():
        steps += [(equal, 0, 1, numbers[column]), refuse]
    for _, numbers, argument, bits, values, needed in LIMITED:
        checks = [(load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits)]
        for value in values:
            checks += [(equal, *((1, 0) if needed else (0, 1)), value), refuse]
        steps += [(equal, 0, len(checks) + 1, numbers[column]), *checks, call]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in [*steps, allow]))
    program = struct.pack("@HP", len(steps) + 1, ctypes.addressof(code))
    _system("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def _system(name: str, *arguments: object) -> int:
    """Call a function of the C library that returns -1 for an error. Raises OSError."""
    call = ctypes.CDLL(None, use_errno=True)[name]
    result = call(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _execute(code: str) -> int:
    """Run the program in this process. Returns its exit code."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, [""]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it printed before it was stopped
    linecache.cache["<program>"] = (len(code), None, code.splitlines(keepends=True), "<program>")
    try:
        tree = ast.parse(code, "<program>")
        last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        exec(compile(tree, "<program>", "exec"), module.__dict__)
        exec(compile(ast.Interactive(last), "<program>", "single"), module.__dict__)
        os.write(3, b"end")
        return 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # Its own lines only, not this function's.
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        return 1


if __name__ == "__main__":
    sys.exit(_supervise())
