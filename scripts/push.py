"""Upload a checkpoint to the hub or an object store, with a page that describes it."""

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from nanochat import hub
from nanochat.config import parse, positional
from nanochat.data.stores import Remote
from nanochat.data.urls import is_url
from nanochat.errors import UserError, run
from nanochat.paths import SOURCES, checkpoints_dir, write_text
from scripts import _repository as repository
from scripts import _store
from scripts._repository import Place

if TYPE_CHECKING:
    from nanochat.checkpoint.manager import Loaded

# The part of a meta file that becomes public; everything else (folders, machine, accounts, anything recorded in future)
# stays here. FIGURES, and TABLES of them, keep only numbers and digests; NAMES lose the folders in front.
FIGURES = ("format", "step", "tokenizer_hash", "seed", "device_batch_size", "total_batch_size", "max_seq_len",
           "text_share")  # fmt: skip
TABLES = ("files", "user_config", "loop_state", "dataloader_state_dict")
NAMES = ("dataset", "conversations", "data_path")


@dataclass
class Flags:
    """Upload a checkpoint: the model, its description, its tokenizer, and a page made from the report."""

    EXAMPLE: ClassVar = "sft my-name/my-model --tag d3"

    source: Annotated[Literal["base", "mid", "sft", "dpo", "rl"], positional]
    """stage of the checkpoint"""
    repo: Annotated[str, positional]
    """repository to upload to, user/name, created if it does not exist; or a folder of an object store (s3://...)"""
    tag: str | None = None
    """tag of the model; default: the deepest d<number>"""
    step: int | None = None
    """step of the checkpoint; default: the last"""
    private: bool = False
    """make a repository that only you can see"""
    license: str = ""
    """license to name on the page, such as mit or apache-2.0"""
    with_optimizer: bool = False
    """also upload the optimizer state"""
    dry_run: bool = False
    """print what would become public, and upload nothing"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    flags.repo = flags.repo.removeprefix("hf://")
    store = Remote(flags.repo.rstrip("/")) if is_url(flags.repo) else None
    if store is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", flags.repo):
        raise UserError(f"{flags.repo!r} is not a repository name; expected user/name, or a URL such as s3://bucket/d3")
    if store and flags.private:
        raise UserError(f"--private is for the hub; who may read {store} is decided by the store, so leave it out")
    if not re.fullmatch(r"[\w.-]*", flags.license):
        raise UserError(f"--license {flags.license!r} is not a license name; expected one such as mit")
    from nanochat.checkpoint import door, manager

    found = door.find(flags.source, flags.tag, flags.step)
    if "lora" in found.meta:
        name = shlex.quote(f"{found.source}:{found.tag}:{found.step}")
        raise UserError(f"{found} is an adapter, which needs its parent; make one model of them first: python -m "
                        f"scripts.merge --source {name}")  # fmt: skip
    loaded = found.load()
    place = Place(flags.source, loaded.tag, loaded.step)
    if loaded.note:
        print(f"{place}: {loaded.note}")
    meta = {**loaded.meta, "source": place.source} if store else public(loaded.meta, place.source)
    page = card(loaded, meta, place, flags)
    files = {f"model_{loaded.step:06d}.pt"}
    if flags.with_optimizer:
        states = manager.state_files(loaded.step, loaded.meta)
        if not all((loaded.folder / name).exists() for name in states):
            raise UserError(f"{loaded.folder} has no optimizer of step {loaded.step}; leave out --with_optimizer")
        files |= {*states}
    with tempfile.TemporaryDirectory(prefix="nanochat-push-") as folder:
        stage(Path(folder), loaded, meta, page, sorted(files))
        if not store or flags.dry_run:
            show(Path(folder), loaded.meta, flags)
        if flags.dry_run:
            return
        address = str(store)
        if store:
            _store.send(Path(folder), store, loaded.meta.get("files") or {})
        else:
            address = hub.upload(flags.repo, Path(folder), flags.private, f"Upload {place.source}, step {place.step}")
    pull = f"python -m scripts.pull {flags.repo}" + (" --with_optimizer" if store and flags.with_optimizer else "")
    print(f"{place} is at {address}; others get it with\n  {pull}")


def show(folder: Path, whole: Mapping, flags: Flags) -> None:
    """Print what becomes public: the texts, the files with sizes, and the keys of the meta file that stay here."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (meta,) = folder.glob("meta_*.json")
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"{meta.name}:\n{meta.read_text(encoding='utf-8')}")
    if kept := sorted(str(name) for name in whole.keys() - json.loads(meta.read_text(encoding="utf-8")).keys()):
        print(f"not uploaded from the meta file: {', '.join(kept)}")
    who = "" if is_url(flags.repo) else " (private)" if flags.private else " (public)"
    print(f"\n{flags.repo}{who} gets")
    for path in files:
        print(f"{hub.in_bytes(path.stat().st_size):>8}  {path.relative_to(folder)}", flush=True)


