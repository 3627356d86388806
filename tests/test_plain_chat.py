"""Base models that are asked to chat: the plain template, its stop strings, and what clients and the operator see."""

import json
from collections.abc import Iterator

import openai
import pytest

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.state import Settings
from tests.scripted import scripted
from tests.served import Live, content, events, loaded, random_model, refusal, served

CHAT = "/v1/chat/completions"
HELLO: list = [{"role": "user", "content": "Hello!"}]
SAID = ": Bonk+day"  # after the colon of "Assistant:", in tokens that all differ


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """A base model that answers " Bonk+day" and continues with the user's next line."""
    model = scripted(tokenizer, [tokenizer.encode(SAID + "\nUs"), tokenizer.encode("User:")], 128)
    with served([loaded(Engine(model, slots=4), tokenizer, "base")], plain=True) as live:
        yield live


@pytest.mark.parametrize(
    "messages, text",
    [
        ([("user", "Hi")], "User: Hi\nAssistant:"),
        ([("system", "Be brief."), ("user", "Hi")], "Be brief.\n\nUser: Hi\nAssistant:"),
        ([("system", ""), ("user", "Hi")], "User: Hi\nAssistant:"),
        ([("system", "Be brief.")], "Be brief.\n\nAssistant:"),
        ([("user", "Hi"), ("assistant", "Yes?"), ("user", "a\nb")],
         "User: Hi\nAssistant: Yes?\nUser: a\nb\nAssistant:"),
        ([("user", "Hi"), ("assistant", "Sure, ")], "User: Hi\nAssistant: Sure, "),
        ([("user", "Hi"), ("assistant", "")], "User: Hi\nAssistant:"),
        ([("assistant", "Welcome."), ("user", "Hi")], "Assistant: Welcome.\nUser: Hi\nAssistant:"),
    ],
)  # fmt: skip
def test_the_plain_template(tokenizer: Tokenizer, messages: list[tuple[str, str]], text: str) -> None:
    ids = chat.plain_prompt(tokenizer, [{"role": role, "content": said} for role, said in messages])
    assert ids == [tokenizer.bos, *tokenizer.encode(text)]


def test_of_an_answers_parts_a_base_model_sees_the_text(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "python", "text": "6*7"},
             {"type": "python_output", "text": "42"}, {"type": "text", "text": "42."}]  # fmt: skip
    ids = chat.plain_prompt(tokenizer, [*HELLO, {"role": "assistant", "content": parts}, *HELLO])
    assert tokenizer.decode(ids[1:]) == "User: Hello!\nAssistant: It is 42.\nUser: Hello!\nAssistant:"


def test_only_a_tokenizer_that_can_spell_the_template_chats_plainly(tokenizer: Tokenizer) -> None:
    assert chat.can_chat_plainly(tokenizer)
    assert chat.can_chat_plainly(Tokenizer.characters("\nUser: Assistant"))
    assert not chat.can_chat_plainly(Tokenizer.characters("abc \n"))


def test_streams_and_whole_replies_lose_the_leading_space_and_what_follows_the_turn(live: Live) -> None:
    reply = live.post(CHAT, {"messages": HELLO, "temperature": 0}).json()
    choice = reply["choices"][0]
    assert choice["message"]["content"] == "Bonk+day" and choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"] or not choice["message"]["tool_calls"]
    chunks = events(live.post(CHAT, {"messages": HELLO, "temperature": 0, "stream": True}))
    assert content(chunks) == "Bonk+day" and chunks[-1]["choices"][0]["finish_reason"] == "stop"
    both = live.post(CHAT, {"messages": HELLO, "temperature": 0, "n": 2, "stop": "+d", "logprobs": True}).json()
    assert [each["message"]["content"] for each in both["choices"]] == ["Bonk", "Bonk"]
    tokens = [token["token"] for token in both["choices"][0]["logprobs"]["content"]]
    assert "".join(tokens).strip() == "Bonk"


def test_a_prefilled_answer_keeps_its_spaces(live: Live, tokenizer: Tokenizer) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well:"}]
    assert live.post(CHAT, {"messages": begun, "temperature": 0}).json()["choices"][0]["message"]["content"] == (
        " Bonk+day"
    )
    empty = [*HELLO, {"role": "assistant", "content": ""}]
    assert live.post(CHAT, {"messages": empty, "temperature": 0}).json()["choices"][0]["message"]["content"] == (
        "Bonk+day"
    )


