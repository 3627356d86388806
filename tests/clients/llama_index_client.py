"""LlamaIndex, as for any server that speaks OpenAI's API."""

import asyncio

from checks import EXTRACT, HELLO, KEY, REPORT, SAID, STORY, SUNNY, TALE, WEATHER, check, main
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    city: str


def model(url: str, **more) -> OpenAILike:
    return OpenAILike(model="nanochat", api_base=f"{url}/v1", api_key=KEY, max_retries=0, **more)


def get_weather(city: str) -> str:
    """Weather of a city"""
    return SUNNY


@check
def chat(url: str) -> None:
    asker = model(url, is_chat_model=True)
    assert asker.chat([ChatMessage(role="user", content=HELLO)]).message.content == SAID
    assert asker.complete(HELLO).text == SAID
    *_, last = asker.stream_chat([ChatMessage(role="user", content=HELLO)])
    assert last.message.content == SAID


@check
def complete(url: str) -> None:
    assert model(url).complete(STORY).text == TALE
    *_, last = model(url).stream_complete(STORY)
    assert last.text == TALE


@check
def structured(url: str) -> None:
    """By tools and by the model's own structured output. A model that is marked as neither is sent a demand for tools
    without any tool, which no server can meet."""
    prompt = PromptTemplate(EXTRACT)
    for more in ({"is_function_calling_model": True}, {"should_use_structured_outputs": True}):
        found = model(url, is_chat_model=True, **more).structured_predict(City, prompt)
        assert found.city == "Rome", more


@check
def agent(url: str) -> None:
    asker = model(url, is_chat_model=True, is_function_calling_model=True, context_window=4096)

    async def run() -> str:
        return str(await FunctionAgent(tools=[get_weather], llm=asker).run(WEATHER))

    assert asyncio.run(run()) == REPORT


if __name__ == "__main__":
    main()
