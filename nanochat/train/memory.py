"""Whether a run fits into memory, checked before anything is built."""

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.lora import Adapters
from nanochat.plan.cost import USABLE, training_memory
from nanochat.runtime import Runtime, memory_of
from nanochat.train.room import lowest

MOST_ROWS = 256  # more at a time make no step faster
SLACK = 1.25  # the prediction may be 15 % off (tests/test_plan.py), so a run up to a quarter too large is tried


def check_memory(
    config: GPTConfig, rows: int, T: int, rt: Runtime, compiled: bool, recompute: bool = False,
    flag: str = "device_batch_size", smaller: str = "--depth", adapters: Adapters | None = None,
    teacher: GPTConfig | None = None, parts: int = 1,
) -> None:  # fmt: skip
    """Raise UserError where training on `rows` rows of T tokens cannot fit, before the system kills it.

    The message names the number of rows that fits, as --flag, or what makes the model `smaller`.
    """
    there, wanted = memory_of(rt.device), needed(config, rows, T, rt, compiled, recompute, adapters, teacher, parts)
    if not there or wanted <= there * SLACK:
        return
    fitting = rows
    while fitting and needed(config, fitting, T, rt, compiled, recompute, adapters, teacher, parts) > there:
        fitting //= 2
    raise UserError(
        f"training on {rows} rows of {T} tokens at a time takes about {wanted / 1e9:,.0f} GB, but only "
        f"{there / 1e9:,.0f} GB are available; " + (f"--{flag}={fitting} fits" if fitting else f"lower {smaller}")
    )


def rows_that_fit(
    config: GPTConfig, T: int, rt: Runtime, compiled: bool, recompute: bool = False, adapters: Adapters | None = None
) -> int:
    """The largest power of two of rows of T tokens that training has room for, by prediction; the same on all ranks.

    Prints it. 1 where nothing fits, which `check_memory` then refuses, and where a device does not tell its memory.
    """
    there, rows = memory_of(rt.device), 1
    while rows < MOST_ROWS and needed(config, 2 * rows, T, rt, compiled, recompute, adapters) <= USABLE * there:
        rows *= 2
    rows = lowest(rows, rt)
    rt.print(
        f"device_batch_size=auto: {rows} rows of {T} tokens at a time, which take about "
        f"{needed(config, rows, T, rt, compiled, recompute, adapters) / 1e9:,.1f} of {there / 1e9:,.0f} GB"
    )
    return rows


def needed(
    config: GPTConfig, rows: int, T: int, rt: Runtime, compiled: bool, recompute: bool = False,
    adapters: Adapters | None = None, teacher: GPTConfig | None = None, parts: int = 1,
) -> float:  # fmt: skip
    """The bytes that training is predicted to take on a device, of all ranks where they share its memory."""
    sharing = rt.world if rt.device.type == "cpu" else 1  # ranks of one memory
    memory = training_memory(
        config, rows, T, compiled, rt.world, recompute=recompute, adapters=adapters, teacher=teacher, parts=parts
    )
    if rt.device.type == "cpu":  # the copies that are written while training continues (`writer`)
        memory["copies to save"] = memory["weights"] + memory["optimizer state"]
    return sharing * sum(memory.values())
