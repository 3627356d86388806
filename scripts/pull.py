"""Download a model from the hub or an object store and put it where the stages find it."""

import contextlib
import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from nanochat import foreign_tokenizers, hub
from nanochat.checkpoint import stages
from nanochat.config import changes, named, parse, positional
from nanochat.data.stores import Remote
from nanochat.data.urls import is_url
from nanochat.errors import UserError, run
from nanochat.paths import alone_in, base_dir, check_tag, fsync_folder, sha256, tokenizer_dir, write_atomically
from scripts import _repository as repository
from scripts import _store
from scripts._repository import Place

# The two folders of a draft: what is downloaded, and what is complete and only waits for its check.
FILES, READY = "files", "ready"


@dataclass
class Flags:
    """Download a model, check it, and put it where the stages find it. Resumes an interrupted download."""

    EXAMPLE: ClassVar = "karpathy/nanochat-d34"

    repo: Annotated[str, positional] = ""
    """the repository, as in karpathy/nanochat-d34, or a folder of an object store (s3://...)"""
    stage: Annotated[Literal["base", "mid", "sft", "dpo", "rl"] | None, named("as")] = None
    """the stage of the checkpoint; default: inferred from its files or name"""
    tag: str | None = None
    """tag to give it here; default: d<depth> from the repository's name, else that name"""
    step: int | None = None
    """step of the checkpoint; default: the last"""
    revision: str | None = None
    """branch, tag or commit of the repository; default: the newest commit"""
    with_optimizer: bool = False
    """also fetch the optimizer state from an object store, to resume the run here"""
    dry_run: bool = False
    """print what would be downloaded, and stop"""
    softcap: float | None = None
    """logit softcap to record for original checkpoints of Jan-Mar 2026, which lack it: 15, or 20 from 3 March on"""
    set_softcap: Path | None = None
    """download nothing; record --softcap for the checkpoints in this folder, which you copied by hand"""


@dataclass(frozen=True)
class Files:
    """A repository's files: on the hub, to be downloaded into the draft, or in its cache if the hub is offline."""

    repo: str
    commit: str
    paths: list[str]
    folder: Path
    listing: hub.Listing | None

    def bring(self, paths: Sequence[str]) -> None:
        """Make sure that `folder` holds these files, complete."""
        if self.listing is not None and paths:
            wanted = tuple(file for file in self.listing.files if file.path in paths)
            hub.bring(replace(self.listing, files=wanted), self.folder)

    def has(self, path: str, place: Path) -> bool:
        """Whether `place` is a file that holds exactly what the repository has at `path`."""
        if not place.is_file():
            return False
        if self.listing is None:
            return is_same(self.folder / path, place)
        return hub.is_here(next(file for file in self.listing.files if file.path == path), place)


@dataclass(frozen=True)
class Stored(Files):
    """The files of a folder in an object store; their listing has "" as the digest of those that SHA256SUMS lacks."""

    place: Remote

    def bring(self, paths: Sequence[str]) -> None:
        """Make sure that `folder` holds these files, complete."""
        for path in paths:
            file = self._listed(path)
            hub.check_space(file.size, self.folder, f"fetching {path}")
            _store.receive(self.place / path, file.size, file.digest, self.folder / path)

    def has(self, path: str, place: Path) -> bool:
        """Whether `place` is a file that holds exactly what the store has at `path`."""
        file = self._listed(path)
        if not place.is_file() or place.stat().st_size != file.size:
            return False
        return sha256(place) == (file.digest or _store.digest_of(self.place / path, file.size))

    def _listed(self, path: str) -> hub.RemoteFile:
        assert self.listing is not None
        return next(file for file in self.listing.files if file.path == path)


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.softcap not in (None, 15, 20):
        raise UserError(f"--softcap is {flags.softcap:g}; the checkpoints that do not record theirs have 15 or 20")
    if flags.set_softcap is not None:
        record_by_hand(flags, flags.set_softcap)
        return
    if not flags.repo:
        raise UserError("no repository is named; name one, as in python -m scripts.pull karpathy/nanochat-d34")
    if flags.tag is not None:
        check_tag("tag", flags.tag)
        if ":" in flags.tag:
            raise UserError(f"--tag {flags.tag!r} has a colon, which separates it from the step (base:d3:700)")
    flags.repo = flags.repo.removeprefix("hf://")
    if is_url(flags.repo):
        store = Remote(flags.repo.rstrip("/"))
        draft = base_dir() / ".pull" / f"{store.name}-{hashlib.sha256(store.url.encode()).hexdigest()[:12]}"
        files: Files = look_in(store, flags, draft / FILES)
    else:
        draft = base_dir() / ".pull" / flags.repo.replace("/", "--")
        files = look(flags.repo, flags.revision, draft / FILES)
    chosen = choose(files.paths, flags)
    if flags.dry_run:
        announce(files, chosen)
        return
    with alone_in(draft):
        pull(files, draft, chosen, flags)
        shutil.rmtree(draft, ignore_errors=True)
    with contextlib.suppress(OSError):  # another pull may be running
        draft.parent.rmdir()


