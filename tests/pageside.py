"""What tests of the chat page share: a real server with models that answer what is written here, and the page's parts.

A test file imports the fixtures by name. One that needs other models defines its own `script`.
"""

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.app import build_app
from nanochat.web.server import Server, listen
from nanochat.web.state import ServedModel, ServerState, Settings
from tests.browsing import profiles
from tests.scripted import scripted
from tests.served import loaded, wait

# Every fragment is one token, and all differ, so that each knows which one follows. A lost, doubled or swapped token
# shows.
WORDS = [f" {''.join(letters)}" for letters in itertools.product("bdfgklmnprst", "aeiou", "lmnrst")][:100]
STORY = [
    "# The fox and", " the winter\n\n", "Once there was a **small", " fox** who lived at the *edge", " of Silverlea*. ",
    "She had ~~four~~ three rules:\n\n", "1. Sleep when it snows\n", "2. Share what you find\n   - berries\n",
    "   - `honey`, if there", " is any\n", "3. Never trust a goose\n\n", "> “A winter is long,” said the owl, ",
    "“but a friend makes it short.”\n\n## What", " she found\n\n", "| month | berries | honey |\n|:--|--:|:-:|\n",
    "| November | 12 | no |\n", "| December | 3 | a *little* |\n\n", "So that nobody would forget, she wrote:\n\n",
    "```python\ndef winter(days):\n", "    for day in range(days):\n",
    '        sleep() if snow(day) else share("berries")\n```\n\n',
    "In spring she told [the owl](https://example.org/owl) ",
    "everything.\n\n---\n\nThe end.",
]  # fmt: skip
HOSTILE = [
    "<script>window.hacked = 1</script>\n\n", '<img src="x" onerror="window.hacked = 2">\n\n',
    '<iframe src="javascript:window.hacked = 3"></iframe>\n\n', "[run me](javascript:window.hacked=4) ",
    "[run](java\tscript:window.hacked=5) [data](data:text/html,<script>window.hacked=6</script>) ",
    "[here](/v1/models) [local](//evil.example/x) ", "![pixel](https://evil.example/pixel.png) ",
    "<https://good.example/<script>> <javascript:window.hacked=7>\n\n",
    '[quote](https://good.example/" onmouseover="window.hacked=8)\n\n',
    "```html onload=window.hacked=9\n<svg onload=window.hacked=10>\n```\n\n",
    "| <b onclick=window.hacked=11>a</b> | b |\n|--|--|\n| <style>*{display:none}</style> | `<script>` |\n\n",
    '# <a href="javascript:window.hacked=12">heading</a>\n',
]  # fmt: skip
ANSWER = ["6 times 7", " is 42."]


class PacedEngine(Engine):
    """An Engine that stands still where the test says, so that "in the middle of an answer" is an exact place."""

    left: int | None = None  # tokens until it does; None: it does not

    def step(self):
        if self.left == 0:
            threading.Event().wait(0.002)
            return []
        events = super().step()
        if self.left is not None:
            self.left -= sum(event.token is not None for event in events)
            assert self.left >= 0, "an Engine that is paced answers one request at a time"
        return events


class Site:
    """A server with scripted models, which can be ended and started again at the same address."""

    def __init__(
        self, script: dict[str, tuple[Sequence[Sequence[int]], int]], tokenizer: Tokenizer, **settings
    ) -> None:
        self.script, self.tokenizer, self.settings = script, tokenizer, settings
        self.port = 0
        self.start()

    def start(self) -> None:
        self.engines: dict[str, PacedEngine] = {}
        models = []
        for id, (chains, context) in self.script.items():
            gpt = scripted(self.tokenizer, chains, context)
            for chain in chains:
                near = itertools.cycle([0.9, 1.1, 1.5])  # after the softcap, more or less close to the next token
                for token, other in zip(chain, chain[2:], strict=False):
                    gpt.get_parameter("lm_head.weight").data[other, token] = next(near)
            self.engines[id] = PacedEngine(gpt, slots=2)
            serving = loaded(self.engines[id], self.tokenizer, *id.split(":"))
            models.append(ServedModel(id, [serving], max_queue=0))
        state = ServerState(models, Settings(temperature=0.0, **self.settings))
        bound = listen("127.0.0.1", self.port)
        self.port = bound.getsockname()[1]
        self.server = Server(build_app(state), state, drain_seconds=0)
        self.thread = threading.Thread(target=self.server.run, args=([bound],))
        self.thread.start()
        wait(lambda: self.server.started)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def is_idle(self) -> bool:
        return all(engine.free_slots == engine.slots and not engine.busy for engine in self.engines.values())


