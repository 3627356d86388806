"""Hostile programs in the sandbox: nothing gets out, nothing stays behind, and every run ends with a result."""

import contextlib
import glob
import json
import os
import platform
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat import sandbox
from nanochat.sandbox import Result, run

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36

ALL = {"network", "processes", "files", "memory"}

# Systems by what they lack, see TAKE_AWAY, and what is isolated all the same. A user has no privileges.
SYSTEMS = {
    "this system": ("", ALL),
    "namespaces": ("filter", ALL),
    "user with Landlock": ("cgroups privileges namespaces", ALL),
    "user": ("cgroups privileges namespaces landlock", {"network", "processes"}),
    "other user with Landlock": ("filter namespaces", {"files"}),
}
REFUSED = (
    "add_key request_key keyctl shmget shmat shmctl msgget semget mq_open memfd_create ptrace process_vm_readv "
    "process_vm_writev kcmp bpf userfaultfd perf_event_open unshare setns mount umount2 pivot_root chroot kexec_load "
    "kexec_file_load init_module finit_module delete_module reboot swapon swapoff name_to_handle_at open_by_handle_at "
    "personality execve execveat kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo setpriority sched_setaffinity "
    "ioprio_set socket connect bind listen accept accept4 inotify_init1 truncate fchmod fchmodat fchown fchownat "
    "setxattr lsetxattr fsetxattr utimensat"
).split()
# Refused with these arguments only: each must be refused by its own rule, on standard input where it takes a file.
LIMITED = [
    ("prlimit64", 2, 7, 0), ("socketpair", 2, 1, 0), ("socketpair", 1, 2, 0), ("socketpair", 1, 3, 0),
    ("fcntl", 0, 8, 0), ("fcntl", 0, 10, 0), ("fcntl", 0, 15, 0), ("fcntl", 0, 1031, 0),
    ("ioctl", 0, 0x8901, 0), ("ioctl", 0, 0x8902, 0), ("clone", 0, 0, 0),
]  # fmt: skip
KEYS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}  # add_key, request_key, keyctl