def pull(files: Files, draft: Path, chosen: tuple[PurePosixPath, int] | None, flags: Flags) -> None:
    """Bring a model to its place, and print what it is and what comes next."""
    from nanochat.checkpoint import manager
    from tasks.catalog import recipe_of

    ready = draft / READY
    shutil.rmtree(ready, ignore_errors=True)
    place = take_over(files, draft, chosen, flags) if chosen else convert(files, draft, flags)
    if not ready.exists():
        if flags.softcap is not None:
            repository.record_softcap(place.folder, [place.step], flags.softcap)
        print(f"{place} of {flags.repo} is already in {place.folder}")
        return
    with discarding(draft):
        loaded = manager.load_step(ready, place.tag, place.step)
    note = loaded.note.replace(shlex.quote(str(ready)), shlex.quote(str(place.folder)))
    if flags.softcap is not None:
        repository.record_softcap(ready, [place.step], flags.softcap)
        note = f"its softcap of {flags.softcap:g} is recorded"
    settle(ready, place)
    if flags.with_optimizer and not foreign_tokenizers.holds(tokenizer_dir()):  # where base_train looks for it
        loaded.tokenizer.save(tokenizer_dir())
    print(f"{place}: {repository.describe(loaded)}" + (f"; {note}" if note else ""))
    print(f"in {place.folder}; continue with")
    for command in repository.commands(place, loaded.tokenizer, recipe_of(loaded.meta)):
        print(f"  {command}")


def record_by_hand(flags: Flags, folder: Path) -> None:
    """Record --softcap for all checkpoints of a folder that do not record theirs."""
    from nanochat.checkpoint import manager

    command = f"python -m scripts.pull --set_softcap {shlex.quote(str(folder))} --softcap 20"
    if flags.softcap is None:
        raise UserError(f"--set_softcap needs the softcap, 15 or 20, as in {command}")
    if others := changes(flags).keys() - {"softcap", "set_softcap"}:
        raise UserError(f"--set_softcap downloads nothing, so leave out {', '.join(sorted(others))}: {command}")
    steps = manager.steps(folder)
    if not steps:
        raise UserError(f"--set_softcap {folder} holds no checkpoint; expected model_*.pt with meta_*.json in it")
    recorded = repository.record_softcap(folder, steps, flags.softcap)
    print(f"{folder}: a softcap of {flags.softcap:g} is recorded for step {', '.join(map(str, recorded))}")


def look_in(store: Remote, flags: Flags, into: Path) -> Stored:
    """The files of a folder in an object store. Raises UserError if there are none, or one must not be written."""
    if flags.revision is not None:
        raise UserError(f"--revision is for the hub; {store} has no revisions, so leave it out")
    sizes = store.sizes(deep=True)
    if not sizes:
        raise UserError(f"there are no files in {store}; check the URL, and which account it is read with")
    if unsafe := [path for path in sizes if not hub.is_safe(path)]:
        raise UserError(f"{store} names a file that must not be written, {unsafe[0][:80]!r}; do not use this folder")
    sums = _store.read_sums(store, sizes)
    listed = tuple(hub.RemoteFile(path, size, sums.get(path, "")) for path, size in sizes.items())
    commit = hashlib.sha256(repr(listed).encode()).hexdigest()
    return Stored(store.url, commit, list(sizes), into, hub.Listing(store.url, commit, listed), store)


def look(repo: str, revision: str | None, into: Path) -> Files:
    """The files of a repository that make up a model. Raises what `hub.look` raises."""
    folder = hub.cached(repo, revision=revision)
    try:
        listing = hub.look(repo, revision=revision, hurried=folder is not None)
    except hub.Unreachable:
        if folder is None:
            raise
        print(f"the hub cannot be reached; using {repo} from the cache")
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return Files(repo, folder.name, paths, folder, None)
    return Files(repo, listing.commit, [file.path for file in listing.files], into, listing)


