"""Bundles of CORE's questions, small, in the files that the published one has."""

import json
import random
import zipfile
from pathlib import Path

WORDS = "the cat hat that bell hall tell he them tin can at an ant all till then chat".split()


def words(generator: random.Random, most: int = 6) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(1, most)))


def questions(kind: str, count: int) -> list[dict]:
    """Lines of eval_data of a kind."""
    draw = random.Random(f"{kind} {count}")
    lines: list[dict] = []
    for _ in range(count):
        gold = draw.randrange(3)
        if kind == "multiple_choice":
            lines.append({"query": words(draw), "choices": [words(draw) for _ in range(3)], "gold": gold})
        elif kind == "schema":
            options = [words(draw) for _ in range(3)]
            lines.append({"context_options": options, "continuation": words(draw), "gold": gold})
        else:
            lines.append({"context": words(draw) + "  ", "continuation": words(draw, 2)})
    return lines


def write_bundle(folder: Path, tasks: dict[str, tuple[dict, float, list[dict]]]) -> Path:
    """A bundle as it is published. tasks: what core.yaml says, the baseline in percent and the lines, by label."""
    (folder / "eval_data/words").mkdir(parents=True)
    entries = []
    rows = ["Eval Task,Task Category,#shots,Random baseline,Centered Metric?", "mmlu,knowledge,5,25,", "old,x,0,,"]
    for label, (settings, baseline, lines) in tasks.items():
        entries.append({"label": label, "dataset_uri": f"words/{label}.jsonl", "has_categories": True, **settings})
        rows.append(f'{label},"language, understanding",0,{baseline},')
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"eval_data/words/{label}.jsonl").write_text(text, encoding="utf-8")
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": entries}), encoding="utf-8")  # JSON is YAML
    (folder / "eval_meta_data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def small_bundle(folder: Path) -> Path:
    def task(kind: str, shots: int, **more: str) -> dict:
        return {"num_fewshot": [shots], "icl_task_type": kind, **more}

    answer = {"continuation_delimiter": "\nAnswer: "}
    return write_bundle(folder, {
        "easy": (task("multiple_choice", 0), 25.0, questions("multiple_choice", 12)),
        "hard": (task("multiple_choice", 3, **answer), 62, questions("multiple_choice", 15)),
        "wino": (task("schema", 0), 50, questions("schema", 12)),
        "grad": (task("schema", 2), 50, questions("schema", 13)),
        "lambada": (task("language_modeling", 0), 0.0, questions("language_modeling", 9)),
        "jeopardy": (task("language_modeling", 10, **answer), 0.0, questions("language_modeling", 5)),
    })  # fmt: skip


def zipped(folder: Path, file: Path, top: str = "eval_bundle/") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"__MACOSX/{top}._core.yaml", b"\0\0")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, top + path.relative_to(folder).as_posix())
    return file
