"""OpenAI's Agents SDK: by default it speaks to /v1/responses."""

import asyncio

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import EXTRACT, HELLO, KEY, REPORT, SAID, SUNNY, WEATHER, check, main
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
KINDS = (OpenAIResponsesModel, OpenAIChatCompletionsModel)


class City(BaseModel):
    city: str


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city"""
    assert city == "Rome"
    return SUNNY


def agent(url: str, kind, **more) -> Agent:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    return Agent(name="Bot", instructions="Be brief.", model=kind("gpt-4o", openai_client=client), **more)


@check
def text(url: str) -> None:
    for kind in KINDS:
        assert asyncio.run(Runner.run(agent(url, kind), HELLO)).final_output == SAID


@check
def tools(url: str) -> None:
    for kind in KINDS:
        assert asyncio.run(Runner.run(agent(url, kind, tools=[get_weather]), WEATHER)).final_output == REPORT


@check
def streamed(url: str) -> None:
    async def read(kind) -> tuple[str, str]:
        result = Runner.run_streamed(agent(url, kind, tools=[get_weather]), WEATHER)
        raw = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
        return "".join(each.delta for each in raw if each.type == "response.output_text.delta"), result.final_output

    for kind in KINDS:
        assert asyncio.run(read(kind)) == (REPORT, REPORT)


@check
def output_type(url: str) -> None:
    for kind in KINDS:
        assert asyncio.run(Runner.run(agent(url, kind, output_type=City), EXTRACT)).final_output.city == "Rome"


if __name__ == "__main__":
    main()
