"""Two hosts, as network namespaces with a cable between them: torchrun trains on both, and one dies in mid-step."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from stages import assert_same_run, flags, lines, on_ranks

from nanochat.checkpoint import manager
from nanochat.paths import checkpoints_dir

ROOT = Path(__file__).resolve().parent.parent
STEPS = 80


@dataclass
class Host:
    """A network namespace with an address and a host name of its own. `keeps` the rendezvous, or asks the other."""

    name: str
    address: str
    keeps: bool
    log: Path
    torchrun: subprocess.Popen | None = field(default=None)

    def start(self, rendezvous: str, *command: str) -> None:
        """Start torchrun here with a program, on one rank; what it writes goes to `log`."""
        conf = f"is_host={self.keeps},keep_alive_interval=1,keep_alive_max_attempt=3"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                    "--max_restarts=3", "--monitor_interval=0.1", "--rdzv_backend=c10d", "--rdzv_id=test",
                    f"--rdzv_endpoint={rendezvous}:29400", f"--rdzv_conf={conf}",
                    f"--local_addr={self.address}"]  # fmt: skip
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"']
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                       "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
        with open(self.log, "ab") as log:
            self.torchrun = subprocess.Popen([*inside, self.name, *launcher, *command], stdout=log, stderr=log,
                                             cwd=ROOT, env=environment)  # fmt: skip

    def die(self) -> None:
        """SIGKILL to every process of the host."""
        while pids := subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if self.torchrun is not None:
            self.torchrun.wait()

    def remove(self) -> None:
        self.die()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    if not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("two hosts need the programs ip (iproute2) and unshare (util-linux)")
    remove_strays()
    names = [f"nanochat-{os.getpid()}-{letter}" for letter in "ab"]
    a = Host(names[0], "10.77.0.1", False, tmp_path / "a.log")
    b = Host(names[1], "10.77.0.2", True, tmp_path / "b.log")
    cable = f"ip link add eth0 netns {a.name} type veth peer name eth0 netns {b.name}"
    try:
        for command in (f"ip netns add {a.name}", f"ip netns add {b.name}", cable):
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"{command} is not permitted here: {done.stderr.strip()}")
        for host in (a, b):
            for words in ("link set lo up", f"addr add {host.address}/24 dev eth0", "link set eth0 up"):
                subprocess.run(["ip", "-n", host.name, *words.split()], check=True)
        yield a, b
    finally:
        for host in (a, b):
            host.remove()


def remove_strays() -> None:
    """Remove the namespaces of a pytest that was killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name, pid in re.findall(r"^(nanochat-(\d+)-[ab])\b", listed, re.M):
        if not Path(f"/proc/{pid}").exists():
            Host(name, "", False, Path()).remove()


def last_step(folder: Path) -> int:
    return lines(folder)[-1]["step"] if (folder / "metrics.jsonl").exists() and lines(folder) else 0


def wait_for(what: Callable[[], bool], *hosts: Host, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        ended = [host.said() for host in hosts if host.torchrun is None or host.torchrun.poll() is not None]
        assert not ended and time.monotonic() < until, "".join(host.said() for host in hosts)
        time.sleep(0.01)


def test_a_host_dies_in_mid_step_and_comes_back(
    world: Callable[[str], Path], base: Path, hosts: tuple[Host, Host]
) -> None:
    """Rank 0's, which writes the checkpoints. The run ends as one that nothing has disturbed, to the bit."""
    folder = world("base")
    argv = flags("base", base, f"--num_iterations={STEPS}", "--save_every=20", "--eval_every=40", "--keep_last=0")
    on_ranks(base, "base", [*argv, "--model_tag=undisturbed"])
    a, b = hosts
    command = ["-m", "scripts.base_train", *argv]
    for host in hosts:
        host.start(b.address, *command)
    wait_for(lambda: last_step(folder) >= 25 and bool(manager.steps(folder)), a, b)
    a.die()
    reached = last_step(folder)
    assert 25 <= reached < STEPS
    a.start(b.address, *command)
    for host in hosts:
        assert host.torchrun is not None and host.torchrun.wait(300) == 0, a.said() + b.said()
    assert b.said().count("error: ") == 1 and "frame #0" not in b.said()
    assert f"error: rank 0 on {a.address} ended without an error message" in b.said()
    (resumed,) = re.findall(r"resuming from step (\d+) of", a.said())
    assert 20 <= int(resumed) <= reached
    assert_same_run(folder, checkpoints_dir("base") / "undisturbed", STEPS)
