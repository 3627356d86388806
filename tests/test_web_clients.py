"""The programs that people use: OpenAI's own client, LangChain, curl, and schemathesis, which tries everything."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

import openai
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pydantic import SecretStr

from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.state import Settings
from tests.scripted import calculating
from tests.served import Live, loaded, random_model, served

KEY = "a key"
HELLO: list = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    chats = loaded(Engine(calculating(tokenizer, "é! Rome", 128), slots=4), tokenizer)
    base = loaded(Engine(random_model(tokenizer, 32), slots=4), tokenizer, "base")
    with served([chats], [base], settings=Settings(api_key=KEY)) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_models_and_chats(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["sft:d1", "base:d1"]
    assert client.models.retrieve("base:d1").owned_by == "nanochat"
    reply = client.chat.completions.create(model="sft:d1", messages=HELLO, logprobs=True, top_logprobs=2)
    assert reply.choices[0].message.content == "é! Rome" and reply.choices[0].finish_reason == "stop"
    assert reply.usage and reply.usage.prompt_tokens_details and reply.choices[0].logprobs
    assert reply.choices[0].logprobs.content and len(reply.choices[0].logprobs.content[0].top_logprobs) == 2


def test_openai_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="sft:d1", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "é! Rome"


def test_openai_completes(client: openai.OpenAI) -> None:
    body: dict = {"model": "base:d1", "prompt": ["Ada", "Tom"], "max_tokens": 5, "logprobs": 2, "seed": 3}
    whole = client.completions.create(**body, echo=True, n=2)
    assert len(whole.choices) == 4 and all(choice.logprobs for choice in whole.choices)
    assert whole.choices[0].text.startswith("Ada") and whole.choices[3].text.startswith("Tom")
    parts = [part for part in client.completions.create(**body, stream=True) if part.choices]
    assert "Ada" + "".join(p.choices[0].text for p in parts if p.choices[0].index == 0) == whole.choices[0].text


def test_openai_raises_its_own_errors(client: openai.OpenAI, live: Live) -> None:
    with pytest.raises(openai.NotFoundError, match="no model") as missing:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="sft:d1", messages=[{"role": "user", "content": "a b " * 300}])
    assert long.value.code == "context_length_exceeded" and long.value.param == "messages"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_openai_does_it_all_at_once_without_waiting(live: Live) -> None:
    async def all_of_it() -> None:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key=KEY) as client:

            async def one(stream: bool) -> str:
                if not stream:
                    reply = await client.chat.completions.create(model="sft:d1", messages=HELLO)
                    return reply.choices[0].message.content or ""
                chunks = await client.chat.completions.create(model="sft:d1", messages=HELLO, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            assert await asyncio.gather(*(one(n % 2 == 0) for n in range(12))) == ["é! Rome"] * 12

    asyncio.run(all_of_it())


def test_langchain_chats(live: Live) -> None:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model="sft:d1", base_url=f"{live.url}/v1", api_key=SecretStr(KEY), max_retries=0)
    assert chat.invoke("Hello!").content == "é! Rome"
    chunks = chat.stream([("system", "Be brief."), ("user", "Hello!")])
    assert "".join(str(chunk.content) for chunk in chunks) == "é! Rome"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_chats(live: Live) -> None:
    body = json.dumps({"messages": HELLO, "stream": True})
    command = ["curl", "-sN", f"{live.url}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-d", body]
    said = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert said.startswith("data: {") and said.endswith("data: [DONE]\n\n")


def test_nothing_that_schemathesis_thinks_of_breaks_the_server(live: Live) -> None:
    """Bodies and parameters that fit the description, and such that do not."""
    import schemathesis  # takes seconds, which every worker of the suite would spend

    api = schemathesis.openapi.from_dict(live.get("/openapi.json").json())
    statuses = Counter()
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(max_examples=8, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
            @given(operation.as_strategy(generation_mode=mode))
            def attempt(case: schemathesis.Case) -> None:
                answer = case.call(base_url=live.url, headers={"Authorization": f"Bearer {KEY}"})
                assert answer.status_code < 500 and answer.status_code != 422, (case.as_curl_command(), answer.text)
                statuses[answer.status_code] += 1
                if answer.status_code >= 400:
                    assert set(answer.json()) == {"error"}

            with contextlib.suppress(Unsatisfiable):  # where nothing can be wrong
                attempt()
    assert statuses[200] > 10 and statuses[400] > 10
