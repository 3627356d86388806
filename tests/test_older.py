"""The routes of earlier versions and of nanoGPT's servers, and OpenAI's clients whose base URL lacks /v1."""

import json
from collections.abc import Iterator

import openai
import pytest

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.older import is_openais
from tests.scripted import calculating, scripted
from tests.served import Live, events, loaded, refusal, served

HELLO: list = [{"role": "user", "content": "Hello!"}]
CONTEXT = 64


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """sft:d1 calculates 6*7 and says "é! Rome"; base:d1 says "bcde" after an a."""
    letters = scripted(tokenizer, [tokenizer.encode(" a b c d")], CONTEXT)
    with served(
        [loaded(Engine(calculating(tokenizer, "é! Rome", 128), slots=4), tokenizer)],
        [loaded(Engine(letters, slots=4), tokenizer, "base")],
    ) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    """OpenAI's client with a base URL that lacks /v1."""
    with openai.OpenAI(base_url=live.url, api_key="-", max_retries=0) as client:
        yield client


def data(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line]


# ---------------------------------------------------------------- /chat/completions: whose request is it?

OLD = [
    {"messages": HELLO},
    {"messages": HELLO, "temperature": 0.6, "top_k": 50, "max_tokens": 512},
    {"messages": HELLO, "stream": True},
    {"messages": [*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO], "stream": True, "top_k": None},
    {"messages": HELLO, "seed": None},
    {"messages": "nonsense"}, {"messages": []}, {},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": ["nonsense"]},
]  # fmt: skip
OPENAIS = [
    *({"messages": HELLO, name: value} for name, value in {
        "model": "gpt-4o", "n": 1, "stop": "x", "seed": 1, "top_p": 1, "response_format": {"type": "text"},
        "tools": [], "tool_choice": "none", "stream_options": {"include_usage": True}, "max_completion_tokens": 5,
        "logprobs": False, "user": "me", "presence_penalty": 0, "store": False, "min_p": 0.1,
    }.items()),
    {"messages": [{"role": "system", "content": "Be brief."}, *HELLO]},
    {"messages": [{"role": "developer", "content": "Be brief."}, *HELLO]},
    {"messages": [*HELLO, {"role": "tool", "content": "42", "tool_call_id": "1"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]},
    {"messages": [{"role": "user", "content": "Hello!", "name": "Ada"}]},
]  # fmt: skip


@pytest.mark.parametrize("body", OLD)
def test_what_older_clients_send_is_theirs(body: dict) -> None:
    assert not is_openais({"accept": "*/*", "user-agent": "python-requests/2"}, json.dumps(body).encode())


@pytest.mark.parametrize("body", OPENAIS)
def test_what_older_clients_never_sent_is_openais(body: dict) -> None:
    assert is_openais({}, json.dumps(body).encode())


def test_openais_own_clients_are_known_by_their_headers() -> None:
    assert is_openais({"x-stainless-lang": "js"}, json.dumps(OLD[0]).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff", b'"messages"'])
def test_a_body_that_is_none_is_refused_as_ever(live: Live, body: bytes) -> None:
    assert not is_openais({}, body)
    refusal(live.post("/chat/completions", body))


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}])
def test_the_older_page_keeps_its_events(live: Live, headers: dict) -> None:
    body = {"messages": HELLO, "temperature": 0.8, "top_k": 50, "max_tokens": 50}
    response = live.post("/chat/completions", body | ({} if headers else {"stream": True}), headers=headers)
    told = data(response.text)
    assert "".join(event["token"] for event in told[:-1]) == "é! Rome" and told[-1] == {"done": True}
    assert all(set(event) == {"token", "gpu"} for event in told[:-1])


# ---------------------------------------------------------------- no /v1 in the base URL


def test_no_v1_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="sft:d1", messages=HELLO, stream=True, max_tokens=50))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "é! Rome"
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[0].object == "chat.completion.chunk"


def test_no_v1_has_openais_fields(client: openai.OpenAI) -> None:
    messages: list = [{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]  # fmt: skip
    reply = client.chat.completions.create(
        model="sft:d1", messages=messages, n=2, stop=["Ro"], seed=1, max_completion_tokens=50
    )
    assert [choice.message.content for choice in reply.choices] == ["é! ", "é! "]
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(model="sft:d1", messages=HELLO, response_format={"type": "xml"})  # type: ignore[call-overload]
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)


def test_no_v1_lists_models_and_completes(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["sft:d1", "base:d1"]
    assert client.models.retrieve("base:d1").id == "base:d1"
    told = client.completions.create(model="base:d1", prompt=" a", max_tokens=3, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in told) == " b c d"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_what_models_of_text_cannot_do_is_a_clear_404(live: Live, prefix: str) -> None:
    with openai.OpenAI(base_url=live.url + prefix, api_key="-", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match=f"nothing at {prefix}/embeddings: the models here write text"):
            client.embeddings.create(model="sft:d1", input="Hello!")
        with pytest.raises(openai.NotFoundError, match="write text"):
            client.images.generate(prompt="a cat")


# ---------------------------------------------------------------- /generate


def test_generate_keeps_the_end_of_a_prompt_that_is_too_long(live: Live, tokenizer: Tokenizer) -> None:
    long = "x " * CONTEXT + " a"
    body = {"model": "base:d1", "prompt": long, "max_tokens": 2, "temperature": 0}
    response = live.post("/generate", body)
    assert response.json() == {"text": "b c"}
    dropped = len(chat.text_prompt(tokenizer, long)) - CONTEXT
    assert response.headers["x-prompt-tokens-dropped"] == str(dropped)
    assert live.post("/generate", {**body, "stream": True}).headers["x-prompt-tokens-dropped"] == str(dropped)
    assert "x-prompt-tokens-dropped" not in live.post("/generate", {**body, "prompt": " a"}).headers


def test_generate_takes_seed_stop_samples_and_stream_false(live: Live) -> None:
    body = {"model": "base:d1", "prompt": " a", "max_tokens": 3, "temperature": 0, "stream": False}
    assert live.post("/generate", {**body, "stop": " d"}).json() == {"text": "b c"}
    assert live.post("/generate", {**body, "stop": ["q", "c"]}).json() == {"text": "b"}
    hot = {**body, "temperature": 9, "top_k": 0, "max_tokens": 20, "seed": 5, "num_samples": 3}
    told = live.post("/generate", hot).json()
    assert told == live.post("/generate", hot).json() and len(set(told["texts"])) == 3
    assert told["text"] == told["texts"][0] == live.post("/generate", {**hot, "num_samples": 1}).json()["text"]
    assert told != live.post("/generate", {**hot, "seed": 6}).json()


def test_generate_streams_the_same_text(live: Live) -> None:
    body = {"model": "base:d1", "prompt": " a", "max_tokens": 20, "temperature": 9, "top_k": 0, "seed": 5}
    for samples in (1, 2):
        whole = live.post("/generate", {**body, "num_samples": samples}).json()
        told = events(live.post("/generate", {**body, "num_samples": samples, "stream": True}))
        texts = ["".join(each["text"] for each in told if each["index"] == n) for n in range(samples)]
        assert texts == whole.get("texts", [whole["text"]])
