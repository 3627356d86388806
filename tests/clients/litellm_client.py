"""LiteLLM, which aider, DSPy, OpenHands and many others ask through."""

import json

import litellm
from checks import EXTRACT, HELLO, KEY, REPORT, SAID, STORY, SUNNY, TALE, TOOLS, WEATHER, check, main
from pydantic import BaseModel

PROVIDERS = ("openai/nanochat", "hosted_vllm/nanochat", "litellm_proxy/nanochat", "lm_studio/nanochat")


class City(BaseModel):
    city: str


def ask(url: str, content: str, model: str = PROVIDERS[0], **more):
    messages = more.pop("messages", [{"role": "user", "content": content}])
    return litellm.completion(model=model, api_base=f"{url}/v1", api_key=KEY, messages=messages, **more)


@check
def completion(url: str) -> None:
    for model in PROVIDERS:
        assert ask(url, HELLO, model).choices[0].message.content == SAID, model


@check
def streaming(url: str) -> None:
    chunks = ask(url, HELLO, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID


@check
def text_completion(url: str) -> None:
    model = "text-completion-openai/nanochat"
    reply = litellm.text_completion(model=model, api_base=f"{url}/v1", api_key=KEY, prompt=STORY)
    assert reply.choices[0].text == TALE


@check
def tools(url: str) -> None:
    reply = ask(url, WEATHER, tools=TOOLS, tool_choice="auto").choices[0]
    assert reply.finish_reason == "tool_calls", reply
    (call,) = reply.message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Rome"}
    answer = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": SUNNY}
    messages = [{"role": "user", "content": WEATHER}, reply.message.model_dump(), answer]
    assert ask(url, "", messages=messages, tools=TOOLS).choices[0].message.content == REPORT
    chunks = list(ask(url, WEATHER, tools=TOOLS, stream=True))
    whole = litellm.stream_chunk_builder(chunks).choices[0]
    assert json.loads(whole.message.tool_calls[0].function.arguments) == {"city": "Rome"}


@check
def structured(url: str) -> None:
    reply = ask(url, EXTRACT, response_format=City).choices[0].message.content
    assert City.model_validate_json(reply).city == "Rome"


@check
def responses(url: str) -> None:
    asked = {"model": "openai/nanochat", "api_base": f"{url}/v1", "api_key": KEY, "input": HELLO}
    reply = litellm.responses(**asked)
    assert [part.text for item in reply.output if item.type == "message" for part in item.content] == [SAID]
    events = litellm.responses(**asked, stream=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID


@check
def context_window(url: str) -> None:
    """The error by which programs know that they have to shorten the prompt."""
    for model in ("openai/nanochat", "hosted_vllm/nanochat", "text-completion-openai/nanochat"):
        try:
            ask(url, "a b " * 9000, model)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError(f"{model}: a prompt beyond the context was answered")


if __name__ == "__main__":
    main()
