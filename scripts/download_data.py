"""Download pretraining text from the hub as shards; `python -m nanochat.data.shards` does the same."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir, read_json, write_text

if TYPE_CHECKING:
    from nanochat.hub import Listing

SHARD = re.compile(r"shard_\d{5}\.parquet")
RECORD = ".source.json"  # records where a folder's shards come from; hidden files are not read as data


@dataclass
class Flags:
    """Download text to pretrain on, as shards; the last one is for validation. Run it again to resume."""

    EXAMPLE: ClassVar = "--dataset fineweb-edu --num_shards 8"

    dataset: str = "fineweb-edu"
    """dataset to download: fineweb-edu, climbmix, or ORG/NAME on the hub with a text column"""
    num_shards: Annotated[int, alias("-n")] = -1
    """number of training shards (or files, for other datasets), besides the one for validation; -1: all"""
    workers: Annotated[int, alias("-w")] = 4
    """number of files to fetch at a time"""
    dry_run: bool = False
    """print the size only, download nothing"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)

    from scripts import _hub_text as hub_text  # slow to import, so not before the flags are known

    hub_text.check_workers(flags.workers)
    if flags.num_shards < 1 and flags.num_shards != -1:
        raise UserError(f"--num_shards is {flags.num_shards}; expected 1 or more, or -1 for all")
    repo = hub_text.REPOSITORIES.get(flags.dataset, flags.dataset)
    if "/" not in repo:
        known = ", ".join(hub_text.REPOSITORIES)
        raise UserError(f"--dataset {repo!r} is unknown; expected {known}, or ORG/NAME on the hub")
    name = flags.dataset if flags.dataset in hub_text.REPOSITORIES else hub_text.dataset_name(repo)
    listing = hub_text.look(repo)
    published = sorted((file for file in listing.files if SHARD.fullmatch(file.path)), key=lambda file: file.path)
    if len(published) > 1:
        _bring(flags, replace(listing, files=tuple(published)), name)
    else:
        _convert(flags, hub_text.select(listing), name)


def _bring(flags: Flags, published: "Listing", name: str) -> None:
    """Fetch shards as they are."""
    from nanochat import hub
    from nanochat.data import shards

    *train, val = published.files
    count = len(train) if flags.num_shards == -1 else flags.num_shards
    if count > len(train):
        raise UserError(f"--num_shards is {count}, but {published.repo} has {len(train)} shards to train on")
    # Validation first, then the others in order: training can start before all have arrived.
    chosen, folder = replace(published, files=(val, *train[:count])), dataset_dir(name)
    is_recorded = _check_ours(published, folder)
    if flags.dry_run:
        what = f"{count} of {len(train)} shards and the validation shard"
        _announce(chosen, what, hub.missing(chosen, folder), folder)
        return
    if not is_recorded:
        hub.check_space(hub.missing(chosen, folder), folder, f"fetching {published.repo}")
        write_text(folder / RECORD, json.dumps({"repository": published.repo}) + "\n")
    hub.bring(chosen, folder, flags.workers)
    print(f"{count} shards to train on and {val.path} for validation are in {folder}")
    print(shards.how_to_train(name))


def _check_ours(published: "Listing", folder: Path) -> bool:
    """Whether the folder is recorded as holding these shards. Raises UserError if it holds others.

    An unrecorded folder may hold shards that are the published ones byte for byte, downloaded by other programs.
    """
    from nanochat import hub

    recorded = _recorded(folder)
    if recorded == {"repository": published.repo}:
        return True
    if recorded is not None:
        raise UserError(
            f"{folder} holds shards made earlier from {recorded.get('repository')}, and those of {published.repo} "
            "would replace them; move it away first"
        )
    files = {file.path: file for file in published.files}
    for shard in sorted(folder.glob("*.parquet")):
        if shard.name not in files or not hub.is_here(files[shard.name], shard):
            raise UserError(f"{folder} holds {shard.name}, which is not from {published.repo}; move it away first")
    return False


def _recorded(folder: Path) -> dict | None:
    """The record of where a folder's shards come from; None without one, or if no shards are left."""
    path = folder / RECORD
    if not path.exists() or all(entry.name.startswith(".") for entry in folder.iterdir()):
        return None
    return read_json(path, "delete it")


def _convert(flags: Flags, listing: "Listing", name: str) -> None:
    """Turn the text in files of another layout into shards."""
    from nanochat import hub
    from nanochat.data import shards
    from nanochat.data.documents import documents
    from scripts import _hub_text as hub_text

    if flags.num_shards != -1:
        listing = replace(listing, files=listing.files[: flags.num_shards])
    folder = dataset_dir(name)
    if flags.dry_run:
        _announce(listing, f"{len(listing.files)} files", hub.missing(listing), hub.cache())
        print(f"  shards    about as much again in {folder}")
        return
    record = {"repository": listing.repo, "files": {file.path: file.digest for file in listing.files}}
    if _recorded(folder) == record:
        print(f"the text of these {len(listing.files)} files is in {folder} already; {shards.how_to_train(name)}")
        return
    remedy = f"it is not made of these {len(listing.files)} files of {listing.repo}, so move it away first"
    shards.check_replaceable(folder, remedy=remedy)
    texts = documents(hub_text.bring(listing, "text", flags.workers), "text", [])
    written = shards.write_shards(
        texts, folder, beside=lambda draft: write_text(draft / RECORD, json.dumps(record) + "\n")
    )
    print(written.summary())
    print(f"written to {folder}; the files they come from remain in the hub's cache, {hub.cache()}")
    print(shards.how_to_train(name))


def _announce(listing: "Listing", what: str, missing: int, place: Path) -> None:
    """Print how much there is to fetch, and the free space."""
    from nanochat import hub

    print(f"{listing.repo}: {what}, {hub.in_bytes(listing.size)}")
    print(f"  to fetch  {hub.in_bytes(missing)} into {place}")
    print(f"  free      {hub.in_bytes(hub.free(place))}")


if __name__ == "__main__":
    run(main)