def stage(folder: Path, loaded: "Loaded", meta: Mapping, page: str, files: Sequence[str]) -> None:
    """Fill a folder with what is uploaded; large files are links."""
    from nanochat.checkpoint import manager

    recorded = meta.get("files") or {}
    meta = {**meta, "files": {name: recorded[name] for name in files if name in recorded}}
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        os.symlink(loaded.folder.absolute() / name, folder / name)
    manager.write_meta(folder / f"meta_{loaded.step:06d}.json", dict(meta))
    loaded.tokenizer.save(folder / "tokenizer")
    if (manager.tokenizer_folder(loaded.folder) / manager.LENGTHS).exists():
        manager.save_lengths(folder / "tokenizer", loaded.tokenizer)
    write_text(folder / "README.md", page)


def public(meta: Mapping, source: str) -> dict:
    """The part of a checkpoint's meta file that others need and may see; source is its stage."""
    kept: dict = {key: figures(meta[key]) for key in FIGURES if key in meta}
    kept |= {key: figures(meta[key]) for key in TABLES if isinstance(meta.get(key), Mapping)}
    kept |= {**named(meta), **dict(measured(meta))}
    if "user_config" in kept:
        kept["user_config"] |= named(meta["user_config"])
    if isinstance(parent := meta.get("parent"), Mapping):
        kept["parent"] = figures({key: parent.get(key) for key in ("step", "sha256")})
        kept["parent"] |= {key: bare(parent[key]) for key in ("source", "tag") if key in parent}
    return {**kept, "model_config": meta.get("model_config"), "source": source}


def figures(value: object) -> Any:
    """Numbers (also as `strict_json` writes them), booleans and digests, alone or in lists and mappings.

    None in place of any other value.
    """
    if isinstance(value, Mapping):
        plain = {key: figures(value[key]) for key in value if re.fullmatch(r"(accuracy/)?[\w. -]+", str(key))}
        return {key: item for key, item in plain.items() if item is not None or value[key] is None}
    if isinstance(value, list):
        items = [figures(item) for item in value]
        return items if items.count(None) == value.count(None) else None
    is_figure = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}|NaN|-?Infinity", value)
    return value if is_figure or isinstance(value, (bool, int, float)) else None


def named(about: Mapping) -> dict:
    """The names of the training data, without their folders."""
    there = {key: about[key] for key in NAMES if about.get(key)}
    return {key: list(map(bare, name)) if isinstance(name, list) else bare(name) for key, name in there.items()}


def bare(name: object) -> str:
    """A name without the folders in front of it, with any system's separators."""
    return re.split(r"[/\\]", str(name).rstrip("/\\"))[-1]


