"""Model-written Python in a process of its own, behind as many fences as the system grants.

Both sides are in this file. `run` starts it as a program: a fresh interpreter that shares nothing with this process,
neither its threads nor its memory, files and environment. That supervisor builds the fences, forks the program,
collects what it prints, ends it in time and hands in one line of JSON.

    fence      keeps from the program                       stands on Linux
    network    every address, this machine's own included   everywhere (other processors: with namespaces)
    processes  signals to others, and further processes     everywhere (other processors: with namespaces)
    memory     more than `memory_mb`                        everywhere
    files      all but Python, read-only, and one folder    with namespaces, from 5.12 on

Namespaces are for root, and for everybody where the system is set so; containers often have none. Time, output and the
size of a file are limited everywhere, but none of the four stands on macOS. `Result.fences` says which ones did.
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
FILE_BYTES = 16 << 20  # of one file; with the fence around files, of all together
THREADS = 32  # at once, where they can be counted
STARTING = 60.0  # seconds that a busy machine may take to start the supervisor

# From Linux's headers; Python has no names for them.
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID, MS_NODEV, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 2, 4, 4096, 8192, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 442, -100, 0x8000, 1, 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 1, 22, 2, 38
CAPABILITY_VERSION = 0x20080522
CLONE_THREAD, CLONE3, ENOSYS = 0x10000, 435, 38
# machine: its number, that of clone, and those of what is refused: socket, fork, vfork (aarch64 has neither), kill,
# tkill, tgkill, rt_sigqueueinfo, pidfd_send_signal, ptrace, process_vm_readv, process_vm_writev, io_uring_setup
SYSTEM_CALLS = {
    "x86_64": (0xC000003E, 56, (41, 57, 58, 62, 200, 234, 129, 424, 101, 310, 311, 425)),
    "aarch64": (0xC00000B7, 220, (198, 129, 130, 131, 138, 424, 117, 270, 271, 425)),
}


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
    fences: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether it reached its end. One that leaves early, be it with exit code 0, has not passed the tests after."""
        return not self.error


@functools.cache
def fences() -> frozenset[str]:
    """The fences that stand on this machine; the first call runs an empty program to find out."""
    return run("").fences


def run(code: str, seconds: float = 5.0, memory_mb: int = 256, output_bytes: int = 1 << 16) -> Result:
    """Run a program and wait for it. Works in any thread and in many at once; failures are in the result.

    If the last statement is an expression, its value is printed as at Python's prompt. seconds: on the clock, from
    the program's first line. output_bytes: of stdout and of stderr each; a program that prints more is stopped.
    """
    if len(code) > MAX_CODE:
        return Result(error=f"the program has {len(code)} characters; at most {MAX_CODE} are run")
    task = {"code": code, "seconds": seconds, "memory": memory_mb << 20, "output": output_bytes, "server": os.getpid()}
    # -I -S: nothing from the environment, the user's folders or site-packages; -B: no __pycache__ left anywhere
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", __file__]
    pipe = subprocess.PIPE
    try:
        folder = tempfile.mkdtemp(prefix="nanochat-")
        try:
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
            _remove(folder)
    except OSError as error:
        return Result(error=f"the sandbox cannot start: {error}")
    if not report:
        reason = _last_line(complaint.decode("utf-8", "replace")) or "it was killed"
        return Result(error=f"the sandbox failed: {reason}")
    result = json.loads(report)
    return Result(**{**result, "fences": frozenset(result["fences"])})


