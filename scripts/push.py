"""Upload a checkpoint to the hub, with a page that says what it is."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePath
from typing import Annotated, Literal

from nanochat import hub, report
from nanochat.checkpoint import door, legacy, manager, repository
from nanochat.checkpoint.repository import Place
from nanochat.config import UserError, parse, positional, run
from nanochat.log import duration, short
from nanochat.paths import SOURCES, checkpoints_dir, write_text


@dataclass
class Flags:
    """Upload a checkpoint to the hub: the model, its description, its tokenizer, and a page made from the report."""

    source: Annotated[Literal["base", "mid", "sft", "rl"], positional]
    """the stage"""
    repo: Annotated[str, positional]
    """the repository, user/name; it is made if need be"""
    tag: str | None = None
    """which model of the stage; default: the largest"""
    step: int | None = None
    """which of its checkpoints; default: the last"""
    softcap: float | None = None
    """of the original's checkpoints of early 2026, which do not tell theirs: 20 from March on; default: 15"""
    private: bool = False
    """make a repository that only you can see"""
    license: str = ""
    """what the page says others may do with it, such as mit or apache-2.0"""
    with_optimizer: bool = False
    """upload the state of the optimizer, too, with which training can be resumed"""
    dry_run: bool = False
    """print the page and what would be uploaded"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.repo.count("/") != 1:
        raise UserError(f"{flags.repo!r} is no repository's name; expected user/name")
    if not re.fullmatch(r"[\w.-]*", flags.license):
        raise UserError(f"--license {flags.license!r} is no license's name; expected one such as mit")
    loaded = door.open(flags.source, tag=flags.tag, step=flags.step)
    place = Place(flags.source, loaded.tag, loaded.step)
    if loaded.note:
        print(f"{place}: {loaded.note}")
    page = card(loaded, place, flags)
    files = {f"model_{loaded.step:06d}.pt"}
    if flags.with_optimizer:
        states = {path.name for path in loaded.folder.glob(f"optim_{loaded.step:06d}_rank*.pt")}
        if not states:
            raise UserError(f"{loaded.folder} has no optimizer of step {loaded.step}; leave out --with_optimizer")
        files |= states
    with tempfile.TemporaryDirectory(prefix="nanochat-push-") as folder:
        stage(Path(folder), loaded, described(loaded, place, flags.softcap), page, sorted(files))
        if flags.dry_run:
            print(page)
            for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                print(f"{hub.in_bytes(path.stat().st_size):>8}  {path.relative_to(folder)}")
            return
        address = hub.upload(flags.repo, Path(folder), flags.private, f"Upload {place}")
    print(f"{place} is at {address}; others get it with\n  python -m scripts.pull {flags.repo}")


def stage(folder: Path, loaded: manager.Loaded, meta: Mapping, page: str, files: Sequence[str]) -> None:
    """Fill a folder with what is uploaded; large files are links."""
    for name in files:
        os.symlink(loaded.folder.absolute() / name, folder / name)
    write_text(folder / f"meta_{loaded.step:06d}.json", json.dumps(meta, indent=2))
    loaded.tokenizer.save(folder / "tokenizer")
    if (manager.tokenizer_folder(loaded.folder) / manager.LENGTHS).exists():
        manager.save_lengths(folder / "tokenizer", loaded.tokenizer)
    write_text(folder / "README.md", page)


def described(loaded: manager.Loaded, place: Place, softcap: float | None) -> dict:
    """The meta file with its stage and a softcap that was chosen, and without the folders that the data lay in."""
    chosen = {}
    if softcap is not None:
        config, state = loaded.meta["model_config"], loaded.model.state_dict()
        chosen["model_config"] = legacy.with_softcap(config, state, softcap, loaded.folder)

    def plain(value: object, name: str = "") -> object:
        if isinstance(value, Mapping):
            return {key: plain(item, key) for key, item in value.items()}
        if isinstance(value, list) and name == "data_path":
            return [PurePath(str(item)).name for item in value]
        return value

    return {**{key: plain(value, key) for key, value in loaded.meta.items()}, **chosen, "source": place.source}


def card(loaded: manager.Loaded, place: Place, flags: Flags) -> str:
    """The repository's page: what the model is, how to use it, what it was trained on, what it scores."""
    front = ["library_name: nanochat", "pipeline_tag: text-generation", "tags:", "- nanochat", f"- {place.source}"]
    front += [f"license: {flags.license}"] if flags.license else []
    pulled = repository.Place(place.source, repository.tag_of(flags.repo), place.step)
    lines = [f"python -m scripts.pull {flags.repo}", *repository.commands(pulled, loaded.tokenizer)]
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {flags.repo.rpartition('/')[2]}",
        f"The {place.source} stage of a {repository.describe(loaded)}. Step {loaded.step}.",
        chapter("Use", "\n".join(["With nanochat:", "", "```bash", *lines, "```"])),
        chapter("Training", table(["stage", "data", "steps", "tokens", "time"], training(loaded.meta, place))),
        chapter("Scores", table(["measured", "result"], scores(loaded.meta, place))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def training(meta: Mapping, place: Place) -> list[list[str]]:
    """A row a stage, from the first whose checkpoint is still here to this one."""
    rows = []
    for source, about in lineage(meta, place):
        config, state = about.get("user_config") or {}, about.get("loop_state") or {}
        tokens = about.get("total_batch_size") or config.get("total_batch_size")
        seconds = state.get("seconds") or state.get("total_training_time")
        steps = about.get("step", 0)
        figures = [short(steps), short(steps * tokens) if tokens else "", duration(seconds) if seconds else ""]
        rows.append([source, ", ".join(data_of(source, {**config, **about})), *figures])
    return rows


def lineage(meta: Mapping, place: Place) -> list[tuple[str, Mapping]]:
    """The stages that led to a checkpoint, each with its meta file, as far back as they can be followed."""
    found = [(place.source, meta)]
    while (parent := found[0][1].get("parent")) and parent.get("source") in SOURCES and len(found) < len(SOURCES):
        folder = checkpoints_dir(parent["source"]) / str(parent.get("tag"))
        if parent.get("step") not in manager.steps(folder):
            break
        found.insert(0, (parent["source"], manager.read_meta(folder, parent["step"])))
    return found


def data_of(source: str, about: Mapping) -> list[str]:
    """What a stage was trained on: names only, never the folders of somebody's disk."""
    has_text = source == "base" or about.get("text_share")
    said = [about.get("dataset")] if has_text else []
    if source != "base":
        said += [about.get("conversations"), *(PurePath(str(path)).name for path in about.get("data_path") or [])]
    return [str(name) for name in said if name and name != "none"]


def scores(meta: Mapping, place: Place) -> list[list[str]]:
    """What was measured of this very checkpoint: by its stage while it trained, then by the evaluations."""
    rows = [[name, f"{value:.4g}"] for name, value in measured(meta)]
    for name, section in report.sections().items():
        if "eval" not in name or (section.get("source"), section.get("tag"), section.get("step")) != astuple(place):
            continue
        bpb = {key: section.get(key) for key in ("train_bpb", "val_bpb")}
        rows += [[f"{key} ({name})", f"{value:.4f}"] for key, value in bpb.items() if isinstance(value, float)]
        for task, result in (section.get("tasks") or {}).items():
            low, high = result["interval"]
            share = f"{100 * result['correct'] / result['n']:.1f} %" if result["n"] else "–"
            rows.append([task, f"{share} of {result['n']} (95 % interval {100 * low:.0f}–{100 * high:.0f})"])
    return rows


def measured(meta: Mapping) -> Iterable[tuple[str, float]]:
    """The scores in a meta file of ours or of the original."""
    for name, value in meta.items():
        is_score = name in ("val_bpb", "val_loss") or name.endswith("_acc") or name.startswith("accuracy/")
        if is_score and isinstance(value, (int, float)):
            yield f"{name} (validation)", value


def chapter(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of markdown; nothing where there are none."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    run(main)
