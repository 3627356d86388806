"""An adapter and the model it was trained on, as one ordinary checkpoint that needs neither.

python -m scripts.merge --source sft:d3-mine                       an adapter of --lora_rank
python -m scripts.merge --source ~/adapters/poet --out_tag poet    one of peft's, a folder with adapter_config.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nanochat.checkpoint.flags import ModelFlags
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import alone_in, check_tag, checkpoints_dir

if TYPE_CHECKING:
    from nanochat.checkpoint.door import Found


@dataclass
class Flags(ModelFlags):
    """Write an adapter, merged into the model it was trained on, as an ordinary checkpoint."""

    EXAMPLE: ClassVar = "--source sft:mine"

    out_tag: str | None = None
    """tag to write it under; default: that of the adapter with -merged behind it"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from nanochat import chat
    from nanochat.checkpoint import manager

    found = flags.find()
    if found.kind != "peft" and "lora" not in found.meta:
        raise UserError(f"{found} is not an adapter, so there is nothing to merge; open it by its name as it is")
    tag = flags.out_tag or f"{found.tag.rpartition('/')[2]}-merged"
    check_tag("out_tag", tag)
    loaded = found.load()
    stage = loaded.source or ("sft" if chat.can_chat(loaded.tokenizer) else "base")
    folder = checkpoints_dir(stage) / tag
    with alone_in(folder):
        if there := manager.recorded(folder):
            raise UserError(f"{folder} holds a checkpoint of step {there[-1]} already; pass another --out_tag")
        manager.keep_tokenizer(folder, loaded.tokenizer)
        manager.save(folder, loaded.step, loaded.model, None, {**loaded.meta, "source": stage, "merged": origin(found)})
    print(f"{loaded} is in {folder}; its name is {stage}:{tag}")


def origin(found: "Found") -> dict:
    """Which adapter a checkpoint was merged from."""
    from nanochat.checkpoint import door

    return door.record(found)


if __name__ == "__main__":
    run(main)
