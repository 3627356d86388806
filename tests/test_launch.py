"""The launchers of dev/launch: what they write is what Slurm, SkyPilot, Kubernetes and torchrun know, and starts a run.

Their schemas are those of sbatch(1), SkyPilot's YAML specification, and Kubeflow's PyTorchJob (kubeflow.org/v1).
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from stages import flags, lines
from torch.distributed.run import get_args_parser

from nanochat import config

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "dev" / "launch"
UNSHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
SBATCH = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "exclusive", "time", "signal", "requeue",
          "open-mode", "output"}  # fmt: skip
SRUN = """#!/bin/sh
# srun with two nodes: the command runs once for each, and what one writes goes to a file.
while case "$1" in --*) ;; *) false ;; esac; do shift; done
SLURM_NODEID=0 "$@" >node0.log 2>&1 &
first=$!
SLURM_NODEID=1 "$@" >node1.log 2>&1 || code=$?
wait $first && exit $code
"""
SCONTROL = """#!/bin/sh
[ "$1 $2 $3" = "show hostnames nodes[1-2]" ] && printf 'localhost\\nlocalhost\\n'
"""
UV = f"""#!/bin/sh
[ "$1 $2 $3" = "run --no-sync torchrun" ] && shift 3 && exec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"
"""
ECHO = """#!/bin/sh
printf '%s\\n' "$@"
"""


def torchruns(words: list[str]) -> dict:
    """What torchrun makes of its arguments. Its script's must be flags of that script."""
    args = get_args_parser().parse_args(words)
    assert args.module
    config.parse(import_module(args.training_script).Flags, args.training_script_args)
    return vars(args)


def check(args: dict, nodes: int, ranks: str) -> None:
    """What all launchers ask of torchrun."""
    assert (args["nnodes"], args["nproc_per_node"]) == (str(nodes), ranks)
    assert args["max_restarts"] > 0 and args["rdzv_backend"] == "c10d" and args["rdzv_id"]
    assert args["shutdown_timeout"] == 100


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts programs on the path, in front of all others, by name and text."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def put(**texts: str) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)

    return put


def test_slurm_trains_on_two_nodes(
    world: Callable[[str], Path], base: Path, programs: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = world("base")
    programs(srun=SRUN, scontrol=SCONTROL, uv=UV)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "nodes[1-2]"}
    environment = {**os.environ, **slurm, "RANKS_PER_NODE": "1", "PYTHONPATH": str(ROOT), "PET_LOCAL_ADDR": "127.0.0.1"}
    argv = flags("base", base, "--num_iterations=2", "--save_every=-1", "--eval_every=-1", "--sample_every=-1")
    done = subprocess.run(["bash", LAUNCH / "slurm.sh", "-m", "scripts.base_train", *argv], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    said = [(tmp_path / f"node{n}.log").read_text(encoding="utf-8") for n in range(2)]
    assert done.returncode == 0, done.stderr + "".join(said)
    assert [line["step"] for line in lines(folder) if "loss" in line] == [1, 2]
    assert sorted("step 2 is in" in each for each in said) == [False, True]  # rank 0 on one of them
    assert "torchrun can replace a lost node only with" not in "".join(said)


def test_slurms_header_and_arguments(programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    script = LAUNCH / "slurm.sh"
    header = re.findall(r"^#SBATCH --([\w-]+)(?:=\S+)?(?: +#.*)?$", script.read_text(encoding="utf-8"), re.M)
    assert set(header) == SBATCH and len(header) == script.read_text(encoding="utf-8").count("#SBATCH")
    programs(srun=ECHO, scontrol=SCONTROL)
    given = {"JOB_ID": "12", "JOB_NUM_NODES": "4", "JOB_NODELIST": "nodes[1-2]", "RESTART_COUNT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    train = ["-m", "scripts.base_train", "--depth=48", "--parallel=hybrid"]
    said = subprocess.run(["bash", script, *train], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[:5] == ["--kill-on-bad-exit=1", "uv", "run", "--no-sync", "torchrun"]
    check(args := torchruns(said[5:]), 4, "gpu")
    assert args["rdzv_endpoint"] == "localhost:20012" and args["rdzv_id"] == "12.1"
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    refused = subprocess.run(["bash", script, *train], capture_output=True, text=True)
    assert refused.returncode and "NANOCHAT_BASE_DIR: set it to a folder that all nodes share" in refused.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_skypilots_task(rank: int, programs: Callable[..., None]) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    assert set(task) == {"name", "workdir", "num_nodes", "resources", "volumes", "envs", "setup", "run"}
    assert set(task["resources"]) == {"infra", "accelerators", "network_tier", "job_recovery"}
    assert task["resources"]["job_recovery"].keys() == {"strategy", "max_restarts_on_errors"}
    assert all(isinstance(value, str) for value in task["envs"].values()) and task["envs"][UNSHARED] == "1"
    (mount,) = task["volumes"]
    assert task["envs"]["NANOCHAT_BASE_DIR"].startswith(f"{mount}/")
    assert (ROOT / re.findall(r"source (\S+)'", task["setup"])[0]).is_file()
    programs(uv=ECHO)
    given = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": "2",
             "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "sky-1"}  # fmt: skip
    done = subprocess.run(["bash", "-c", task["run"]], env={**os.environ, **task["envs"], **given}, check=True,
                          capture_output=True, text=True)  # fmt: skip
    said = done.stdout.splitlines()
    assert said[:3] == ["run", "--no-sync", "torchrun"]
    check(args := torchruns(said[3:]), task["num_nodes"], task["resources"]["accelerators"].partition(":")[2])
    assert (args["rdzv_endpoint"], args["local_addr"]) == ("10.0.0.1:29500", f"10.0.0.{rank + 1}")


def test_kubernetes_job() -> None:
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    assert set(spec) == {"runPolicy", "elasticPolicy", "pytorchReplicaSpecs"}
    assert set(spec["pytorchReplicaSpecs"]) == {"Worker"}
    worker, elastic = spec["pytorchReplicaSpecs"]["Worker"], spec["elasticPolicy"]
    assert worker["restartPolicy"] == "OnFailure"
    assert worker["replicas"] == elastic["minReplicas"] == elastic["maxReplicas"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch" and container["command"][0] == "torchrun"
    args = torchruns(container["command"][1:])
    check(args, worker["replicas"], str(container["resources"]["limits"]["nvidia.com/gpu"]))
    assert args["max_restarts"] == elastic["maxRestarts"] and args["rdzv_backend"] == elastic["rdzvBackend"]
    (port,) = container["ports"]
    assert args["rdzv_endpoint"] == f"{job['metadata']['name']}-worker-0:{port['containerPort']}"
    assert port["name"] == "pytorchjob-port"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment[UNSHARED] == "1" and args["local_addr"] == "$(POD_IP)" and "POD_IP" in environment
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert any(environment["NANOCHAT_BASE_DIR"].startswith(f"{mount}/") for mount in mounts)
    assert pod["terminationGracePeriodSeconds"] > args["shutdown_timeout"]


def test_the_commands_of_the_guide_train_something() -> None:
    """What docs/guides/nodes.md has the launchers train are flags of the script."""
    guide = (ROOT / "docs" / "guides" / "nodes.md").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?:slurm\.sh|--env TRAIN=)\s*\"?(-m scripts\.[^\"\n]+)", guide)
    assert len(found) == 2
    for words in found:
        torchruns(words.split())
