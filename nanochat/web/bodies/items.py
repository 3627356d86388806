"""What clients of OpenAI's Responses API send: a conversation as a list of items, and settings by other names.

    {"role": "user", "content": "What is the weather in Rome?"}
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}
    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}

`as_chat` translates a body into one of /v1/chat/completions.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from nanochat.web.bodies.refusal import refusal
from nanochat.web.bodies.schemas import (
    MAX_TOOLS,
    AllowedTools,
    AllowedToolsChoice,
    Body,
    ChatRequest,
    Function,
    FunctionName,
    Message,
    NamedTool,
    Sampling,
    Tool,
)
from nanochat.web.errors import ApiError, bad_request, to_json

LOGPROBS = "message.output_text.logprobs"  # the one thing to include that there is
WHOLE = "this server keeps no responses; send the whole conversation as input"
REFUSED = {  # fields that ask for what there is not
    "background": "background is not supported: this server keeps no responses; stream the reply instead",
    "conversation": f"conversation is not supported: {WHOLE}",
    "max_tool_calls": "max_tool_calls is not supported; the limit of a reply is max_output_tokens",
    "max_tokens": "max_tokens is called max_output_tokens in this API",
    "max_completion_tokens": "max_completion_tokens is called max_output_tokens in this API",
    "n_predict": "n_predict is called max_output_tokens in this API",
    "previous_response_id": f"previous_response_id is not supported: {WHOLE}",
    "prompt": "prompt is not supported: this server keeps no prompts; send instructions and input",
    "response_format": "response_format is called text.format in this API",
    "store": f"store is not supported: {WHOLE}",
}
# The other API's names of fields, as they begin its messages, and the names here.
RENAMED = {"messages": "input", "response_format": "text.format", "max_completion_tokens": "max_output_tokens"}


def _without_infinity(content: dict[str, Any]) -> dict[str, Any]:
    """What is sent back with the reply has to be JSON, whose reader lets more pass."""
    try:
        to_json(content)
    except ValueError:
        raise ValueError("it holds a number that is not finite") from None
    return content


JsonObject = Annotated[dict[str, Any], AfterValidator(_without_infinity)]


class ResponseTool(Function):
    """A function that the model may call."""

    parameters: JsonObject | None = Field(default=None, description="a JSON schema of an object; default: none")
    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _is_function(cls, content: object) -> object:
        if isinstance(content, dict) and content.get("type") != "function":
            kind = str(content.get("type"))[:40]
            raise ValueError(f"a tool of type {kind!r} is not supported; expected type 'function'")
        return content


class ResponseToolName(Body):
    type: Literal["function"]
    name: str


class AllowedResponseTools(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ResponseToolName] = Field(min_length=1)


class TextConfig(Body):
    format: JsonObject | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesRequest(Sampling):
    """Answer a conversation. Nothing is stored: each request holds the whole conversation.

    Hints for other kinds of models (reasoning, text.verbosity, service_tier and such) have no effect.
    """

    input: str | list[dict[str, Any]] = Field(
        description="a text, or a list of messages, function calls and their outputs", examples=["Hello!"]
    )
    instructions: str | None = Field(default=None, description="a system message before the input")
    max_output_tokens: int | None = Field(default=None, description="maximum tokens of the reply", ge=1)
    text: TextConfig = Field(
        default=TextConfig(), description='{"format": {"type": "text", "json_object" or "json_schema", ...}}'
    )
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] = Field(
        default=[], description="functions that the model may call"
    )
    tool_choice: Literal["auto", "none", "required"] | AllowedResponseTools | ResponseToolName | None = Field(
        default=None,
        description='"auto", "none", "required", {"type": "function", "name": ...} or {"type": "allowed_tools", ...}',
    )
    parallel_tool_calls: bool = Field(default=True, description="whether a reply may have several calls")
    include: list[str] = Field(default=[], description=f'"{LOGPROBS}" reports log probabilities')
    top_logprobs: int = Field(default=0, ge=0, le=20)
    metadata: Annotated[dict[str, str], Field(max_length=16)] = Field(default={}, description="returned with the reply")
    store: bool = Field(default=False, description="not supported")
    background: bool = Field(default=False, description="not supported")
    previous_response_id: str = Field(default="", description="not supported")
    conversation: Any = Field(default=None, description="not supported")
    prompt: Any = Field(default=None, description="not supported")
    max_tool_calls: int = Field(default=0, description="not supported")


def as_chat(body: ResponsesRequest) -> ChatRequest:
    """The request as one of /v1/chat/completions. Raises ApiError for what is not supported."""
    for field, message in REFUSED.items():
        if getattr(body, field) != ResponsesRequest.model_fields[field].default:
            raise bad_request(message, field, "unsupported_parameter")
    if body.n != 1:
        raise bad_request(f"n is {body.n}; this API gives one reply", "n", "unsupported_parameter")
    shared = (Sampling.model_fields.keys() & body.model_fields_set) - REFUSED.keys()
    return ChatRequest.model_construct(
        **{name: getattr(body, name) for name in shared},
        messages=messages(body),
        max_completion_tokens=body.max_output_tokens,
        logprobs=LOGPROBS in body.include or body.top_logprobs > 0,
        top_logprobs=body.top_logprobs,
        response_format=body.text.format,
        tools=[Tool(function=Function.model_construct(**function(tool))) for tool in body.tools],
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
    )


def function(tool: ResponseTool) -> dict[str, Any]:
    return {name: getattr(tool, name) for name in Function.model_fields}


def _choice(choice: Any) -> Any:
    if isinstance(choice, ResponseToolName):
        return _named(choice)
    if isinstance(choice, AllowedResponseTools):
        allowed = AllowedTools(mode=choice.mode, tools=[_named(tool) for tool in choice.tools])
        return AllowedToolsChoice(type="allowed_tools", allowed_tools=allowed)
    return choice


def _named(tool: ResponseToolName) -> NamedTool:
    return NamedTool(function=FunctionName(name=tool.name))


def messages(body: ResponsesRequest) -> list[Message]:
    """The conversation. Raises ApiError for an item that is wrong, or that refers to what a server would keep."""
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    result = [_message("instructions", {"role": "system", "content": body.instructions})] if body.instructions else []
    for number, item in enumerate(items):
        place = f"input[{number}]"
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if kind == "message":
            result.append(_message(place, {key: item[key] for key in ("role", "content", "parts") if key in item}))
        elif kind == "function_call":
            called = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "function": called}
            message = _message(place, {"role": "assistant", "tool_calls": [call]})
            if result and result[-1].role == "assistant":  # a text and calls are items, but one message
                result[-1].tool_calls = [*result[-1].tool_calls, *message.tool_calls]
            else:
                result.append(message)
        elif kind == "function_call_output":
            if item.get("output") is None:
                raise bad_request(f"{place}.output is missing", "input", "missing_required_parameter")
            output = {"role": "tool", "tool_call_id": item.get("call_id"), "content": item["output"]}
            result.append(_message(place, output))
        elif kind == "item_reference":
            raise bad_request(f"{place} refers to a stored item, but {WHOLE}", "input", "unsupported_parameter")
        elif kind != "reasoning":  # which is only for the model that wrote it
            message = f"{place} is of type {str(kind)[:40]!r}; expected message, function_call or function_call_output"
            raise bad_request(message, "input", "invalid_value")
    return result


def _message(place: str, content: dict[str, Any]) -> Message:
    """A message of the other API, whose faults are those of the item at `place`."""
    try:
        return Message.model_validate(content)
    except ValidationError as error:
        wrong = refusal(error, Message, json.dumps(content).encode())
    found = str(wrong).removeprefix("tool_calls[0].").removeprefix("function.")
    if content.get("role") == "tool" and found.startswith("content"):
        found = found.replace("content", "output", 1)
    between = ": " if wrong.param is None else "."
    raise bad_request(f"{place}{between}{found}", place.partition("[")[0], wrong.code)


def renamed(error: ApiError) -> ApiError:
    """A refusal of the translated request in the words of the client's."""
    message = str(error).replace("].function.", "].")
    for old, new in RENAMED.items():
        if message.startswith(old):
            message = new + message[len(old) :]
    return ApiError(error.status, message, error.code, RENAMED.get(error.param or "", error.param), error.headers)
