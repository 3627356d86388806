"""The guides that people hold in their hands, walked: a bot on nanoGPT's server, nanoGPT with tools, nanoLLM_gpt."""

from collections.abc import Iterator

import httpx
import pytest
from gpt2s import write_gpt2
from walk import COVERED, Walk, walking, walks

BOT, TOOLS, NANOLLM = "a bot on nanoGPT's inference server", "nanoGPT and nanochat with tools", "nanoLLM_gpt"
TEXT = "".join(f"Cat {n} sat on mat {n * 7}, and the rain fell on the roof of the baker.\n" for n in range(400))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("walk")
    write_gpt2(folder / "gpt2", context=64)
    with walking(folder, folder / "gpt2") as walk:
        walk.write("input.txt", TEXT)
        yield walk


@pytest.fixture(scope="module")
def bot(walk: Walk) -> Iterator[httpx.Client]:
    """A client with the key of a server of GPT-2."""
    line = "python -m scripts.inference_server --init_from=gpt2 --dtype=float32 --device=cpu"
    with walk.serving(line, NANOGPT_API_KEY="s3cret") as (address, _), httpx.Client(
        base_url=address, timeout=60, headers={"Authorization": "Bearer s3cret"}
    ) as client:
        yield client


@walks(BOT, "POST /generate, body and {text}")
def test_generate_continues_a_prompt_without_repeating_it(bot: httpx.Client) -> None:
    answer = bot.post("/generate", json={"prompt": "hello", "max_tokens": 5}).json()
    assert set(answer) == {"text"} and not answer["text"].startswith("hello")


def test_every_row_of_the_guides_is_walked() -> None:
    assert {guide: len(set(rows)) for guide, rows in COVERED.items()} == {BOT: 1}