# {folder}, {port}, {keys} and {calls} are the test's.
ATTACKS = {
    "loop": "print('begun')\nwhile True: pass",
    "sleep": "import time\ntime.sleep(10000)",
    "closed": "import os, time\nfor fd in range(64):\n  try: os.close(fd)\n  except OSError: pass\ntime.sleep(10000)",
    "memory": "x = []\nwhile True: x.append('x' * 1000000)",
    "fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[10000]).start()",
    "flood": "while True: print('x' * 1000)",
    "flood of errors": "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
    "big file": "open('big', 'wb').write(bytes(50_000_000))",
    "many files": "for i in range(3):\n  with open(f'f{i}', 'wb') as f: f.write(bytes(10_000_000))",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5).send(b'hello')",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('127.0.0.1', {port}))",
    "environment": "import os, glob\nprint(dict(os.environ))\nfor path in glob.glob('/proc/[0-9]*/environ'):\n"
    "  try: print(open(path).read())\n  except OSError: pass",
    "outside": "import os\nfor act in (lambda: open('{folder}/new', 'w'), lambda: os.remove('{folder}/precious'),\n"
    "  lambda: os.rename('{folder}/precious', '{folder}/gone'), lambda: print(open('{folder}/precious').read()),\n"
    "  lambda: os.chmod('{folder}/precious', 0o666), lambda: os.truncate('{folder}/precious', 0)):\n"
    "  try: act()\n  except OSError: pass",
    "kill": "import os\nfor pid in (os.getppid(), 0, -1, 1):\n  try: os.kill(pid, 9)\n  except OSError: pass",
    "daemon": "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(10000)",
    "command": "import subprocess\nsubprocess.run(['/bin/sleep', '10000'])",
    "deep": "import os\nfor _ in range(1200):\n  os.mkdir('d')\n  os.chdir('d')",
    "locked": "import os\nos.mkdir('d', 0o300)\nopen('d/f', 'w').close()",
    "shared memory": "import ctypes\nc = ctypes.CDLL(None)\nc.shmat.restype = ctypes.c_void_p\n"
    "for _ in range(10):\n  part = c.shmget(0, 100 << 20, 0o1600)\n  where = c.shmat(part, None, 0)\n"
    "  assert part >= 0 and c.memset(ctypes.c_void_p(where), 1, 100 << 20) and not c.shmdt(ctypes.c_void_p(where))\n"
    "print('took 1 GB')",
    "memory files": "import os\nfiles = [os.memfd_create('f') for _ in range(50)]\n"
    "for file in files: os.write(file, bytes(15_000_000))\nprint('took 750 MB')",
    "files in memory": "import contextlib, os\npaths = [f'/dev/shm/nanochat-{port}-{i}' for i in range(20)]\ntry:\n"
    "  for path in paths:\n    with open(path, 'wb') as f: f.write(bytes(15_000_000))\n  print('took 300 MB')\n"
    "finally:\n  for path in paths:\n    with contextlib.suppress(OSError): os.remove(path)",
    "many descriptors": "files = []\nwhile True: files.append(open('/dev/null'))",
    "key": "import ctypes\nadd, request, control = {keys}\ncall = ctypes.CDLL(None).syscall\n"
    "key, text = call(request, b'user', b'nanochat', None, 0), ctypes.create_string_buffer(100)\n"
    "call(control, 11, key, text, 100)\nprint(text.value)",
    "names of keys": "print(open('/proc/keys').read())",
    "others' memory": "import os\nfor pid in filter(str.isdecimal, os.listdir('/proc')):\n"
    "  try: open(f'/proc/{pid}/mem', 'r+b')\n  except OSError: continue\n"
    "  if int(pid) != os.getpid(): print(pid == str(os.getppid()), pid)",
    "calls": "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nfor name, number, *given in {calls}:\n"
    "  if c.syscall(number, *given, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1: print(name)\n"
    "print([call for call in range(424, 480) if c.syscall(call, 0, 0, 0, 0, 0) != -1])",
    "signal by a file": "import fcntl, os, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, 10, 9)\n"
    "fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid())\nfcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\nb.send(b'x')",
    "others' limits": "import os, resource\nresource.prlimit(os.getppid() or 2, resource.RLIMIT_CPU, (0, 0)) and None",
    "datagram": "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'hello', '\\0nanochat-{port}')",
    "crash": "import ctypes\nctypes.string_at(0)",
    "thread": "import threading\nt = threading.Thread(target=print, args=['in a thread'])\nt.start()\nt.join()",
}  # fmt: skip
ENDLESS = {"loop", "sleep", "closed", "fork bomb", "thread bomb", "command"}
LASTING = {"shared memory"}  # without isolation it outlives the program

TAKE_AWAY = """
import ctypes, sys
from nanochat import sandbox

def take_away(lost):
    system = sandbox._system
    if "cgroups" in lost:
        system("unshare", sandbox.CLONE_NEWNS)
        system("mount", b"none", b"/", None, sandbox.MS_REC | sandbox.MS_PRIVATE, None)
        system("mount", b"tmpfs", b"/sys/fs/cgroup", b"tmpfs", 0, None)
    if "privileges" in lost:
        system("capset", (ctypes.c_uint32 * 2)(sandbox.CAPABILITY_VERSION), (ctypes.c_uint32 * 6)())
    if "namespaces" in lost or "landlock" in lost:  # by a filter as the sandbox's own
        system("prctl", sandbox.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        sandbox.REFUSED, sandbox.LIMITED = {"unshare": (272, 97)}, []
        sandbox.FIRST_RECENT_CALL = 444 if "landlock" in lost else 1000
        sandbox._filter(*sandbox.MACHINES[sandbox.platform.machine()])
    if "filter" in lost:
        system("personality", 8)  # the machine now says that it is a 32-bit one, which the sandbox does not know
"""

