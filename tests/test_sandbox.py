"""Hostile programs in the sandbox: nothing gets out, nothing stays behind, and every run ends with a result."""

import contextlib
import json
import os
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

# Systems with fewer fences, as commands that a program is started with.
SYSTEMS = {
    "this system": [],
    "no namespaces": ["setpriv", "--bounding-set=-sys_admin,-sys_ptrace,-sys_resource,-dac_read_search"],
    "no system call filter": ["setarch", "i686"],
    "neither": ["setpriv", "--bounding-set=-sys_admin,-sys_ptrace,-sys_resource,-dac_read_search", "setarch", "i686"],
}  # fmt: skip

# {folder} and {port} are the test's.
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
    "  lambda: os.rename('{folder}/precious', '{folder}/gone'), lambda: print(open('{folder}/precious').read())):\n"
    "  try: act()\n  except OSError: pass",
    "kill": "import os\nfor pid in (os.getppid(), 0, -1, 1):\n  try: os.kill(pid, 9)\n  except OSError: pass",
    "daemon": "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(10000)",
    "command": "import subprocess\nsubprocess.run(['/bin/sleep', '10000'])",
    "deep": "import os\nos.chmod('.', 0o755)\nfor _ in range(1500):\n  os.mkdir('d')\n  os.chdir('d')",
    "locked": "import os\nos.mkdir('d')\nopen('d/f', 'w').close()\nos.chmod('d', 0)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "thread": "import threading\nt = threading.Thread(target=print, args=['in a thread'])\nt.start()\nt.join()",
}  # fmt: skip
ENDLESS = {"loop", "sleep", "closed", "fork bomb", "thread bomb", "command"}

RUN_ALL = f"""
import ctypes, json, os, sys
from concurrent.futures import ThreadPoolExecutor
from nanochat.sandbox import run

ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)  # what loses its parent becomes this one's child
attacks = json.load(sys.stdin)
with ThreadPoolExecutor(len(attacks)) as pool:
    results = list(pool.map(lambda attack: run(*attack), attacks))
try:
    os.waitpid(-1, os.WNOHANG)
    left = True
except ChildProcessError:
    left = False
print(json.dumps([left, [{{**vars(result), "fences": list(result.fences)}} for result in results]]))
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
    command = SYSTEMS[system]
    if command and (sys.platform != "linux" or os.geteuid() != 0):
        pytest.skip("taking fences away needs root on Linux")
    folder, temporary = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("temporary")
    (folder / "precious").write_text("the user's own", encoding="utf-8")
    temporary.chmod(0o777)
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        programs = [code.replace("{folder}", str(folder)).replace("{port}", str(port)) for code in ATTACKS.values()]
        limits = [2.0 if name in ENDLESS else 100.0 for name in ATTACKS]
        secret = {"NANOCHAT_API_KEY": "secret-key", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                [*command, sys.executable, "-c", RUN_ALL], env={**os.environ, **secret}, capture_output=True, text=True,
                input=json.dumps(list(zip(programs, limits, strict=True))),
            )  # fmt: skip
        except FileNotFoundError:
            pytest.skip(f"no {command[0]} program here")
        assert done.returncode == 0, done.stderr
        heard = []
        for listener, receive in (tcp, tcp.accept), (udp, lambda: udp.recv(10)):
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                heard.append(receive())
    left, results = json.loads(done.stdout)
    return {
        "results": dict(zip(ATTACKS, (Result(**result) for result in results), strict=True)),
        "fences": set(results[0]["fences"]),
        "processes left": left,
        "files left": os.listdir(temporary),
        "folder": {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()},
        "heard": heard,
        "system": system,
    }


def test_nothing_is_left_behind(attacked: dict) -> None:
    assert attacked["files left"] == []
    assert not attacked["processes left"]


def test_the_sandbox_survives_every_attack(attacked: dict) -> None:
    results = attacked["results"].items()
    assert [(name, result.error) for name, result in results if result.error.startswith("the sandbox")] == []
    assert len({tuple(sorted(result.fences)) for _, result in results}) == 1


def test_each_system_has_its_fences(attacked: dict) -> None:
    if attacked["system"] in ("this system", "no system call filter") and sys.platform == "linux":
        assert attacked["fences"] == {"network", "processes", "memory", "files"} or os.geteuid() != 0
    if attacked["system"] == "no namespaces":
        assert attacked["fences"] == {"network", "processes", "memory"}
    if attacked["system"] == "neither":
        assert attacked["fences"] == {"memory"}


@pytest.mark.parametrize("attack", ["loop", "sleep"])
def test_what_never_ends_is_ended(attacked: dict, attack: str) -> None:
    result = attacked["results"][attack]
    assert result.timed_out and not result.ok and result.exit_code is None
    assert result.error == "it took longer than 2 seconds"
    assert result.stdout == ("begun\n" if attack == "loop" else "")


def test_who_closes_all_its_files_is_ended(attacked: dict) -> None:
    assert not attacked["results"]["closed"].ok


def test_memory_is_limited(attacked: dict) -> None:
    if "memory" not in attacked["fences"]:
        pytest.skip("this system does not limit a process's memory")
    assert attacked["results"]["memory"].error == "MemoryError"


@pytest.mark.parametrize("attack", ["fork bomb", "thread bomb", "daemon", "command"])
def test_processes_are_limited(attacked: dict, attack: str) -> None:
    result = attacked["results"][attack]
    if attack == "daemon" and attacked["system"] == "no system call filter":
        assert result.ok  # it may fork, and what it forked goes with it: test_nothing_is_left_behind
    else:
        assert not result.ok


def test_threads_are_to_be_had(attacked: dict) -> None:
    if attacked["system"] == "neither":
        pytest.skip("without namespaces and filter, threads are forbidden together with processes")
    assert attacked["results"]["thread"].stdout == "in a thread\n"


@pytest.mark.parametrize("attack, stream", [("flood", "stdout"), ("flood of errors", "stderr")])
def test_output_is_bounded(attacked: dict, attack: str, stream: str) -> None:
    result = attacked["results"][attack]
    assert result.error == "it printed more than 65536 bytes" and result.exit_code is None
    assert getattr(result, stream).startswith("x" * 1000 + "\n")
    assert len(getattr(result, stream)) == 65536


def test_files_are_bounded(attacked: dict) -> None:
    assert attacked["results"]["big file"].error.startswith("OSError")
    assert attacked["results"]["many files"].ok == ("files" not in attacked["fences"])


@pytest.mark.parametrize("attack", ["network", "udp"])
def test_no_network(attacked: dict, attack: str) -> None:
    if "network" not in attacked["fences"]:
        pytest.skip("this system does not let a process cut itself off from the network")
    assert "Error" in attacked["results"][attack].error
    assert attacked["heard"] == []


def test_the_environment_stays_secret(attacked: dict) -> None:
    if "files" not in attacked["fences"] and os.geteuid() != 0:
        pytest.skip("without the fence around files, /proc shows the environment of the user's processes")
    assert attacked["results"]["environment"].ok
    assert "secret-key" not in attacked["results"]["environment"].stdout


def test_the_users_files_are_out_of_reach(attacked: dict) -> None:
    if "files" not in attacked["fences"] and os.geteuid() != 0:
        pytest.skip("without the fence around files, the program may do what the user may")
    assert attacked["results"]["outside"].stdout == ""
    assert attacked["folder"] == {"precious": "the user's own"}


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
    if "memory" in sandbox.fences():
        big = "len(bytes(300_000_000))"
        assert run(big, seconds=100).error == "MemoryError"
        assert run(big, seconds=100, memory_mb=600).stdout == "300000000\n"