def choose(paths: Sequence[str], flags: Flags) -> tuple[PurePosixPath, int] | None:
    """The folder and step of the nanochat checkpoint to pull; None if the repository holds another kind of model.

    Raises UserError where there are several to choose from, or not the requested step.
    """
    found = repository.checkpoints(paths)
    if not found:
        return None
    meant = [each for each in found if stages.layout(each[0])[0] == flags.stage] or found
    meant = [each for each in meant if stages.layout(each[0])[1] == flags.tag] or meant
    folders = {folder for folder, _ in meant}
    if len(folders) != 1:
        there = ", ".join(sorted({str(folder) for folder, _ in found}))
        raise UserError(f"{flags.repo} holds several checkpoints ({there}); choose one with --as and --tag")
    if flags.step is not None and flags.step not in [step for _, step in meant]:
        there = ", ".join(str(step) for _, step in sorted(meant))
        raise UserError(f"{flags.repo} has no checkpoint of step {flags.step}; there are: {there}")
    return max(meant) if flags.step is None else (meant[0][0], flags.step)


def names_of(inside: PurePosixPath, step: int) -> tuple[str, str]:
    """The paths of a checkpoint's model file and meta file."""
    return str(inside / f"model_{step:06d}.pt"), str(inside / f"meta_{step:06d}.json")


def take_over(files: Files, draft: Path, chosen: tuple[PurePosixPath, int], flags: Flags) -> Place:
    """Make a nanochat checkpoint READY as it is, with its tokenizer in our format, unless it is in its place already.

    Small files come first, so that most of what can be wrong is known before gigabytes are downloaded.
    """
    from nanochat.checkpoint import manager
    from nanochat.tokenizer import Tokenizer

    inside, step = chosen
    model, meta = names_of(inside, step)
    with discarding(draft):
        tokenizer_at, tokenizer_files = repository.tokenizer_of(files.repo, files.paths, inside)
    files.bring([meta, *tokenizer_files])
    with discarding(draft):
        about = manager.read_meta(files.folder / inside, step)
        stage, tag = stages.layout(inside)
        stage = flags.stage or stage or stages.stage_of(about, files.repo)
        if stage is None:
            raise UserError(f"the stage of the checkpoint in {files.repo} is not recorded; add --as base, mid or sft")
        place = Place(stage, flags.tag or fit(tag or repository.tag_of(files.repo), files.repo), step)
        tokenizer = Tokenizer.load(files.folder / tokenizer_at)
        repository.check_neighbours(place.folder, tokenizer)
        if step in manager.steps(place.folder):
            if files.has(model, place.folder / Path(model).name):
                return place
            raise taken(place)
    others = optimizer_of(files, inside, about, model) if flags.with_optimizer else []
    files.bring([model, *others])
    ready = draft / READY
    for path in (model, meta):
        put(files.folder / path, ready / Path(path).name)
    for path in others:
        put(files.folder / path, ready / PurePosixPath(path).relative_to(inside))
    tokenizer.save(ready / "tokenizer")
    if (lengths := str(tokenizer_at / manager.LENGTHS)) in tokenizer_files:
        put(files.folder / lengths, ready / "tokenizer" / manager.LENGTHS)
    return place


def optimizer_of(files: Files, inside: PurePosixPath, about: dict, model: str) -> list[str]:
    """The paths of what a checkpoint has besides its model. Raises UserError where the optimizer state is missing."""
    paths = [str(inside / name) for name in about.get("files") or {} if str(inside / name) != model]
    if not paths or not set(paths) <= set(files.paths):
        raise UserError(
            f"{files.repo} offers no optimizer state of this checkpoint; leave out --with_optimizer, or push it to an "
            "object store with --with_optimizer first"
        )
    return paths


