"""Whether a run fits into memory, checked before anything is built."""

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.plan.cost import training_memory
from nanochat.runtime import Runtime, memory_of

SLACK = 1.25  # the prediction may be 15 % off (tests/test_plan.py), so a run up to a quarter too large is tried


def check_memory(
    config: GPTConfig, rows: int, T: int, rt: Runtime, compiled: bool, flag: str = "device_batch_size",
    smaller: str = "--depth",
) -> None:  # fmt: skip
    """Raise UserError where training on `rows` rows of T tokens cannot fit, before the system kills it.

    The message names the number of rows that fits, as --flag, or what makes the model `smaller`.
    """
    sharing = rt.world if rt.device.type == "cpu" else 1  # ranks of one memory

    def needed(rows: int) -> float:
        return sharing * sum(training_memory(config, rows, T, compiled, rt.world).values())

    there = memory_of(rt.device)
    if not there or needed(rows) <= there * SLACK:
        return
    fitting = rows
    while fitting and needed(fitting) > there:
        fitting //= 2
    raise UserError(
        f"training on {rows} rows of {T} tokens at a time takes about {needed(rows) / 1e9:,.0f} GB, but only "
        f"{there / 1e9:,.0f} GB are available; " + (f"--{flag}={fitting} fits" if fitting else f"lower {smaller}")
    )
