"""How a run recognises its training data: by content, never by path, name or size.

A source describes itself by a list of entries, stored as JSON in a checkpoint's meta file. One key of each entry is
compared, and the rest is for messages:

    {"what": "the train split of base_data_mine", "shards": {"shard_00000.parquet": "ab12...", ...}, "grows": true}
    {"what": "my.jsonl", "sha256": "cd34...", "conversations": 60}
    {"what": "facts, train", "made": ["little world", 1, "facts", "train", 32000]}

The digest of a shard is that of its footer, which records the position, size and number of rows of everything inside
and, in shards written by nanochat, a hash of the text.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

COMPARED = ("shards", "sha256", "files", "made", "part")


def of(rows: Any, what: str) -> list[dict]:
    """The entries of a sequence of JSON values: its own `contents()` if it has that, else a hash of its items."""
    if hasattr(rows, "contents"):
        return rows.contents()
    digest = hashlib.sha256()
    for number in range(len(rows)):
        digest.update(json.dumps(rows[number], sort_keys=True).encode() + b"\n")
    return [{"what": what, "sha256": digest.hexdigest(), "conversations": len(rows)}]


def changed(before: Sequence[dict], now: Sequence[dict]) -> str | None:
    """What changed since a run read its data, as a clause to print; None if nothing did.

    Shards that were appended to a split that may grow do not count as a change.
    """
    if len(before) != len(now) or any(_kind(old) != _kind(new) for old, new in zip(before, now, strict=True)):
        return f"this run was trained on {_listed(before)}, and its data is now {_listed(now)}"
    phrases = (_changed_entry(old, new, now) for old, new in zip(before, now, strict=True))
    return next((phrase for phrase in phrases if phrase), None)


def _kind(entry: dict) -> list[str]:
    return [name for name in COMPARED if name in entry]


def _listed(entries: Sequence[dict]) -> str:
    names = list(dict.fromkeys(str(entry.get("what")) for entry in entries))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _changed_entry(old: dict, new: dict, now: Sequence[dict]) -> str | None:
    if "shards" in old:
        return _changed_shards(old, new, now)
    if all(old[name] == new[name] for name in _kind(old)):
        return None
    if old.get("sha256") == new.get("sha256") and old.get("made") == new.get("made") and "part" in old:
        return f"{new['what']} was used for {old['part']} and is now used for {new['part']}"
    if "sha256" in old and old["what"] == new["what"]:
        counts = [entry.get("conversations") for entry in (old, new)]
        sizes = f" ({counts[0]} conversations then, {counts[1]} now)" if counts[0] != counts[1] else ""
        return f"{new['what']} has other contents{sizes}"
    if old["what"] == new["what"]:
        return f"{new['what']} differs from what this run read"
    return f"{new['what']} replaces {old['what']}, which this run was trained on"


def _changed_shards(old: dict, new: dict, now: Sequence[dict]) -> str | None:
    was, there = list(old["shards"].values()), list(new["shards"].values())
    if there == was or new.get("grows") and there[: len(was)] == was:
        return None
    names, new_names, what = list(old["shards"]), list(new["shards"]), new["what"]
    if not new.get("grows"):  # the validation split: the last shard, whichever that is
        training = {digest for entry in now if entry.get("grows") for digest in entry["shards"].values()}
        if set(was) & training:
            return f"{new_names[-1]} comes after {names[-1]}, which was for validation and would now be trained on"
    if missing := [name for name, digest in zip(names, was, strict=True) if digest not in there]:
        if len(there) == len(was):
            return f"{missing[0]} is not the shard that this run read there ({what})"
        return f"{missing[0]} is missing or changed ({what}: {len(was)} shards when this run read it, {len(there)} now)"
    if len(there) > len(was):
        place = next(n for n, digest in enumerate(there) if n >= len(was) or digest != was[n])
        return f"{new_names[place]} was put between the shards that this run read ({what})"
    return f"the shards are in another order than when this run read them ({what})"
