"""What clients send, as pydantic models: for validation, and for /docs and /openapi.json.

Fields this server does not know are ignored, as OpenAI's clients send some with every version; /generate, which people
write by hand, refuses them. Null means not given.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanochat.web.errors import ApiError, bad_request

MISSING = "missing_required_parameter"
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 500
MAX_GENERATED = 4096  # where the context does not end a reply, each token beyond it reads the context anew

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


def _optional(about: str, **limits: Any) -> Any:
    return Field(default=None, description=about, **limits)


class Body(BaseModel):
    """A JSON object. Strict: a string is no number."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool | None = _optional("a last chunk with the usage")


class Sampling(Body):
    """What chats and completions have in common."""

    model: str | None = _optional("an id of /v1/models; the first when it is not given")
    max_tokens: int | None = _optional("tokens of the reply at most, as far as the context goes", ge=0)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = _optional("0 takes the likeliest token")
    top_p: Share | None = None
    top_k: int | None = _optional("sample from the k likeliest; 0 or -1: from all", ge=-1)
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = _optional("by token id")
    seed: int | None = _optional("the same seed gives the same reply", ge=-(2**63), lt=2**64)
    n: int | None = _optional("how many replies", ge=1, le=MAX_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Sampling):
    """Answer a conversation. Also taken: response_format, tools (refused unless empty) and what else OpenAI knows."""

    messages: list[Any] = Field(
        max_length=2000,
        description="objects with role (system, developer, user, assistant) and content (a string or text parts)",
        json_schema_extra={"items": {"type": "object"}, "examples": [[{"role": "user", "content": "Hello!"}]]},
    )
    max_completion_tokens: int | None = _optional("the newer name of max_tokens", ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: dict[str, Any] | None = _optional(
        'type: "text", "json_object", or "json_schema" with {"json_schema": {"schema": ...}}'
    )
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None


class CompletionRequest(Sampling):
    """Continue a text."""

    prompt: Any = Field(
        default=None,
        description="a string, a list of strings, token ids, or a list of lists of token ids",
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ],
            "examples": ["Once upon a time"],
        },
    )
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = _optional("the prompt comes before the reply")
    suffix: str | None = None
    best_of: int | None = Field(default=None, ge=1)
    response_format: dict[str, Any] | None = None


class TokenizeRequest(Body):
    """The ids of a text, or of a conversation as the model reads it."""

    model: str | None = None
    text: str | None = None
    messages: list[Any] | None = Field(default=None, max_length=2000, json_schema_extra={"items": {"type": "object"}})


class DetokenizeRequest(Body):
    """The text of some ids."""

    model: str | None = None
    tokens: list[int] = Field(max_length=1_000_000)


class ClassicMessage(Body):
    role: str
    content: str = Field(min_length=1, max_length=8000)


class ClassicRequest(Body):
    """The chat of earlier versions, with their limits."""

    model: str | None = None
    messages: list[ClassicMessage] = Field(min_length=1, max_length=500)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    top_k: int | None = Field(default=None, ge=1, le=200)
    stream: bool | None = _optional('events {"token", "gpu"} and at the end {"done": true}')


class GenerateRequest(Body):
    """Continue a text, the plain way. No other fields are taken."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    prompt: str = Field(json_schema_extra={"examples": ["Once upon a time"]})
    max_tokens: int | None = _optional("256 when not given; may exceed the context", ge=1, le=MAX_GENERATED)
    temperature: Annotated[float, Field(ge=0)] | None = _optional("0.8 when not given")
    top_k: int | None = _optional("200 when not given; 0: from all tokens", ge=0)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error looks like this."""

    error: ErrorDetail


BODIES = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, ClassicRequest, GenerateRequest)


def validated(kind: type[Body], content: dict) -> Any:
    """The body as a `kind`. Raises ApiError naming the first field that is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def _refusal(error: ValidationError, kind: type[Body]) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return bad_request(f"{param[:40]!r} is not known here; the fields are {known}", param[:40], "unknown_parameter")
    # Of the place inside the field only the numbers are told: a union names its branches after Python's types.
    field = param + "".join(f"[{part}]" for part in first["loc"][1:] if isinstance(part, int))
    if first["type"] == "missing":
        return bad_request(f"{field} is incomplete" if field != param else f"{param} is missing", param, MISSING)
    return bad_request(f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}", param, "invalid_value")