@pytest.fixture(scope="module")
def words_tokenizer() -> Tokenizer:
    """Bytes, and every fragment that a model here says as one token."""
    fragments = [*WORDS, *STORY, *HOSTILE, *ANSWER]
    size = -(256 + len(fragments) + len(chat.SPECIALS)) % 8  # the model's width must suit its heads
    tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in fragments]
    tokens += [b"\xff" * (2 + i) for i in range(size)]
    return Tokenizer({token: i for i, token in enumerate(tokens)}, chat.SPECIALS)


def chain(tokenizer: Tokenizer, first: int, fragments: Sequence[str]) -> list[int]:
    """The ids of fragments that follow one another after the token `first`."""
    return [first, *(tokenizer.tokens.index(text.encode()) for text in fragments)]


@pytest.fixture(scope="module")
def script(words_tokenizer: Tokenizer) -> dict[str, tuple[list[list[int]], int]]:
    """What each model says after any question, and its context."""
    start = words_tokenizer.special(chat.ASSISTANT_START)
    tool = chat.tool_ids(words_tokenizer)

    def says(first: int, fragments: Sequence[str]) -> list[int]:
        return chain(words_tokenizer, first, fragments)

    call = [start, tool.python_start, *words_tokenizer.encode("6*7"), tool.python_end]
    return {
        "sft:words": ([says(start, WORDS)], 1024),
        "sft:story": ([says(start, STORY)], 2048),
        "sft:tool": ([call, says(tool.output_end, ANSWER)], 2048),
        "sft:hostile": ([says(start, HOSTILE)], 256),
        "sft:small": ([says(start, WORDS)], 64),
        "base:words": ([says(chain(words_tokenizer, 0, WORDS)[1], WORDS[1:])], 256),
    }


@pytest.fixture(scope="module")
def site(script, words_tokenizer: Tokenizer) -> Iterator[Site]:
    site = Site(script, words_tokenizer)
    yield site
    site.stop()


@pytest.fixture(autouse=True)
def calm(site: Site) -> Iterator[None]:
    """Release the engines that a failed test has paused."""
    yield
    for engine in site.engines.values():
        engine.left = None


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens the chat page, or another address."""
    with profiles(browser) as open_page:
        yield lambda url="", **options: open_page(url or site.url, **options)


def choose_model(page: Page, id: str, label: str = "Model") -> None:
    page.get_by_label(label, exact=True).select_option(id)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def last_answer(page: Page) -> Locator:
    return page.locator(".message.assistant").last


def body(message: Locator) -> Locator:
    return message.locator(".body")


def settled(page: Page) -> None:
    """The answers are complete."""
    expect(last_answer(page).locator(".foot")).to_contain_text(re.compile(r"\d tokens?"))
    expect(page.locator(".running")).to_have_count(0)


def ask_and_wait(page: Page, text: str) -> None:
    ask(page, text)
    settled(page)


def text_of(message: Locator) -> str:
    return body(message).inner_text().strip()


def all_words() -> str:
    return "".join(WORDS).strip()


def titles(page: Page) -> Locator:
    return page.locator("#conversations a")


def paused_answer(page: Page, site: Site, words: int, question: str = "Say all words") -> None:
    """Ask, and return when so many words stand there and the server waits."""
    site.engines["sft:words"].left = words
    ask(page, question)
    expect(body(last_answer(page))).to_have_text("".join(WORDS[:words]).strip())


def figures(page: Page) -> tuple[int, int]:
    """What the meter reads."""
    used, limit = page.locator("#meter-text").inner_text().split(" / ")
    return int(used), int(limit)


# The inspector and the notebook


def inspect(page: Page) -> None:
    page.get_by_role("button", name="Token inspector").click()


def tokens(place: Locator) -> Locator:
    return place.locator(".token")


def texts(place: Locator) -> list[str]:
    return tokens(place).all_text_contents()


def card(page: Page) -> Locator:
    return page.get_by_role("dialog", name=re.compile("^Token"))


def written(page: Page) -> Locator:
    return page.get_by_label("Your text")


def by_model(page: Page) -> list[str]:
    return page.locator(".ink .by-model").all_text_contents()


def told(page: Page) -> None:
    """The continuation is complete."""
    expect(page.get_by_role("button", name="Continue", exact=True)).to_be_visible()
    expect(page.locator(".notebook-bar .figures")).to_have_text(re.compile(r"\d tokens?"))