RUN_ALL = f"""{TAKE_AWAY}
import json, os
from concurrent.futures import ThreadPoolExecutor
from nanochat.sandbox import missing, run

attacks, keys, lost = json.load(sys.stdin)
if keys:  # one that only whoever has this process's keyring may see and read
    call = ctypes.CDLL(None).syscall
    call(keys[2], 1, None)
    call(keys[2], 5, call(keys[0], b"user", b"nanochat", b"the operator's key", 18, -3), 0x3F000000)
take_away(lost.split())
ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)  # what loses its parent becomes this one's child
with ThreadPoolExecutor(len(attacks)) as pool:
    results = list(pool.map(lambda attack: run(*attack), attacks))
try:
    os.waitpid(-1, os.WNOHANG)
    left = True
except ChildProcessError:
    left = False
results = [{{**vars(result), "isolation": list(result.isolation)}} for result in results]
print(json.dumps([left, results, missing(), os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []]))
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict]:
    """What `attacked` found, by system."""
    return {}


@pytest.fixture(params=SYSTEMS)
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, outcomes: dict) -> dict:
    """What became of all attacks, run at once in threads of one process: their results, and what they left."""
    if request.param not in outcomes:
        outcomes[request.param] = attack(request.param, tmp_path_factory)
    return outcomes[request.param]


def attack(system: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    lost, isolation = SYSTEMS[system]
    keys = KEYS.get(platform.machine())
    if lost and (sys.platform != "linux" or os.geteuid() != 0 or not keys):
        pytest.skip("taking isolation away needs root on Linux, and a machine that the filter knows")
    folder, temporary = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("temporary")
    (folder / "precious").write_text("the user's own", encoding="utf-8")
    (folder / "precious").chmod(0o600)
    temporary.chmod(0o777)
    before = cgroups()
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local,
    ):
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        if sys.platform == "linux":
            local.bind(f"\0nanochat-{port}")
        programs = []
        for name, code in ATTACKS.items():
            words = {"{folder}": folder, "{port}": port, "{keys}": keys or (0, 0, 0), "{calls}": calls()}
            for word, value in words.items():
                code = code.replace(word, str(value))
            programs.append("" if name in LASTING and "memory" not in isolation else code)
        limits = [2.0 if name in ENDLESS else 100.0 for name in ATTACKS]
        secret = {"NANOCHAT_API_KEY": "secret-key", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL], env={**os.environ, **secret}, capture_output=True, text=True,
            input=json.dumps([list(zip(programs, limits, strict=True)), keys, lost]),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        heard = []
        for listener, receive in (tcp, tcp.accept), (udp, lambda: udp.recv(10)), (local, lambda: local.recv(10)):
            listener.setblocking(False)
            with contextlib.suppress(OSError):  # nothing came
                heard.append(receive())
    left, results, missing, shared = json.loads(done.stdout)
    return {
        "results": dict(zip(ATTACKS, (Result(**result) for result in results), strict=True)),
        "isolation": set(results[0]["isolation"]),
        "missing": missing,
        "shared": [name for name in shared if name.startswith("nanochat-")],
        "processes left": left,
        "files left": os.listdir(temporary),
        "folder": {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()},
        "modes": [path.stat().st_mode & 0o777 for path in folder.glob("precious")],
        "cgroups left": [path for path in cgroups() if path not in before],
        "heard": heard,
        "system": system,
    }


def needs(attacked: dict, kind: str) -> None:
    if kind not in attacked["isolation"]:
        pytest.skip(f"a system like this one cannot isolate {kind}; test_missing_names_what_a_system_lacks")


def filtered(attacked: dict) -> None:
    if sys.platform != "linux" or "filter" in SYSTEMS[attacked["system"]][0] or platform.machine() not in KEYS:
        pytest.skip("without the system call filter")


def test_nothing_is_left_behind(attacked: dict) -> None:
    assert attacked["files left"] == attacked["shared"] == []
    assert not attacked["processes left"]


def calls() -> list[tuple]:
    """Name, number on this machine and arguments of the calls that the filter must refuse."""
    _, column = sandbox.MACHINES.get(platform.machine(), (0, 0))
    limited = {name: numbers for name, numbers, *_ in sandbox.LIMITED}
    wanted = [(name, sandbox.REFUSED[name][column], 0, 0, 0) for name in REFUSED]
    return wanted + [(name, limited[name][column], *given) for name, *given in LIMITED]


def cgroups() -> list[str]:
    return glob.glob("/sys/fs/cgroup/**/nanochat-*", recursive=True)


def test_the_sandbox_survives_every_attack(attacked: dict) -> None:
    results = attacked["results"].items()
    assert [(name, result.error) for name, result in results if result.error.startswith("the sandbox")] == []
    assert len({tuple(sorted(result.isolation)) for _, result in results}) == 1


def test_each_system_isolates_what_it_can(attacked: dict) -> None:
    if attacked["system"] != "this system" or (sys.platform == "linux" and os.geteuid() == 0):
        assert attacked["isolation"] == SYSTEMS[attacked["system"]][1]


def test_missing_names_what_a_system_lacks(attacked: dict) -> None:
    named = {entry.partition(" (needs ")[0] for entry in attacked["missing"]}
    assert named == ALL - attacked["isolation"]


@pytest.mark.parametrize("attack", ["loop", "sleep"])
def test_what_never_ends_is_ended(attacked: dict, attack: str) -> None:
    result = attacked["results"][attack]
    assert result.timed_out and not result.ok and result.exit_code is None
    assert result.error == "it took longer than 2 seconds"
    assert result.stdout == ("begun\n" if attack == "loop" else "")


def test_who_closes_all_its_files_is_ended(attacked: dict) -> None:
    assert not attacked["results"]["closed"].ok


def test_memory_is_limited(attacked: dict) -> None:
    if sys.platform == "linux":
        assert attacked["results"]["memory"].error == "MemoryError"


@pytest.mark.parametrize("attack", ["shared memory", "memory files", "files in memory"])
def test_memory_is_limited_whatever_it_is_called(attacked: dict, attack: str) -> None:
    needs(attacked, "memory")
    result = attacked["results"][attack]
    assert not result.ok and "took" not in result.stdout


def test_descriptors_are_limited(attacked: dict) -> None:
    assert attacked["results"]["many descriptors"].error.startswith("OSError: [Errno 24]")


def test_no_cgroup_is_left(attacked: dict) -> None:
    assert attacked["cgroups left"] == []


@pytest.mark.parametrize("attack", ["fork bomb", "thread bomb", "daemon", "command"])
def test_processes_are_limited(attacked: dict, attack: str) -> None:
    result = attacked["results"][attack]
    if attack == "daemon" and attacked["system"] == "namespaces":
        assert result.ok  # it may fork, and what it forked goes with it: test_nothing_is_left_behind
    else:
        assert not result.ok


def test_threads_are_to_be_had(attacked: dict) -> None:
    if "processes" not in attacked["isolation"]:
        pytest.skip("without namespaces and filter, threads are forbidden together with processes")
    assert attacked["results"]["thread"].stdout == "in a thread\n"


@pytest.mark.parametrize("attack, stream", [("flood", "stdout"), ("flood of errors", "stderr")])
def test_output_is_bounded(attacked: dict, attack: str, stream: str) -> None:
    result = attacked["results"][attack]
    assert result.error == "it printed more than 65536 bytes" and result.exit_code is None
    assert getattr(result, stream).startswith("x" * 1000 + "\n")
    assert len(getattr(result, stream)) == 65536


def test_files_are_bounded(attacked: dict) -> None:
    writes = "Landlock" not in attacked["system"]
    assert attacked["results"]["big file"].error.startswith("OSError" if writes else "PermissionError")
    assert attacked["results"]["many files"].ok == (writes and "files" not in attacked["isolation"])


@pytest.mark.parametrize("attack", ["network", "udp", "datagram"])
def test_no_network(attacked: dict, attack: str) -> None:
    needs(attacked, "network")
    assert "Error" in attacked["results"][attack].error
    assert attacked["heard"] == []


def test_keys_stay_secret(attacked: dict) -> None:
    filtered(attacked)
    assert attacked["results"]["key"].stdout == "b''\n"
    assert "nanochat" not in attacked["results"]["names of keys"].stdout


def test_the_memory_of_others_is_out_of_reach(attacked: dict) -> None:
    found = attacked["results"]["others' memory"].stdout
    assert "True" not in found  # not the supervisor's on any system, as it is not dumpable
    assert found == "" or "files" not in attacked["isolation"]


def test_other_calls_are_refused(attacked: dict) -> None:
    filtered(attacked)
    assert attacked["results"]["calls"].stdout == "[]\n"


def test_others_are_left_alone(attacked: dict) -> None:
    filtered(attacked)
    assert attacked["results"]["signal by a file"].error.startswith("PermissionError")
    assert attacked["results"]["others' limits"].error.startswith("PermissionError")


def test_the_environment_stays_secret(attacked: dict) -> None:
    needs(attacked, "files")
    assert "secret-key" not in attacked["results"]["environment"].stdout


def test_the_users_files_are_out_of_reach(attacked: dict) -> None:
    needs(attacked, "files")
    assert attacked["results"]["outside"].stdout == ""
    assert attacked["folder"] == {"precious": "the user's own"}
    assert attacked["modes"] == [0o600]


def test_a_crash_is_told(attacked: dict) -> None:
    result = attacked["results"]["crash"]
    assert result.exit_code == -11
    assert result.error == "it was ended by signal 11 (Segmentation fault)"


def test_when_its_server_is_killed_the_program_ends(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux hands orphans to a process of one's choice")
    script = f"""