def card(loaded: "Loaded", meta: Mapping, place: Place, flags: Flags) -> str:
    """The repository's page: what the model is, how to use it, what it was trained on, what it scores."""
    from tasks.catalog import recipe_of

    front = ["library_name: nanochat", "pipeline_tag: text-generation", "tags:", "- nanochat", f"- {place.source}"]
    front += [f"license: {flags.license}"] if flags.license else []
    pulled = repository.Place(place.source, repository.tag_of(flags.repo), place.step)
    then = repository.commands(pulled, loaded.tokenizer, recipe_of(dict(meta)))
    lines = [f"python -m scripts.pull {shlex.quote(flags.repo)}", *then]
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {flags.repo.rpartition('/')[2]}",
        f"The {place.source} stage of a {repository.describe(loaded)}. Step {loaded.step}.",
        chapter("Use", "\n".join(["With nanochat:", "", "```bash", *lines, "```"])),
        chapter("Training", table(["stage", "data", "steps", "tokens", "time"], training(meta, place))),
        chapter("Scores", table(["measured", "result"], scores(meta, place))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def training(meta: Mapping, place: Place) -> list[list[str]]:
    """A row per stage, from the first whose checkpoint is still here to this one."""
    from nanochat.log import duration, short

    rows = []
    for source, about in lineage(meta, place):
        config, state = about.get("user_config") or {}, about.get("loop_state") or {}
        tokens = about.get("total_batch_size") or config.get("total_batch_size")
        seconds = state.get("seconds") or state.get("total_training_time")
        steps = about.get("step", 0)
        sizes = [short(steps), short(steps * tokens) if tokens else "", duration(seconds) if seconds else ""]
        rows.append([source, ", ".join(data_of(source, {**config, **about})), *sizes])
    return rows


def lineage(meta: Mapping, place: Place) -> list[tuple[str, Mapping]]:
    """The stages that led to a checkpoint, each with its meta file, as far back as they can be followed."""
    from nanochat.checkpoint import manager

    found = [(place.source, meta)]
    while (parent := found[0][1].get("parent")) and parent.get("source") in SOURCES and len(found) < len(SOURCES):
        folder = checkpoints_dir(parent["source"]) / str(parent.get("tag"))
        if parent.get("step") not in manager.steps(folder):
            break
        found.insert(0, (parent["source"], public(manager.read_meta(folder, parent["step"]), parent["source"])))
    return found


def data_of(source: str, about: Mapping) -> list[str]:
    """What a stage was trained on."""
    known, has_text = named(about), source == "base" or about.get("text_share")
    names = [known.get("dataset")] if has_text else []
    if source != "base":
        names += [known.get("conversations"), *(known.get("data_path") or [])]
    return [str(name) for name in names if name and name != "none"]


def scores(meta: Mapping, place: Place) -> list[list[str]]:
    """The measurements of this very checkpoint: by its stage during training, then by the evaluations."""
    from nanochat.report.sections import read_sections

    rows = [[f"{name} (validation)", f"{value:.4g}"] for name, value in measured(meta)]
    for name, section in read_sections().items():
        if "eval" not in name or (section.get("source"), section.get("tag"), section.get("step")) != astuple(place):
            continue
        bpb = {key: section.get(key) for key in ("train_bpb", "val_bpb")}
        rows += [[f"{key} ({name})", f"{value:.4f}"] for key, value in bpb.items() if isinstance(value, float)]
        for task, result in (section.get("tasks") or {}).items():
            low, high = result["interval"]
            percent = f"{100 * result['correct'] / result['n']:.1f} %" if result["n"] else "–"
            rows.append([task, f"{percent} of {result['n']} (95 % interval {100 * low:.0f}–{100 * high:.0f})"])
    return rows


def measured(meta: Mapping) -> Iterable[tuple[str, float]]:
    """The scores in a meta file of ours or of the original."""
    for name, value in meta.items():
        is_score = re.fullmatch(r"val_bpb|val_perplexity|val_loss|best_val_loss|\w+_acc|accuracy/[\w -]+", name)
        if is_score and isinstance(value, (int, float)):
            yield name, value


def chapter(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    run(main)
