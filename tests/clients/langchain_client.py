"""LangChain's chat model for OpenAI."""

from checks import EXTRACT, HELLO, KEY, REPORT, SAID, STORY, SUNNY, TALE, WEATHER, check, main
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city."""

    city: str = Field(description="its name")


@tool
def get_weather(city: str) -> str:
    """Weather of a city"""
    return SUNNY


def model(url: str, **more) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key=KEY, max_retries=0, **more)


@check
def invoke(url: str) -> None:
    reply = model(url).invoke(HELLO)
    assert reply.content == SAID and reply.usage_metadata and reply.usage_metadata["output_tokens"] > 0
    assert model(url).invoke([("system", "Be brief."), ("human", HELLO)]).content == SAID


@check
def stream(url: str) -> None:
    chunks = list(model(url).stream(HELLO))
    assert "".join(str(chunk.content) for chunk in chunks) == SAID


@check
def completion(url: str) -> None:
    assert OpenAI(model="davinci", base_url=f"{url}/v1", api_key=KEY).invoke(STORY) == TALE


@check
def structured(url: str) -> None:
    for method in ("json_schema", "function_calling"):
        for strict in (None, True):
            found = model(url).with_structured_output(City, method=method, strict=strict).invoke(EXTRACT)
            assert isinstance(found, City) and found.city == "Rome", (method, found)
    found = model(url).with_structured_output(City, method="json_mode").invoke(EXTRACT)
    assert isinstance(found, City) and found.city == "Rome", found


@check
def tools(url: str) -> None:
    asker = model(url).bind_tools([get_weather])
    reply = asker.invoke(WEATHER)
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [("get_weather", {"city": "Rome"})], reply
    answer = ToolMessage(SUNNY, tool_call_id=reply.tool_calls[0]["id"])
    assert asker.invoke([HumanMessage(WEATHER), reply, answer]).content == REPORT
    whole = None
    for chunk in asker.stream(WEATHER):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.tool_calls[0]["args"] == {"city": "Rome"}
    for choice in ("any", "get_weather"):
        reply = model(url).bind_tools([get_weather], tool_choice=choice, strict=True).invoke(HELLO)
        assert reply.tool_calls[0]["args"] == {"city": "Rome"}


@check
def responses(url: str) -> None:
    assert model(url, use_responses_api=True).invoke(HELLO).text == SAID
    chunks = model(url, use_responses_api=True).stream(HELLO)
    assert "".join(chunk.text for chunk in chunks) == SAID


if __name__ == "__main__":
    main()
