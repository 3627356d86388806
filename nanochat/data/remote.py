"""Datasets of the hub that hold text in files of any layout: which files are meant, and bringing them here."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from nanochat import hub
from nanochat.data.documents import documents
from nanochat.data.files import KINDS, PACKED
from nanochat.data.shards import DEFAULT_DATASET
from nanochat.errors import UserError

# Datasets that are published as shards, by the names they have here.
REPOSITORIES = {"fineweb-edu": "karpathy/fineweb-edu-100b-shuffle", "climbmix": "karpathy/climbmix-400b-shuffle"}

READABLE = (".parquet", ".jsonl", ".txt")
CONVERTED = "refs/convert/parquet"
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing"}


def is_repository(name: str) -> bool:
    """Whether a name can be that of a repository, and is not more likely that of a file which is missing."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or name.lower().endswith((*KINDS, *PACKED, ".txt")):
        return False
    return not Path(name).exists() and not Path(name).parent.is_dir()


def dataset_name(repo: str) -> str:
    """What a repository's dataset is called here: its own name, with the owner's where that is another dataset's."""
    name = repo.rpartition("/")[2]
    return repo.replace("/", "-") if name in (*REPOSITORIES, DEFAULT_DATASET) else name


def check_workers(workers: int) -> None:
    """Raise UserError where --workers is not a number of files that can be fetched at a time."""
    if workers < 1:
        raise UserError(f"--workers is {workers}; expected 1 or more")


def look(repo: str) -> hub.Listing:
    """All files of a dataset that could hold text; of one without any those of the copy that the hub makes as parquet.

    Raises what `hub.look` raises, and UserError where there is no such copy either.
    """
    whole = hub.look(repo, ["*"], kind="dataset")
    files = tuple(file for file in whole.files if file.path.endswith(READABLE))
    if files:
        return replace(whole, files=files)
    try:
        return _converted(hub.look(repo, ["*/*/*.parquet"], CONVERTED, "dataset"))
    except hub.Unreachable:
        raise
    except UserError as error:
        there = _some(file.path for file in whole.files)
        kinds = ", ".join(READABLE)
        raise UserError(f"{repo} holds no {kinds} and the hub no copy of it as parquet; it holds {there}") from error


def select(whole: hub.Listing, config: str | None = None, split: str = "train") -> hub.Listing:
    """The files of a listing with a split of a configuration, in order of their names.

    Of parquet, JSONL and text files the first kind that there are any of. What the dataset's card says of its
    configurations and splits holds; where it says nothing, the words in the files' paths. Raises UserError for a
    configuration or split that is not there.
    """
    suffix = next(each for each in READABLE if any(file.path.endswith(each) for file in whole.files))
    paths = sorted(file.path for file in whole.files if file.path.endswith(suffix))
    chosen = _of_split(whole.repo, _of_config(whole.repo, paths, whole.card, config), split)
    files = {file.path: file for file in whole.files}
    return replace(whole, files=tuple(files[path] for path in sorted(chosen)))


def bring(listing: hub.Listing, column: str, workers: int = 1) -> list[Path]:
    """The files of a listing, in the hub's cache. Raises what `hub.bring` raises.

    The first is brought first and looked at, so that a mistyped column costs no more than that.
    """
    folder = hub.bring(replace(listing, files=listing.files[:1]), revision=listing.commit)
    next(documents([folder / listing.files[0].path], column, []), None)
    hub.bring(listing, workers=workers, revision=listing.commit)
    return [folder / file.path for file in listing.files]


def _converted(listing: hub.Listing) -> hub.Listing:
    """The hub's copy, CONFIG/SPLIT/0000.parquet, with a card that says so. Of a large split it has the beginning."""
    configs: dict[str, dict[str, str]] = {}
    for file in listing.files:
        config, split, _ = file.path.split("/", 2)
        configs.setdefault(config, {})[split.removeprefix("partial-")] = f"{config}/{split}/*"
    return replace(listing, card={"configs": [{"config_name": c, "data_files": told} for c, told in configs.items()]})


def _of_config(repo: str, paths: Sequence[str], card: dict, config: str | None) -> dict[str, list[str]]:
    """The paths of a configuration, by split where the card tells; else all of them under ""."""
    entries = {str(each["config_name"]): each for each in _dicts(card.get("configs")) if "config_name" in each}
    if config is None and entries:
        preferred = [name for name, entry in entries.items() if entry.get("default") or name == "default"]
        if not preferred and len(entries) > 1:
            raise UserError(f"{repo} has several configurations; choose one with --config: {_some(entries)}")
        config = next(iter(preferred or entries))
    if config is not None and config in entries:
        found = {
            split: [path for path in paths if any(fnmatch(path, pattern) for pattern in patterns)]
            for split, patterns in _data_files(entries[config].get("data_files")).items()
        }
        if any(found.values()):
            return found
    if config in (None, "default"):
        return {"": list(paths)}
    folders = {path: f"/{PurePosixPath(path).parent}/" for path in paths}
    within = [path for path in paths if f"/{config}/" in folders[path]]
    if not within:
        there = entries or dict.fromkeys(sorted({folder.strip("/") for folder in folders.values()}))
        raise UserError(f"{repo} has no configuration {config!r}; it has {_some(there)}")
    return {"": within}


def _data_files(told: object) -> dict[str, list[str]]:
    """What a card says of the files of each split: a pattern, several, or such for each split."""
    if isinstance(told, dict):
        told = [{"split": split, "path": path} for split, path in told.items()]
    elif told and not _dicts(told):
        told = [{"path": told}]
    found = {}
    for each in _dicts(told):
        patterns = each.get("path") or []
        patterns = [patterns] if isinstance(patterns, str) else patterns
        found[str(each.get("split", "train"))] = [str(pattern).removeprefix("./") for pattern in patterns]
    return found


def _dicts(told: object) -> list[dict]:
    return [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []


def _of_split(repo: str, paths: dict[str, list[str]], split: str) -> list[str]:
    if "" not in paths:
        if not paths.get(split):
            raise UserError(f"{repo} has no split {split!r}; choose one with --split: {_some(paths)}")
        return paths[split]
    words = {path: set(re.split(r"[^a-z]+", path.lower())) for path in paths[""]}
    found = [path for path in words if split.lower() in words[path]]
    if not found and split == "train":
        found = [path for path in words if not words[path] & SPLITS]
    if not found:
        raise UserError(f"{repo} has no files of the split {split!r}; it has {_some(words)}")
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
