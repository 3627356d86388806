"""What is recorded of a model: by its checkpoint's meta file, by the report's sections about it, and by its metrics.

Nothing is guessed. What no file has is left out, and so are scores that were measured on other weights.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.responses import Response

from nanochat import paths
from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.report import facts, sections
from nanochat.web.documentation import errors
from nanochat.web.errors import json_response
from nanochat.web.state import ServedModel, ServerState

MOST_STAGES = 10  # of a model's history; more can only be a circle of damaged meta files
MOST_POINTS = 240  # of a curve
TAUGHT = {
    "littleworld": "knows the little world: its people, towns and animals, sums, spelling and stories",
    "real": "has learned from public conversations and exam questions",
}  # by the recipe of the conversations


class Checkpoint(NamedTuple):
    """What identifies a model of a stage, and its meta file."""

    source: str
    tag: str
    step: int
    meta: dict

    @property
    def folder(self) -> Path:
        return paths.checkpoints_dir(self.source) / self.tag

    @property
    def sha256(self) -> str | None:
        return manager.record_of(self.meta, self.source, self.tag, self.step)["sha256"]


def describe(model: ServedModel) -> dict[str, Any]:
    """What a model is, for people: {display_name, about, examples, trained}. Reads files."""
    own = Checkpoint(model.source, model.tag, model.step, model.meta)
    is_ours = model.stage_is_known and own.folder.resolve() == model.folder.resolve()  # the report is about those
    found = _sections() if is_ours else {}
    label = model.tag if model.id.partition(":")[0] in paths.SOURCES else model.id
    kind = facts.CHAT_EVALS[f"chat_eval_{model.source}"] if model.stage_is_known else "chat" if model.chats else "base"
    step = f", step {model.step:,}" if model.step else ""
    return {
        "display_name": f"{label} · {kind}{step}",
        "about": f"{label} {_about(model)}.",
        "examples": examples(own, found),
        "trained": _trained(own, found),
    }


def _about(model: ServedModel) -> str:
    """What it does and has learned, as the rest of a sentence that begins with its name."""
    meta = model.meta
    conversations, datasets = meta.get("conversations"), str(meta.get("dataset") or "").split()
    is_little = paths.DEFAULT_DATASET in [name.partition(":")[0] for name in datasets]
    if not model.chats or model.plain:
        return "continues texts about the little world" if is_little else "continues texts"
    recipe = "littleworld" if is_little and conversations != "real" else conversations
    said = [TAUGHT[recipe]] if isinstance(recipe, str) and recipe in TAUGHT else []
    said += [f"has learned from {', '.join(files)}"] if (files := _own_files(meta)) else []
    return ", and ".join(said) or "answers questions"


def _own_files(meta: Mapping) -> list[str]:
    """The names of the files of the user's own conversations."""
    given = meta.get("data_path")
    return [Path(str(each)).name for each in given] if isinstance(given, list) else []


# ---------------------------------------------------------------- what the report has


def _sections() -> dict[str, dict]:
    try:
        return sections.read_sections()
    except UserError:  # a damaged one, which scripts.report names
        return {}


def _about_weights(section: Mapping, model: Checkpoint) -> bool:
    """Whether a section of the report is about these weights; those of older versions name the step only."""
    if (section.get("source", model.source), section.get("tag"), section.get("step")) != model[:3]:
        return False
    return section.get("sha256") in (None, model.sha256) or model.sha256 is None


def scores(model: Checkpoint, found: Mapping[str, dict]) -> dict[str, Any]:
    """What it scored: {tasks {name: {n, correct (fraction), interval}}, chatcore, core, val_bpb}, as far as it was.

    found: the sections of the report.
    """
    measured: dict[str, Any] = {}
    for section in (found.get(f"chat_eval_{model.source}", {}), found.get(f"{model.source}_eval", {})):
        if not _about_weights(section, model):
            continue
        with contextlib.suppress(*facts.UNREADABLE):  # of another version
            if tasks := section.get("tasks"):
                measured["tasks"] = {name: _fraction(task) for name, task in tasks.items() if task["n"]}
            core = (section.get("core") or {}).get("core")
            known = {"chatcore": section.get("chatcore"), "core": core, "val_bpb": section.get("val_bpb")}
            measured |= {name: value for name, given in known.items() if (value := _number(given)) is not None}
    return measured


def _fraction(task: Mapping) -> dict[str, Any]:
    low, high = task.get("interval") or (None, None)
    return {"n": task["n"], "correct": task["correct"] / task["n"], "interval": [low, high]}


