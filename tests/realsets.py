"""Tiny datasets in the files and schemas that the real ones have on the hub, with what is odd about them."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from fakehub import FakeHub

SMOLTALK, MMLU, ARC = "datasets/HuggingFaceTB/smol-smoltalk", "datasets/cais/mmlu", "datasets/allenai/ai2_arc"
GSM8K, HUMANEVAL = "datasets/openai/gsm8k", "datasets/openai/openai_humaneval"

TEXT = {"dtype": "string", "_type": "Value"}


def described(schema: pa.Schema, **features: dict) -> pa.Schema:
    """A schema with what the library `datasets` writes into it, some columns otherwise than Arrow's types say."""
    known = {"info": {"features": {name: features.get(name, TEXT) for name in schema.names}}}
    return schema.with_metadata({"huggingface": json.dumps(known)})


MESSAGE = pa.struct([("content", pa.string()), ("role", pa.string())])
SMOLTALK_SCHEMA = pa.schema([("messages", pa.list_(MESSAGE)), ("source", pa.string())])
MMLU_SCHEMA = described(
    pa.schema([("question", pa.string()), ("subject", pa.string()), ("choices", pa.list_(pa.string())),
               ("answer", pa.int64())]),
    choices={"feature": TEXT, "_type": "Sequence"},
    answer={"names": ["A", "B", "C", "D"], "_type": "ClassLabel"},
)  # fmt: skip
CHOICES = pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])
ARC_SCHEMA = described(
    pa.schema([("id", pa.string()), ("question", pa.string()), ("choices", CHOICES), ("answerKey", pa.string())]),
    choices={"feature": {"text": TEXT, "label": TEXT}, "_type": "Sequence"},
)
GSM8K_SCHEMA = pa.schema([("question", pa.string()), ("answer", pa.string())])
HUMANEVAL_COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
HUMANEVAL_SCHEMA = pa.schema([(name, pa.string()) for name in HUMANEVAL_COLUMNS])


def parquet(rows: list[dict], schema: pa.Schema) -> bytes:
    """A parquet file of several row groups."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out, row_group_size=5)
    return out.getvalue()


def talk(n: int) -> dict:
    """A conversation; every third has a system message, every second goes on."""
    messages = [{"role": "system", "content": "Be brief."}] if n % 3 == 0 else []
    for turn in range(1 + n % 2):
        messages.append({"role": "user", "content": f"What is {n} + {turn}?"})
        messages.append({"role": "assistant", "content": f"It is {n + turn}."})
    return {"messages": messages, "source": "tiny"}


def exam(n: int) -> dict:
    return {"question": f"Which is {n}?", "subject": "arithmetic", "answer": n % 4,
            "choices": [str(n + each - n % 4) for each in range(4)]}  # fmt: skip


def science(n: int) -> dict:
    """Four answers; every seventh question has three, every fifth figures for letters."""
    count = 3 if n % 7 == 6 else 4
    labels = [str(each + 1) if n % 5 == 4 else "ABCD"[each] for each in range(count)]
    texts = [f"thing {n + each}" for each in range(count)]
    return {"id": f"Tiny_{n}", "question": f"What is number {n}?", "choices": {"text": texts, "label": labels},
            "answerKey": labels[n % count]}  # fmt: skip


def problem(n: int) -> dict:
    first, total = 1000 * n, 1000 * n + 500
    return {"question": f"Tom has {first} coins and finds 500. How many has he?",
            "answer": f"Tom has {first}+500 = $<<{first}+500={total}>>{total:,} coins.\n#### {total:,}"}  # fmt: skip


def function(n: int) -> dict:
    """A function to write, with an import and a helper before it."""
    prompt = (
        f"import math\n\n\ndef half{n}(x):\n    return x / 2\n\n\ndef twice{n}(x: float) -> float:\n"
        f'    """ Twice x, rounded down, plus {n}.\n    >>> twice{n}(1.5)\n    {3 + n}\n    """\n'
    )
    solution = f"    return math.floor(x * 2) + {n}\n"
    test = (
        f"\n\nMETADATA = {{'author': 'tiny'}}\n\n\ndef check(candidate):\n    assert candidate(1.5) == {3 + n}\n"
        f"    assert candidate(half{n}(8)) == {8 + n}\n"
    )
    return {"task_id": f"Tiny/{n}", "prompt": prompt, "canonical_solution": solution, "test": test,
            "entry_point": f"twice{n}"}  # fmt: skip


def add_all(hub: FakeHub) -> None:
    """Put all five datasets on a hub."""
    talks = {f"data/train-{part:05d}-of-00004.parquet": [talk(4 * n + part) for n in range(10)] for part in range(4)}
    talks["data/test-00000-of-00001.parquet"] = [talk(n) for n in range(100, 112)]
    hub.add(SMOLTALK, {path: parquet(rows, SMOLTALK_SCHEMA) for path, rows in talks.items()})
    exams = {"auxiliary_train": range(20), "validation": range(20, 30), "dev": range(30, 35), "test": range(40, 53)}
    hub.add(MMLU, {f"all/{split}-00000-of-00001.parquet": parquet([exam(n) for n in numbers], MMLU_SCHEMA)
                   for split, numbers in exams.items()})  # fmt: skip
    sciences = {"train": range(20), "validation": range(20, 30), "test": range(30, 44)}
    hub.add(ARC, {f"{subset}/{split}-00000-of-00001.parquet": parquet([science(n + 50 * hard) for n in numbers],
                                                                      ARC_SCHEMA)
                  for hard, subset in enumerate(("ARC-Easy", "ARC-Challenge"))
                  for split, numbers in sciences.items()})  # fmt: skip
    problems = {"train": range(40), "test": range(40, 52)}
    hub.add(GSM8K, {f"{config}/{split}-00000-of-00001.parquet": parquet([problem(n) for n in numbers], GSM8K_SCHEMA)
                    for config in ("main", "socratic") for split, numbers in problems.items()})  # fmt: skip
    functions = [function(n) for n in range(4)]
    hub.add(HUMANEVAL, {"openai_humaneval/test-00000-of-00001.parquet": parquet(functions, HUMANEVAL_SCHEMA)})
