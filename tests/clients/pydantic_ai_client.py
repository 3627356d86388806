"""Pydantic AI."""

import asyncio

from checks import EXTRACT, HELLO, KEY, REPORT, SAID, SUNNY, WEATHER, check, main
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str


def model(url: str, kind=OpenAIChatModel):
    return kind("gpt-4o", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=KEY))


def get_weather(city: str) -> str:
    """Weather of a city"""
    assert city == "Rome"
    return SUNNY


@check
def run(url: str) -> None:
    assert Agent(model(url)).run_sync(HELLO).output == SAID
    assert Agent(model(url), instructions="Be brief.").run_sync(HELLO).output == SAID


@check
def output_types(url: str) -> None:
    for kind in (ToolOutput(City), NativeOutput(City), PromptedOutput(City)):
        assert Agent(model(url), output_type=kind).run_sync(EXTRACT).output.city == "Rome"


@check
def tools(url: str) -> None:
    assert Agent(model(url), tools=[get_weather]).run_sync(WEATHER).output == REPORT


@check
def tools_and_output(url: str) -> None:
    result = Agent(model(url), tools=[get_weather], output_type=City).run_sync(WEATHER)
    assert result.output.city == "Rome"
    assert any(part.part_kind == "tool-return" and part.tool_name == "get_weather"
               for message in result.all_messages() for part in message.parts)  # fmt: skip


@check
def streaming(url: str) -> None:
    async def read() -> list:
        async with Agent(model(url), tools=[get_weather]).run_stream(WEATHER) as result:
            return [text async for text in result.stream_text(debounce_by=None)]

    assert asyncio.run(read())[-1] == REPORT


@check
def responses(url: str) -> None:
    asked = model(url, OpenAIResponsesModel)
    assert Agent(asked).run_sync(HELLO).output == SAID
    assert Agent(asked, tools=[get_weather]).run_sync(WEATHER).output == REPORT
    assert Agent(asked, output_type=NativeOutput(City)).run_sync(EXTRACT).output.city == "Rome"


if __name__ == "__main__":
    main()
