"""HumanEval: Python functions to write after their docstrings, checked by running them."""

import re
import secrets

from nanochat import sandbox
from tasks import tables

_BLOCK = re.compile(r"```\w*\n(.*?)(?:```|\Z)", re.DOTALL)
SECONDS, MEMORY_MB = 5.0, 256


class HumanEval:
    """164 functions, all of them scored.

    Source: openai/openai_humaneval on the hub (Chen et al. 2021, arXiv 2107.03374). Licence: MIT.
    Raises what `tables.shuffled` raises.
    """

    name = "HumanEval"
    baseline = 0.0

    def __init__(self) -> None:
        columns = ["prompt", "canonical_solution", "test", "entry_point"]
        self.rows = tables.shuffled("openai/openai_humaneval", "openai_humaneval/test-*.parquet", columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        messages = [{"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["prompt"] + row["canonical_solution"]}]  # fmt: skip
        return {"messages": messages, "test": row["test"], "entry_point": row["entry_point"]}

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether the answer's function passes the tests, in the sandbox.

        What it cannot see through is a function that looks for the tests in memory, or whose results equal everything.
        """
        passed = secrets.token_hex(8)
        name, prompt = conversation["entry_point"], conversation["messages"][0]["content"]
        code = f"{program(prompt, name, answer)}\n\n{conversation['test']}\n\ncheck({name})\nprint('{passed}')\n"
        result = sandbox.run(code, SECONDS, MEMORY_MB)
        # The sandbox has the word of the program's own process that it reached its end; this it cannot know.
        return result.ok and result.stdout.endswith(f"{passed}\n")


def program(prompt: str, name: str, answer: str) -> str:
    """The program that an answer means: its block of code with the function, or else all of it.

    An answer that repeats the function gets what stands before that in the prompt, imports and helpers; one that does
    not continues the prompt.
    """
    defined = re.compile(rf"^def {re.escape(name)}\b", re.MULTILINE)
    blocks = _BLOCK.findall(answer) or [answer]
    code = next((block for block in blocks if defined.search(block)), blocks[0])
    if not defined.search(code):
        return prompt + code
    starts = [found.start() for found in defined.finditer(prompt)]
    return prompt[: starts[-1] if starts else 0] + code