def examples(model: Checkpoint, found: Mapping[str, dict]) -> list[dict[str, Any]]:
    """What to ask it: [{task, questions}], the questions in turn; of a base model beginnings of texts, without a task.

    They were asked when it was evaluated. Newer sections name one that it answered right for each task.
    """
    section = found.get(f"chat_eval_{model.source}", {})
    with contextlib.suppress(*facts.UNREADABLE):
        if _about_weights(section, model):
            if "examples" in section:
                return [{"task": each["task"], "questions": list(each["questions"])} for each in section["examples"]]
            asked = [sections.questions(each["messages"]) for each in section["samples"]]
            pairs = zip(section["tasks"], asked, strict=True)
            return [{"task": task, "questions": questions} for task, questions in pairs if questions]
        section = found.get(f"{model.source}_eval", {})
        if _about_weights(section, model):
            prompts = dict.fromkeys(each["prompt"] for each in section["samples"] if each["prompt"])
            return [{"task": None, "questions": [prompt]} for prompt in prompts]
    return []


# ---------------------------------------------------------------- how it was trained


def _trained(model: Checkpoint, found: Mapping[str, dict]) -> dict[str, Any] | None:
    """How it was trained and what it scored; None where its meta file has nothing of that.

    stages: those that made it, the first one first, as far as their checkpoints are still there. parent: the model that
    it was trained from, None without one. Seconds are those of all starts of a stage.
    """
    if "user_config" not in model.meta:
        return None
    history = list(_history(model))
    before = history[-2] if len(history) > 1 else None
    given = model.meta.get("parent")
    origin = given if isinstance(given, dict) else {}
    named = f"{origin['source']}:{origin['tag']}" if origin.get("source") and origin.get("tag") else origin.get("name")
    return {
        "stages": [_stage(each) for each in history],
        "parent": named,
        "dataset": model.meta.get("dataset"),
        "conversations": model.meta.get("conversations"),
        "own_files": _own_files(model.meta),
        "val_bpb": _number(model.meta.get("val_bpb")),
        "scores": scores(model, found),
        "parent_scores": scores(before, found) if before else {},
    }


def _history(model: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoints that a model was made from, the first one first, and itself."""
    chain = [model]
    while (parent := chain[0].meta.get("parent")) and len(chain) < MOST_STAGES:
        try:
            source, tag, step, digest = (parent[name] for name in ("source", "tag", "step", "sha256"))
            earlier = Checkpoint(source, tag, step, manager.read_meta(paths.checkpoints_dir(source) / tag, step))
        except (UserError, *facts.UNREADABLE):  # it is gone, was never here, or is damaged
            break
        if digest != earlier.sha256:
            break  # another model has its name now
        chain.insert(0, earlier)
    yield from chain


def _stage(model: Checkpoint) -> dict[str, Any]:
    """One stage; tokens only where a step has a fixed number of them."""
    meta = model.meta
    per_step = meta.get("total_batch_size") if model.source in ("base", "mid", "sft") else None
    state = meta.get("loop_state")
    return {
        "model": f"{model.source}:{model.tag}", "stage": model.source, "step": model.step,
        "tokens": per_step * model.step if isinstance(per_step, int) else None,
        "seconds": _number(state.get("seconds")) if isinstance(state, dict) else None,
    }  # fmt: skip


def _number(value: object) -> float | None:
    """A number that JSON can hold; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# ---------------------------------------------------------------- the curve


def curve(folder: Path, step: int, most: int = MOST_POINTS) -> dict[str, list]:
    """The training loss up to a step, and what was validated: {loss [[step, value]], val_bpb [[step, value]]}.

    A long curve comes as the means of equal pieces. RL has no loss that means anything, but a reward, under that name.
    """
    rows: dict[str, list[tuple[float, float]]] = {"loss": [], "reward": [], "val_bpb": []}
    with contextlib.suppress(OSError), open(folder / "metrics.jsonl", encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                at = _number(row.get("step")) if isinstance(row, dict) else None
                if at is None or at > step:
                    continue
                for name, points in rows.items():
                    if (value := _number(row.get(name))) is not None:
                        points.append((at, value))
    if rows["reward"]:
        rows["loss"] = []
    return {name: _thinned(points, most) for name, points in rows.items()}


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[list[float]]:
    size = -(-len(points) // most) or 1
    pieces = (points[begin : begin + size] for begin in range(0, len(points), size))
    return [[sum(column) / len(piece) for column in zip(*piece, strict=True)] for piece in pieces]


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.get("/training", tags=["Server"], summary="The curves of a model's training", responses=errors(404))
    async def training(model: str = "") -> Response:
        chosen = state.pick(model)
        return json_response({"model": chosen.id, **await asyncio.to_thread(curve, chosen.folder, chosen.step)})

    return router
