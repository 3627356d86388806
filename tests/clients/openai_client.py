"""OpenAI's own library for Python."""

import asyncio
import json
from typing import Literal

import openai
from checks import ABOUT_TOOL, EXTRACT, HELLO, KEY, REPORT, SAID, STORY, SUNNY, TALE, TOOLS, WEATHER, check, main
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

ASKS: list = [{"role": "user", "content": WEATHER}]
FLAT: list = [{"type": "function", **ABOUT_TOOL}]  # as /v1/responses has them


class City(BaseModel):
    city: str
    people: int = Field(ge=0, le=99)
    mood: Literal["good", "bad"]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def said(content: str) -> list:
    return [{"role": "user", "content": content}]


@check
def chat(url: str) -> None:
    reply = client(url).chat.completions.create(model="gpt-4o", messages=said(HELLO), max_completion_tokens=50)
    assert reply.choices[0].message.content == SAID and reply.choices[0].finish_reason == "stop"
    assert reply.usage and reply.usage.total_tokens > 0 and reply.model != "gpt-4o"


@check
def chat_streamed(url: str) -> None:
    chunks = list(client(url).chat.completions.create(
        model="gpt-4o", messages=said(HELLO), stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 0


@check
def chat_without_v1(url: str) -> None:
    plain = OpenAI(base_url=url, api_key=KEY, max_retries=0)
    conversation = [{"role": "system", "content": "Be brief."}, *said(HELLO)]
    reply = plain.chat.completions.create(model="gpt-4o", messages=conversation, n=2, stop=["morning"])
    assert [choice.message.content for choice in reply.choices] == ["Good "] * 2
    chunks = plain.chat.completions.create(model="gpt-4o", messages=conversation, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert plain.completions.create(model="gpt-4o", prompt=STORY).choices[0].text == TALE
    assert [each.id for each in plain.models.list()]


@check
def completions(url: str) -> None:
    whole = client(url).completions.create(model="davinci", prompt=STORY)
    assert whole.choices[0].text == TALE
    chunks = client(url).completions.create(model="davinci", prompt=[STORY], stream=True, max_tokens=50)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TALE


@check
def parse(url: str) -> None:
    reply = client(url).chat.completions.parse(model="gpt-4o", messages=said(EXTRACT), response_format=City)
    found = reply.choices[0].message.parsed
    assert found is not None and found.city == "Rome" and found.mood in ("good", "bad")
    with client(url).chat.completions.stream(model="gpt-4o", messages=said(EXTRACT), response_format=City) as stream:
        found = stream.get_final_completion().choices[0].message.parsed
    assert found is not None and found.city == "Rome"


@check
def tools(url: str) -> None:
    messages = [*ASKS]
    reply = client(url).chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS)
    assert reply.choices[0].finish_reason == "tool_calls", reply
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    messages += [reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": SUNNY}]
    reply = client(url).chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS)
    assert reply.choices[0].message.content == REPORT and not reply.choices[0].message.tool_calls


@check
def tools_streamed(url: str) -> None:
    with client(url).chat.completions.stream(model="gpt-4o", messages=ASKS, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls" and "tool_calls.function.arguments.delta" in kinds
    (call,) = final.message.tool_calls or []
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Rome"}


@check
def tool_choice(url: str) -> None:
    chosen: dict = {"model": "gpt-4o", "messages": said(HELLO), "tools": TOOLS}
    named: list = ["required", {"type": "function", "function": {"name": "get_weather"}}]
    for choice in named:
        reply = client(url).chat.completions.create(**chosen, tool_choice=choice).choices[0]
        assert [call.function.name for call in reply.message.tool_calls or []] == ["get_weather"], reply
    reply = client(url).chat.completions.create(**chosen, tool_choice="none").choices[0]
    assert reply.message.content == SAID and not reply.message.tool_calls


@check
def tools_parsed(url: str) -> None:
    """Strict tools made of a pydantic model."""
    tools = [openai.pydantic_function_tool(City, name="save")]
    asked: dict = {"model": "gpt-4o", "messages": said(HELLO), "tools": tools, "tool_choice": "required"}
    reply = client(url).chat.completions.parse(**asked)
    (call,) = reply.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, City) and call.function.parsed_arguments.city == "Rome"


@check
def responses(url: str) -> None:
    reply = client(url).responses.create(model="gpt-4o", instructions="Be brief.", input=HELLO)
    assert reply.output_text == SAID and reply.status == "completed" and reply.usage and reply.usage.output_tokens
    conversation: list = [*said(HELLO), *reply.output, *said(HELLO)]
    assert client(url).responses.create(model="gpt-4o", input=conversation).output_text == SAID


@check
def responses_streamed(url: str) -> None:
    with client(url).responses.stream(model="gpt-4o", input=said(HELLO)) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == SAID == final.output_text


@check
def responses_parsed(url: str) -> None:
    reply = client(url).responses.parse(model="gpt-4o", input=EXTRACT, text_format=City)
    assert reply.output_parsed is not None and reply.output_parsed.city == "Rome"


@check
def responses_tools(url: str) -> None:
    reply = client(url).responses.create(model="gpt-4o", input=ASKS, tools=FLAT)
    calls = [item for item in reply.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather"] and json.loads(calls[0].arguments) == {"city": "Rome"}
    output = {"type": "function_call_output", "call_id": calls[0].call_id, "output": SUNNY}
    reply = client(url).responses.create(model="gpt-4o", input=[*ASKS, *reply.output, output], tools=FLAT)
    assert reply.output_text == REPORT
    with client(url).responses.stream(model="gpt-4o", input=ASKS, tools=FLAT) as stream:
        names = {event.type for event in stream}
        (call,) = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Rome"} and "response.function_call_arguments.done" in names


@check
def many_at_once(url: str) -> None:
    async def ask() -> list:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as asker:
            return await asyncio.gather(
                *(asker.chat.completions.create(model="gpt-4o", messages=said(HELLO)) for _ in range(6))
            )

    assert {reply.choices[0].message.content for reply in asyncio.run(ask())} == {SAID}


@check
def errors(url: str) -> None:
    try:
        client(url).chat.completions.create(model="gpt-4o", messages=said("a b " * 9000))
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded" and error.request_id
    else:
        raise AssertionError("a prompt beyond the context was answered")
    try:
        OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was taken")


if __name__ == "__main__":
    main()
