"""The InferenceClient of huggingface_hub."""

import json

from checks import EXTRACT, HELLO, KEY, PARAMETERS, SAID, TOOLS, WEATHER, check, main
from huggingface_hub import InferenceClient


def client(url: str) -> InferenceClient:
    return InferenceClient(base_url=f"{url}/v1", api_key=KEY)


def said(content: str) -> list:
    return [{"role": "user", "content": content}]


@check
def chat_completion(url: str) -> None:
    assert client(url).chat_completion(said(HELLO)).choices[0].message.content == SAID
    assert client(url).chat.completions.create(model="any", messages=said(HELLO)).choices[0].message.content == SAID
    assert InferenceClient(url, token=KEY).chat_completion(said(HELLO)).choices[0].message.content == SAID


@check
def stream(url: str) -> None:
    asker = client(url)  # a stream ends with the client that opened it
    chunks = asker.chat_completion(said(HELLO), stream=True, max_tokens=50)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID


@check
def response_format(url: str) -> None:
    form: dict = {"type": "json_schema", "json_schema": {"name": "city", "schema": PARAMETERS, "strict": True}}
    reply = client(url).chat_completion(said(EXTRACT), response_format=form)
    assert json.loads(reply.choices[0].message.content or "") == {"city": "Rome"}


@check
def tools(url: str) -> None:
    reply = client(url).chat_completion(said(WEATHER), tools=TOOLS, tool_choice="auto").choices[0].message
    assert reply.tool_calls and reply.tool_calls[0].function.name == "get_weather"
    assert json.loads(reply.tool_calls[0].function.arguments) == {"city": "Rome"}
    reply = client(url).chat_completion(said(HELLO), tools=TOOLS, tool_choice="required").choices[0].message
    assert reply.tool_calls and json.loads(reply.tool_calls[0].function.arguments) == {"city": "Rome"}


if __name__ == "__main__":
    main()
