"""Download GPT-2's weights from the hub into its cache, so that --init_from=gpt2 works without a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from nanochat import hub
from nanochat.config import parse
from nanochat.errors import UserError, run


@dataclass
class Flags:
    """Download GPT-2's weights and tokenizer from the hub into its cache, for --init_from=gpt2 and the larger ones."""

    EXAMPLE: ClassVar = "--model gpt2-medium"

    model: list[str] = field(default_factory=lambda: ["gpt2"])
    """gpt2, gpt2-medium, gpt2-large or gpt2-xl; repeat for several"""
    all: bool = False
    """download all four"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    names = list(hub.GPT2) if flags.all else flags.model
    for name in names:
        if name not in hub.GPT2:
            raise UserError(f"--model {name!r} is unknown; expected one of {', '.join(hub.GPT2)}")
    listings = {name: hub.look(hub.GPT2[name]) for name in names}
    for name in names:
        hub.share_twin(hub.GPT2[name])
    lacking = {name: hub.missing(listing) for name, listing in listings.items()}
    for name, listing in listings.items():
        fetched = listing.size - lacking[name]
        print(f"{hub.in_bytes(listing.size):>8}  {name:<12} {hub.in_bytes(fetched) if fetched else 'nothing'} here")
    hub.check_space(sum(lacking.values()), hub.cache(), f"fetching {', '.join(names)}")
    for name in names:
        print(f"{name} is in {hub.fetch(hub.GPT2[name])}")
    print("continue with")
    print(f"  python -m scripts.verify_weights --model {' '.join(names)}")
    print(f'  python -m scripts.sample --init_from={names[0]} --start="Once upon a time"')


if __name__ == "__main__":
    run(main)