def convert(files: Files, draft: Path, flags: Flags) -> Place:
    """Make another program's model READY as a checkpoint of ours, unless it is in its place already."""
    from nanochat import gpt2_tokenizer
    from nanochat.checkpoint import door, hf, manager, nanogpt

    files.bring([path for path in files.paths if path == "config.json"])
    with discarding(draft):
        if nanogpt.CKPT not in files.paths and door.recognise(files.folder) is None:
            raise UserError(
                f"{files.repo} holds no known model; expected one of nanochat (model_*.pt with meta_*.json), "
                f"nanoGPT ({nanogpt.CKPT}), or transformers' gpt2 or nanochat (config.json)"
            )
        config = hf.read_config(files.folder) if "config.json" in files.paths else {}
    if flags.softcap is not None:
        raise UserError(f"--softcap is for checkpoints of the original nanochat; {files.repo} holds another model")
    if nanogpt.CKPT in files.paths and not any(name in files.paths for name, *_ in foreign_tokenizers.FILES):
        gpt2_tokenizer.load()  # the model may need it, and is much larger
    origin = {"repo": files.repo, "commit": files.commit}
    stage = flags.stage or stages.stage_of(hf.record(config), files.repo) or "base"
    place = Place(stage, flags.tag or fit(repository.tag_of(files.repo), files.repo), 0)
    for step in manager.steps(place.folder):
        if manager.read_meta(place.folder, step).get("origin") == origin:
            return replace(place, step=step)
    files.bring(files.paths)
    with discarding(draft):
        loaded = door.open(str(files.folder))
        place = replace(place, step=loaded.step)
        if loaded.step in manager.steps(place.folder):
            raise taken(place)
        repository.check_neighbours(place.folder, loaded.tokenizer)
    ready = draft / READY
    loaded.tokenizer.save(ready / "tokenizer")
    manager.save(ready, loaded.step, loaded.model, None, {**loaded.meta, "source": place.source, "origin": origin})
    return place


def fit(tag: str, repo: str) -> str:
    """A tag from a repository's names. Raises UserError where it cannot be the name of a folder."""
    with contextlib.suppress(UserError):
        check_tag("tag", tag)
        if ":" not in tag:
            return tag
    raise UserError(f"{repo} calls its model {tag[:40]!r}, which cannot be a tag here; choose a name for it with --tag")


def settle(ready: Path, place: Place) -> None:
    """Move a checkpoint to its place. The meta file comes last: with it the checkpoint exists. Nothing is replaced.

    Raises UserError, before any file is placed, where another file has one of the names.
    """
    from nanochat.checkpoint import manager

    files = [path.relative_to(ready) for path in ready.rglob("*") if path.is_file()]
    if manager.tokenizer_folder(place.folder).is_relative_to(place.folder):  # the same one, see check_neighbours
        files = [path for path in files if path.parts[0] != "tokenizer"]
    files.sort(key=lambda path: path.name.startswith("meta_"))
    # A pull that was killed leaves some of them.
    waiting = [path for path in files if not is_same(ready / path, place.folder / path)]
    for path in waiting:
        if os.path.lexists(place.folder / path):
            raise occupied(place.folder / path)
    for path in waiting:
        put(ready / path, place.folder / path)
    fsync_folder(place.folder)


def is_same(ours: Path, there: Path) -> bool:
    """Whether `there` is a file with the same content."""
    try:
        return there.is_file() and there.stat().st_size == ours.stat().st_size and sha256(there) == sha256(ours)
    except OSError:
        return False


def occupied(target: Path) -> UserError:
    return UserError(f"{target} already exists with other content; move it away, or choose another --tag")


def taken(place: Place) -> UserError:
    return UserError(f"{place.folder} holds another checkpoint of step {place.step}; choose another --tag")


@contextlib.contextmanager
def discarding(draft: Path) -> Iterator[None]:
    """Delete the draft of an unfit model; keep it for another try if only the hub could not be reached."""
    try:
        yield
    except hub.Unreachable:
        raise
    except UserError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def put(source: Path, target: Path) -> None:
    """Link a file under a new name, or copy it between file systems, atomically."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links; a refusal is explained by `write_atomically`
        if os.path.lexists(target):
            raise occupied(target) from None
        with open(source, "rb") as content:
            write_atomically(target, lambda out: shutil.copyfileobj(content, out, 1 << 20))


def announce(files: Files, chosen: tuple[PurePosixPath, int] | None) -> None:
    """Print what would be downloaded."""
    if files.listing is None:
        return
    wanted = files.listing.files
    if chosen:
        names = [*names_of(*chosen), *repository.tokenizer_of(files.repo, files.paths, chosen[0])[1]]
        wanted = tuple(file for file in wanted if file.path in names)
    listing = hub.Listing(files.repo, files.commit, wanted)
    for file in wanted:
        print(f"{hub.in_bytes(file.size):>8}  {file.path}")
    lacking = hub.missing(listing, files.folder)
    print(f"{hub.in_bytes(listing.size):>8}  in all, {hub.in_bytes(lacking)} of it still to be downloaded")


if __name__ == "__main__":
    run(main)
