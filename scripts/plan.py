"""Print what speedrun.sh will do: its stages, their commands, and what the training costs."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nanochat import paths
from nanochat.config import UserError, parse, run
from nanochat.cost import count_parameters, flops_per_token
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import short
from nanochat.scaling import config_from_depth, horizon

SPEEDRUN = Path(__file__).resolve().parent.parent / "speedrun.sh"


@dataclass
class Flags:
    """Print what speedrun.sh will do, with the sizes of the training stages."""

    recipe: Literal["auto", "tiny", "real"] = "auto"
    """tiny: the little world on this machine; real: web text on GPUs; auto: what this machine can do"""


@dataclass
class Stage:
    """A line of `speedrun.sh --list`. state is "done", "goes on", "to do" or "missing"."""

    name: str
    state: str
    command: str

    def flag(self, name: str, default: int | str) -> str:
        """The value of --name=value in the command."""
        found = re.search(rf"--{name}=(\S+)", self.command)
        return found[1] if found else str(default)


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    stages = stages_of(flags.recipe)
    named = "" if flags.recipe == "auto" else f" ({flags.recipe})"
    print(f"The plan{named}, in {paths.base_dir()}:\n")
    total_tokens = total_flops = 0
    config: GPTConfig | None = None
    vocab_size, batch = GPTConfig.vocab_size, -1
    for stage in stages:
        print(f"  {stage.state:8} {stage.name:15} {stage.command}")
        vocab_size = int(stage.flag("vocab_size", vocab_size))
        if stage.name == "base_train":
            config = config_from_depth(
                int(stage.flag("depth", 20)), vocab_size, int(stage.flag("max_seq_len", GPTConfig.sequence_len))
            )
        if stage.name in ("base_train", "mid_train", "chat_sft") and config is not None:
            batch = int(stage.flag("total_batch_size", batch))  # a later stage inherits it
            tokens, sentence = cost(stage, config, batch)
            total_tokens += tokens
            total_flops += tokens * flops_per_token(config)
            print(f"{'':26}{sentence}")
    print(f"\n  {short(total_tokens)} tokens and {total_flops:.1e} FLOPs of training in all\n")


def stages_of(recipe: str) -> list[Stage]:
    """What speedrun.sh would run, from itself. Raises UserError where it complains."""
    environment = {**os.environ, "RECIPE": recipe}
    listed = subprocess.run(
        ["bash", str(SPEEDRUN), "--list"], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode != 0:
        raise UserError(listed.stderr.strip().removeprefix("error: "))
    stages = []
    for line in listed.stdout.splitlines():
        name, state, command = line.split("\t")
        short_command = command.replace("python -m torch.distributed.run", "torchrun")
        stages.append(Stage(name, state, " ".join(shlex.quote(word) for word in short_command.split())))
    return stages


def cost(stage: Stage, config: GPTConfig, batch: int) -> tuple[int, str]:
    """Tokens of a training stage (0 where only its data says how many), and a sentence about it."""
    with torch.device("meta"):
        parameters = f"{short(count_parameters(GPT(config)))} parameters"
    steps = int(stage.flag("num_iterations", -1))
    if stage.name == "base_train":
        length = horizon(config, batch, steps, flops_per_token=flops_per_token(config))
        steps, batch = length.num_iterations, length.total_batch_size
    elif steps <= 0 or batch <= 0:
        return 0, f"{parameters}, once over its conversations"
    tokens = steps * batch
    flops = f"{tokens * flops_per_token(config):.1e} FLOPs"
    return tokens, f"{parameters}, {steps} steps of {short(batch)} tokens = {short(tokens)} tokens, {flops}"


if __name__ == "__main__":
    run(main)