def test_the_page_and_clients_see_a_model_that_chats_without_tools(live: Live, tokenizer: Tokenizer) -> None:
    card = live.get("/v1/models").json()["data"][0]
    assert card["chat"] and card["tools"] == [] and card["source"] == "base"
    counted = live.post("/tokenize", {"messages": HELLO}).json()
    assert counted["tokens"] == chat.plain_prompt(tokenizer, HELLO)


def test_the_older_chat_answers_too(live: Live) -> None:
    body = {"messages": HELLO, "temperature": 0, "stream": True}
    data = [json.loads(line[6:]) for line in live.post("/chat/completions", body).text.split("\n") if line]
    assert "".join(event.get("token", "") for event in data) == "Bonk+day" and data[-1] == {"done": True}


def test_openai_chats_with_a_base_model(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        messages: list = [{"role": "system", "content": "You are kind."}, *HELLO]
        reply = client.chat.completions.create(model="gpt", messages=messages, temperature=0)
        assert reply.choices[0].message.content == "Bonk+day" and reply.model == "base:d1"


@pytest.fixture(scope="module")
def anything(tokenizer: Tokenizer) -> Iterator[Live]:
    """A base model that may say anything."""
    with served([loaded(Engine(random_model(tokenizer, 640), slots=4), tokenizer, "base")], plain=True) as live:
        yield live


def test_a_base_model_keeps_to_formats_and_calls_functions(anything: Live) -> None:
    yes = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    form = {"type": "json_schema", "json_schema": {"name": "yes", "schema": yes}}
    told = anything.post(CHAT, {"messages": HELLO, "response_format": form, "seed": 1}).json()["choices"][0]
    assert isinstance(json.loads(told["message"]["content"])["yes"], bool) and told["finish_reason"] == "stop"
    tool = {"type": "function", "function": {"name": "answer", "parameters": yes}}
    body = {"messages": HELLO, "tools": [tool], "seed": 1, "parallel_tool_calls": False}
    told = anything.post(CHAT, {**body, "tool_choice": "required"}).json()["choices"][0]
    (call,) = told["message"]["tool_calls"]
    assert isinstance(json.loads(call["function"]["arguments"])["yes"], bool) and told["finish_reason"] == "tool_calls"
    result = [told["message"], {"role": "tool", "tool_call_id": call["id"], "content": "thanks"}]
    for stream in (False, True):
        again = anything.post(CHAT, {**body, "messages": [*HELLO, *result], "max_tokens": 9, "stream": stream})
        assert again.status_code == 200 and "error" not in again.text
    text = {"format": {"type": "json_schema", "name": "yes", "schema": yes}}
    told = anything.post("/v1/responses", {"input": "Hello!", "text": text, "seed": 1}).json()
    assert isinstance(json.loads(told["output"][0]["content"][0]["text"])["yes"], bool)


def test_without_the_template_a_base_model_refuses(tokenizer: Tokenizer) -> None:
    with served([loaded(Engine(scripted(tokenizer, []), slots=1), tokenizer, "base")]) as live:
        assert refusal(live.post(CHAT, {"messages": HELLO}))["code"] == "model_cannot_chat"
        assert not live.get("/v1/models").json()["data"][0]["chat"]


def test_the_operators_system_prompt_begins_conversations_that_have_none(tokenizer: Tokenizer) -> None:
    model = loaded(Engine(scripted(tokenizer, []), slots=1), tokenizer)
    own = [{"role": "system", "content": "Rhyme."}, *HELLO]
    with served([model], settings=Settings(system="Be brief.")) as live:
        for messages, system in ((HELLO, "Be brief."), (own, "Rhyme.")):
            told = live.post("/tokenize", {"messages": messages}).json()
            assert told["tokens"] == chat.prompt(tokenizer, [{"role": "system", "content": system}, *HELLO])
            used = live.post(CHAT, {"messages": messages}).json()["usage"]["prompt_tokens"]
            assert used == told["count"]
        for path in ("/chat", "/chat/completions"):
            with_system = len(chat.prompt(tokenizer, [{"role": "system", "content": "Be brief."}, *HELLO]))
            assert live.post(path, {"messages": HELLO}).json()["usage"]["prompt_tokens"] == with_system