import ctypes, os, signal, subprocess, sys, time
ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)
server = subprocess.Popen([sys.executable, "-c", "from nanochat.sandbox import run; run('while True: pass', 10000)"])
def children(pid):
    return open(f"/proc/{{pid}}/task/{{pid}}/children", encoding="ascii").read().split()
while not (supervisors := children(server.pid)) or not children(supervisors[0]):
    time.sleep(0.01)
server.kill()
server.wait()
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
print("all gone")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "all gone\n", done.stderr
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- what well-behaved programs get


@pytest.mark.parametrize(
    "code, stdout",
    [
        ("12*3", "36\n"),
        ("'r' * 3", "'rrr'\n"),
        ("x = 6\nx * 7", "42\n"),
        ("print('a')\nprint('b')", "a\nb\n"),
        ("None", ""),
        ("x = 1", ""),
        ("", ""),
        ("'a docstring'\nx = 1", ""),
        ("naïve = 'é€😀'\nnaïve", "'é€😀'\n"),
        ("[i * i for i in range(4)]; 1 + 1", "2\n"),
        ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nf(10)", "55\n"),
        ("import json, math, re, random, datetime, collections, itertools, decimal\nmath.factorial(5)", "120\n"),
        ("with open('f.txt', 'w') as f: n = f.write('hello')\nprint(open('f.txt').read())", "hello\n"),
        ("import dataclasses\n@dataclasses.dataclass\nclass A: x: int\nA(1)", "A(x=1)\n"),
        ("if __name__ == '__main__': print('main')", "main\n"),
        ("import sys\nsys.stdout.buffer.write(b'caf\\xe9 \\xff\\n') and None", "caf� �\n"),
        ("import os\nos.listdir('.')", "[]\n"),
        ("import sys\nsys.argv, sys.stdin.read()", "([''], '')\n"),
        ("import asyncio\nasync def f(): return 5\nasyncio.run(f())", "5\n"),
    ],
)
def test_programs_that_work(code: str, stdout: str) -> None:
    result = run(code, seconds=100)
    assert (result.stdout, result.stderr, result.error, result.exit_code) == (stdout, "", "", 0)
    assert result.ok and not result.timed_out