def _kill_orphan(program: bytes) -> None:
    """Without the fence around processes a program can kill its supervisor; then it has to go from here."""
    with contextlib.suppress(ProcessLookupError, ValueError):
        pid = int(program)
        if os.getsid(pid) == pid:  # still the same: it leads its session, which it cannot leave
            os.kill(pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)  # with the fence around files nothing is in it
    except OSError:
        # Not shutil.rmtree: folders in folders, thousands deep, are more than Python's stack holds.
        for command in ["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]:
            if os.path.exists(folder):
                subprocess.run([*command, folder], stderr=subprocess.DEVNULL)


# ---------------------------------------------------------------- in the process that `run` starts


def _supervise() -> int:
    task = json.load(sys.stdin)
    namespaces = _unshare()
    null = os.open(os.devnull, os.O_RDWR)
    pipes = [os.pipe() for _ in ("stdout", "stderr", "progress")]
    program = os.fork()
    if program == 0:
        for number, descriptor in enumerate([null, *(writer for _, writer in pipes)]):
            os.dup2(descriptor, number, inheritable=number < 3)
        os.closerange(4, 256)
        return _become(task, namespaces)
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
            if deadline == math.inf and said[2]:  # the fences stand, the program begins
                deadline = time.monotonic() + task["seconds"]
            loud = max(map(len, said)) > task["output"]
            timed_out = bool(unfinished) and time.monotonic() > deadline
    finally:
        # Either it is over, or it must be. In namespaces it is their first process, and all others go with it.
        os.kill(program, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        if os.getppid() != task["server"]:  # nobody else is there to do it
            _remove(os.getcwd())
    stdout, stderr = (bytes(text[: task["output"]]).decode("utf-8", "replace") for text in said[:2])
    fences, _, end = bytes(said[2]).partition(b"\n")
    if not fences:
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
    print(json.dumps({**report.__dict__, "fences": fences.decode().split()}), flush=True)
    return 0


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


def _become(task: dict, namespaces: bool) -> int:
    """Build the fences around this process, then be the program. Returns its exit code."""
    os.setsid()  # a signal to its own group reaches nobody else
    os.umask(0o022)
    fences = {"network"} if namespaces else set()
    limits = {
        resource.RLIMIT_CPU: math.ceil(task["seconds"]) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if namespaces:
        limits[resource.RLIMIT_NPROC] = THREADS
        with contextlib.suppress(OSError):
            _new_root(os.getcwd())
            fences |= {"files", "processes"}
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # of a container, which has no other users
            _become_a_stranger()
    if sys.platform == "linux":
        fences.add("memory")
        limits[resource.RLIMIT_AS] = task["memory"]
        _system("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _system("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION), (ctypes.c_uint32 * 6)())  # none
        with contextlib.suppress(OSError, KeyError):
            _forbid(*SYSTEM_CALLS[platform.machine()])
            fences |= {"network", "processes"}
    if "processes" not in fences:
        limits[resource.RLIMIT_NPROC] = 0  # all that the user runs is counted, so that there is no number but none
    for kind, value in limits.items():
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    os.write(3, f"{' '.join(sorted(fences))}\n".encode())
    return _execute(task["code"])


def _new_root(root: str) -> None:
    """Make `root` the root of all files: Python, what it is linked with, and /tmp, which is the current folder."""
    _system("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _system("mount", b"tmpfs", os.fsencode(root), b"tmpfs", MS_NOSUID, b"size=1m,mode=755")
    os.mkdir(root + "/tmp")
    for path in ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom", sys.base_prefix]:
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


def _forbid(machine: int, clone: int, calls: tuple[int, ...]) -> None:
    """Let this process have threads, but no further process, no signals and no sockets, by a seccomp filter.

    The filter is a program for the kernel: (operation, steps to skip if so, if not, number). Raises OSError.
    """
    load, equal, at_least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, allow = (answer, 0, 0, 0x50001), (answer, 0, 0, 0x7FFF0000)  # the first with EPERM
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), refuse]  # a 32-bit call would have other numbers
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse]  # so would one of x86's x32
    for call in calls:
        steps += [(equal, 0, 1, call), refuse]
    steps += [(equal, 0, 1, CLONE3), (answer, 0, 0, 0x50000 + ENOSYS)]  # its flags cannot be read; clone is tried next
    steps += [(equal, 0, 3, clone), (load, 0, 0, 16), (has_bits, 1, 0, CLONE_THREAD), refuse, allow]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    _system("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _system("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(code)), 0, 0)


def _system(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns -1 for an error. Raises OSError."""
    call = ctypes.CDLL(None, use_errno=True)[name]
    if call(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)) == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


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
