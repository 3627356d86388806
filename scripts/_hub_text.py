"""Text datasets on the hub: which of their files hold a split, and downloading them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from nanochat import hub
from nanochat.data.documents import documents
from nanochat.data.files import KINDS, PACKED
from nanochat.errors import UserError
from nanochat.paths import DEFAULT_DATASET

# Datasets that are published as shards, by the names they have in nanochat.
REPOSITORIES = {"fineweb-edu": "karpathy/fineweb-edu-100b-shuffle", "climbmix": "karpathy/climbmix-400b-shuffle"}

READABLE = (".parquet", ".jsonl", ".txt")
CONVERTED = "refs/convert/parquet"
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "eval", "test", "testing"}


def is_repository(name: str) -> bool:
    """Whether a name looks like ORG/NAME rather than a path, even one that does not exist."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or name.lower().endswith((*KINDS, *PACKED, ".txt")):
        return False
    return not Path(name).exists() and not Path(name).parent.is_dir()


def dataset_name(repo: str) -> str:
    """The local name of a hub dataset: its own name, with the owner's if that name is taken by another dataset."""
    name = repo.rpartition("/")[2]
    return repo.replace("/", "-") if name in (*REPOSITORIES, DEFAULT_DATASET) else name


def check_workers(workers: int) -> None:
    """Raise UserError unless --workers is positive."""
    if workers < 1:
        raise UserError(f"--workers is {workers}; expected 1 or more")


def look(repo: str) -> hub.Listing:
    """All files of a dataset that can hold text; if it has none, those of the hub's automatic parquet copy.

    Raises what `hub.look` raises, and UserError if there is no such copy either.
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
        found, kinds = _some(file.path for file in whole.files), ", ".join(READABLE)
        raise UserError(f"{repo} holds no {kinds} and the hub no copy of it as parquet; it holds {found}") from error


def select(whole: hub.Listing, config: str | None = None, split: str = "train") -> hub.Listing:
    """The files that hold a split of a configuration, sorted by name.

    Takes parquet files if there are any, else JSONL, else text. Configurations and splits are those of the dataset's
    card; if that says nothing, words in the files' paths decide. Raises UserError for unknown ones.
    """
    suffix = next(each for each in READABLE if any(file.path.endswith(each) for file in whole.files))
    paths = sorted(file.path for file in whole.files if file.path.endswith(suffix))
    chosen = _of_split(whole.repo, _of_config(whole.repo, paths, whole.card, config), split)
    files = sorted(whole.files, key=lambda file: file.path)
    return replace(whole, files=tuple(file for file in files if file.path in chosen))


def bring(listing: hub.Listing, column: str, workers: int = 1) -> list[Path]:
    """Download the files of a listing into the hub's cache. Raises what `hub.bring` raises.

    The first file is fetched and read before the others, so that a mistyped column costs no more than that.
    """
    folder = hub.bring(replace(listing, files=listing.files[:1]), revision=listing.commit)
    next(documents([folder / listing.files[0].path], column, []), None)
    hub.bring(listing, workers=workers, revision=listing.commit)
    return [folder / file.path for file in listing.files]


def _converted(listing: hub.Listing) -> hub.Listing:
    """The hub's parquet copy, CONFIG/SPLIT/0000.parquet, with a card that says so; large splits may be partial."""
    configs: dict[str, dict[str, str]] = {}
    for file in listing.files:
        config, split, _ = file.path.split("/", 2)
        configs.setdefault(config, {})[split.removeprefix("partial-")] = f"{config}/{split}/*"
    return replace(listing, card={"configs": [{"config_name": c, "data_files": each} for c, each in configs.items()]})


def _of_config(repo: str, paths: Sequence[str], card: dict, config: str | None) -> dict[str, list[str]]:
    """The paths of a configuration by split if the card describes them, else all of them under ""."""
    entries = {str(each["config_name"]): each for each in _dicts(card.get("configs")) if "config_name" in each}
    if config is None and entries:
        preferred = [name for name, entry in entries.items() if entry.get("default") or name == "default"]
        if not preferred and len(entries) > 1:
            raise UserError(f"{repo} has several configurations; choose one with --config: {_some(entries)}")
        config = next(iter(preferred or entries))
    if config in entries:
        splits = _data_files(entries[config].get("data_files"))
        found = {split: [path for path in paths if any(fnmatch(path, each) for each in patterns)]
                 for split, patterns in splits.items()}  # fmt: skip
        if any(found.values()):
            return found
    if config in (None, "default"):
        return {"": list(paths)}
    folders = {path: f"/{PurePosixPath(path).parent}/" for path in paths}
    within = [path for path in paths if f"/{config}/" in folders[path]]
    if not within:
        known = entries or dict.fromkeys(sorted({folder.strip("/") for folder in folders.values()}))
        raise UserError(f"{repo} has no configuration {config!r}; it has {_some(known)}")
    return {"": within}


def _data_files(entry: object) -> dict[str, list[str]]:
    """The patterns of each split, which a card gives as one pattern, a list of them, or either of these per split."""
    if isinstance(entry, dict):
        entry = [{"split": split, "path": path} for split, path in entry.items()]
    elif entry and not _dicts(entry):
        entry = [{"path": entry}]
    found = {}
    for each in _dicts(entry):
        patterns = each.get("path") or []
        patterns = [patterns] if isinstance(patterns, str) else patterns
        found[str(each.get("split", "train"))] = [str(pattern).removeprefix("./") for pattern in patterns]
    return found


def _dicts(entry: object) -> list[dict]:
    return [each for each in entry if isinstance(each, dict)] if isinstance(entry, list) else []


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