@pytest.mark.parametrize(
    "code, error, exit_code",
    [
        ("1/0", "ZeroDivisionError: division by zero", 1),
        ("print('a'\nb", "SyntaxError: '(' was never closed", 1),
        ("x = 5\nassert x == 6, 'not six'", "AssertionError: not six", 1),
        ("input()", "EOFError: EOF when reading a line", 1),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded", 1),
        ("import torch", "ModuleNotFoundError: No module named 'torch'", 1),
        ("import sys\nsys.exit(3)", "it left with exit code 3", 3),
        ("import sys\nsys.exit('no luck')", "no luck", 1),
        ("raise SystemExit", "it left before its end", 0),
        ("import sys\nsys.exit(0)\nassert False", "it left before its end", 0),
        ("import os\nos._exit(0)\nassert False", "it left before its end", 0),
        ("\0", "SyntaxError: source code string cannot contain null bytes", 1),
        ("'\ud800'", "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 1: "
         "surrogates not allowed", 1),
    ],
)  # fmt: skip
def test_programs_that_fail(code: str, error: str, exit_code: int) -> None:
    result = run(code, seconds=100)
    if code != "\0":  # a ValueError before Python 3.12
        assert result.error == error
    assert result.exit_code == exit_code
    assert not result.ok and not result.timed_out


def test_a_traceback_shows_the_program_and_nothing_of_the_sandbox() -> None:
    result = run("def half(x):\n    return x / 0\n\nprint('before')\nhalf(4)", seconds=100)
    assert result.stdout == "before\n"
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "<program>", line 5, in <module>\n')
    assert "    return x / 0\n" in result.stderr
    assert "sandbox" not in result.stderr


def test_a_long_program_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # it is not even started
    assert run("#" * (sandbox.MAX_CODE + 1)).error == "the program has 100001 characters; at most 100000 are run"
    assert run("#" * sandbox.MAX_CODE).error.startswith("the sandbox cannot start: ")


def test_no_file_of_the_server_is_open_in_the_program(tmp_path: Path) -> None:
    with open(tmp_path / "open", "w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        number = os.fstat(file.fileno()).st_ino
        code = "import os\nfor fd in range(64):\n  try: print(os.fstat(fd).st_ino)\n  except OSError: pass"
        found = run(code, seconds=100).stdout.split()
    assert 4 <= len(found) <= 5 and str(number) not in found  # stdin, stdout, stderr, progress, perhaps Python's folder


def test_many_at_once_keep_their_results_apart() -> None:
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda i: run(f"print({i})\n{i} ** 2", seconds=100), range(20)))
    assert [result.stdout for result in results] == [f"{i}\n{i * i}\n" for i in range(20)]


def test_the_limits_are_the_callers() -> None:
    assert run("'x' * 100", seconds=100, output_bytes=50).error == "it printed more than 50 bytes"
    assert run("while True: pass", seconds=0.25).error == "it took longer than 0.25 seconds"
    if sys.platform == "linux":
        big = "len(bytes(300_000_000))"
        assert run(big, seconds=100).error == "MemoryError"
        assert run(big, seconds=100, memory_mb=600).stdout == "300000000\n"


# ---------------------------------------------------------------- what the kernel is asked for


def test_the_numbers_of_system_calls_are_the_headers() -> None:
    """x86_64 has its own numbers; aarch64 has the generic ones."""
    headers = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"]
    if not all(map(os.path.exists, headers)):
        pytest.skip("the kernel's headers are not installed")
    calls = {**sandbox.REFUSED, **{name: numbers for name, numbers, *_ in sandbox.LIMITED}}
    for column, header in enumerate(headers):
        found = re.findall(r"__NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text(encoding="utf-8"))
        known = {name: int(number) for name, number in found if name in calls}
        assert {name: numbers[column] for name, numbers in calls.items() if numbers[column] < sandbox.NONE} == known


def test_a_cgroup_of_version_2_is_made_where_limits_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an imitation, as this machine may have version 1: only the slice gives its children controllers."""
    (tmp_path / "cgroups/slice/scope").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/slice/scope\n", encoding="utf-8")
    monkeypatch.setattr(sandbox, "CGROUPS", str(tmp_path / "cgroups"))
    monkeypatch.setattr(sandbox, "OWN_CGROUPS", str(tmp_path / "own"))
    make = os.mkdir

    def mkdir(path: str) -> None:
        make(path)
        if Path(path).parent.name == "slice":
            for file in "memory.max", "pids.max", "cgroup.procs":
                Path(path, file).touch()

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert sandbox._make_cgroups("new", 5000) == [str(tmp_path / "cgroups/slice/new")]
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "cgroups/slice/new").iterdir()}
    assert made == {"memory.max": "5000", "pids.max": "32", "cgroup.procs": ""}
    assert not (tmp_path / "cgroups/slice/scope/new").exists()
    (joining,) = sandbox._open_for_joining([str(tmp_path / "cgroups/slice/new")])
    assert sandbox._join([joining])
