"""What clients send, as pydantic models: for validation, and for /docs and /openapi.json.

Unknown fields are ignored, because every version of OpenAI's clients sends new ones; /generate, which people write by
hand, refuses them. Null means not given.
"""

import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nanochat.web.bodies import unsupported
from nanochat.web.bodies.refusal import refusal
from nanochat.web.errors import bad_request

MAX_CHOICES = 128
MAX_INSPECTED = 256  # tokens
MAX_STOPS = 16
MAX_TOOLS = 128
MAX_STOP_CHARACTERS = 500
MAX_GENERATED = 4096  # for /generate, whose texts may outgrow the context: each token then reads a whole context anew
# JSON can spell half of a surrogate pair, which no text can hold: where a program cut a string in the middle of an
# emoji. The first alternative skips other escapes and whole pairs.
LONE_SURROGATE = re.compile(rb"(\\[^u]|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..")

Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, strict=False)]  # the key of an object, which JSON spells as a string
Repetition = Annotated[float, Field(gt=0, le=100)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Schema = dict[str, Any] | bool | str
Choices = Annotated[list[str], Field(min_length=1, max_length=1000)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]


def _optional(description: str, **limits: Any) -> Any:
    return Field(default=None, description=description, **limits)


class Body(BaseModel):
    """A JSON object. Strict: a string is not accepted as a number."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, content: object) -> object:
        if isinstance(content, dict):
            return {name: value for name, value in content.items() if value is not None}
        return content


Anybody = TypeVar("Anybody", bound=Body)


class Part(Body):
    """A part of a message. Only the assistant's may be a tool call (python) or its output (python_output)."""

    type: Literal["text", "input_text", "output_text", "python", "python_output"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, content: object) -> object:
        if not isinstance(content, dict):
            return content
        kind = content.get("type")
        if kind == "refusal":
            return {"type": "text", "text": content.get("refusal")}
        if isinstance(kind, str) and kind not in PARTS:
            raise ValueError(f"a part of type {kind[:40]!r} is not supported: the models here read text only")
        return content


PARTS = get_args(Part.model_fields["type"].annotation)


def _as_parts(content: object) -> object:
    if not isinstance(content, (str, list)):
        raise ValueError("expected a string or a list of parts")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]
# Beyond OpenAI's letters, digits, _ and -, what the names of other systems' tools have.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


class CalledFunction(Body):
    name: str
    arguments: str = Field(default="{}", description="a JSON object, as a string")


class Call(Body):
    """The assistant's call of a function."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """A message of a conversation. "developer" means "system"; "tool" has the result of a call."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Parts = Field(default_factory=list)
    parts: list[Part] = Field(
        default=[], description="the assistant's: the parts of an earlier reply; they count where their text is content"
    )
    tool_calls: list[Call] = Field(default=[], description="the assistant's calls of functions")
    tool_call_id: str | None = _optional("of a tool's message: the call that it answers")
    function_call: CalledFunction | None = _optional("older form of tool_calls")
    name: str | None = _optional("not used: the model reads roles and texts only")
    refusal: str | None = _optional("of the assistant's message without content: its text")

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.function_call:
            self.tool_calls = [*self.tool_calls, Call(function=self.function_call)]
        if self.role != "assistant":
            if self.tool_calls:
                raise ValueError("only the assistant's messages may have tool_calls")
            if self.role not in ("tool", "function") and not self.model_fields_set & {"content"}:
                raise ValueError("it has no content")
            if any(part.type.startswith("python") for part in self.content):
                raise ValueError("only the assistant's content may have tool parts")
        elif self.refusal and not self.content:
            self.content = [Part(type="text", text=self.refusal)]
        return self


class Function(Body):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = _optional("a JSON schema of an object; default: no parameters")
    strict: bool | None = _optional("calls always keep to the schema")


class Tool(Body):
    type: Literal["function"] = "function"
    function: Function


class FunctionName(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(min_length=1)


class AllowedToolsChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, description="functions that the model may call")]
ToolChoice = Literal["auto", "none", "required"] | AllowedToolsChoice | NamedTool


Messages = Annotated[list[Message], Field(max_length=2000, examples=[[{"role": "user", "content": "Hello!"}]])]


Ids = Annotated[list[int], Field(min_length=1)]
Some = Field(min_length=1, max_length=MAX_CHOICES)
Prompts = str | Ids | Annotated[list[str], Some] | Annotated[list[Ids], Some]


TRUNCATED = '"oldest" or "auto": a prompt that leaves the reply no room loses its oldest messages, a text its beginning'
Truncation = Annotated[Literal["disabled", "oldest", "auto"], Field(description=TRUNCATED)]


class StreamOptions(Body):
    include_usage: bool = Field(default=False, description="end the stream with a chunk that has the usage")


class StructuredOutputs(Body):
    """What a reply must be, as vLLM takes it: one of json, json_object, regex, choice and grammar, and the style."""

    model_config = ConfigDict(extra="forbid")
    json_: Schema | None = _optional("as json_schema", alias="json")
    json_object: bool = Field(default=False, description="any JSON object")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = True
    whitespace_pattern: str | None = None


class Sampling(Body):
    """The fields that chats and completions share."""

    model_config = ConfigDict(extra="allow")  # so that `unsupported.check` sees them
    model: str | None = _optional("an id from /v1/models; default: the first")
    max_tokens: int | None = _optional("maximum tokens of the reply; -1: as many as the context holds", ge=-1)
    max_completion_tokens: int | None = _optional("newer name of max_tokens", ge=-1)
    n_predict: int | None = _optional("llama.cpp's name of max_tokens", ge=-1)
    min_tokens: int = Field(default=0, description="the reply does not end before it has this many tokens", ge=0)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = _optional("0 takes the most likely token")
    top_p: Fraction = 1.0
    top_k: int | None = _optional("sample from the k most likely tokens; 0 or -1: from all", ge=-1)
    min_p: Fraction = 0.0
    repetition_penalty: Repetition | None = _optional("1: none; larger: fewer repetitions of the prompt and the reply")
    repeat_penalty: Repetition | None = _optional("llama.cpp's name of repetition_penalty")
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={}, description="numbers from -100 to 100 by token id"
    )
    seed: Seed | None = _optional("the same seed gives the same reply; -1: a new one each time")
    n: int = Field(default=1, description="number of replies", ge=1, le=MAX_CHOICES)
    stop: Stops = Field(
        default=[], description=f"one to {MAX_STOPS} strings, of up to {MAX_STOP_CHARACTERS} characters each"
    )
    begins_with: list[int] = Field(
        default=[], description="the reply begins with these token ids, which count as sampled", max_length=100_000
    )
    stop_token_ids: list[int] = Field(default=[], description="these tokens end the reply, too", max_length=1000)
    ignore_eos: bool = Field(default=False, description="the model's own end of a text does not end the reply")
    include_stop_str_in_output: bool = Field(default=False, description="show the stop string that ended the reply")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: dict[str, Any] | None = _optional(
        'type: "text", "json_object", or "json_schema" with {"json_schema": {"schema": ...}}'
    )
    json_schema: Schema | None = _optional("the reply is JSON of this schema; objects have only declared properties")
    grammar: str | None = _optional("the reply follows this grammar, in GBNF or llguidance's Lark")
    guided_json: Schema | None = _optional("json_schema, by an older name of vLLM's; so are the next three")
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = _optional("what may stand between two tokens of JSON; default: one space")
    structured_outputs: StructuredOutputs | None = None
    truncation: Truncation = "disabled"

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def ends(self) -> dict[str, Any]:
        """Where the text ends, for ReplyText."""
        return {"min_tokens": self.min_tokens, "show_stop": self.include_stop_str_in_output}

    @property
    def truncates(self) -> bool:
        return self.truncation != "disabled"

    @property
    def penalties(self) -> bool:
        """Whether any repetition is penalised."""
        return self.repetition != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def repetition(self) -> float:
        return self._one("repetition_penalty", "repeat_penalty") or 1.0

    @property
    def length(self) -> int | None:
        """The most tokens of the reply, -1 for no limit."""
        return self._one("max_completion_tokens", "max_tokens", "n_predict")

    def _one(self, *names: str) -> Any:
        """The value of a setting that has several names. Raises ApiError where they differ."""
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if len(set(given.values())) > 1:
            one, other = list(given)[:2]
            raise bad_request(f"{one} and {other} mean the same and differ; send one of them", one, "invalid_value")
        return next(iter(given.values()), None)


class ChatRequest(Sampling):
    """Answer a conversation."""

    messages: Messages
    continue_final_message: bool | None = _optional(
        "a last message of the assistant's is: true (the default) the beginning of the reply, false a turn of its own"
    )
    add_generation_prompt: bool | None = _optional("false: only with continue_final_message")
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    tools: Tools = []
    tool_choice: ToolChoice | None = _optional(
        '"auto", "none", "required", {"type": "function", "function": {"name": ...}} or {"type": "allowed_tools", ...}'
    )
    parallel_tool_calls: bool = Field(default=True, description="whether a reply may have several calls")
    functions: list[Function] = Field(default=[], max_length=MAX_TOOLS, description="older form of tools")
    function_call: Literal["auto", "none"] | FunctionName | None = _optional(
        'older form of tool_choice: "auto", "none" or {"name": ...}'
    )


class CompletionRequest(Sampling):
    """Continue a text."""

    prompt: Prompts = Field(
        default="", description="a string, a list of strings, token ids, or a list of lists of token ids",
        examples=["Once upon a time"],
    )  # fmt: skip
    logprobs: int | None = _optional("report log probabilities, and those of this many top tokens", ge=0, le=20)
    echo: bool = Field(default=False, description="put the prompt before the reply")
    add_special_tokens: bool = Field(default=True, description="false is not supported; send token ids instead")
    suffix: str = Field(default="", description="not supported")
    best_of: int | None = _optional("not supported, unless equal to n", ge=1)


class TokenizeRequest(Body):
    """The token ids of a text, or of a conversation as the model reads it."""

    model: str | None = None
    text: str | None = None
    messages: Messages | None = None
    tools: Tools = []
    truncation: Truncation = "disabled"
    max_tokens: int | None = _optional("for truncation: maximum tokens of the reply", ge=-1)


class DetokenizeRequest(Body):
    """The text of token ids."""

    model: str | None = None
    tokens: list[int] = Field(max_length=1_000_000)


class InspectRequest(Body):
    """What a model computes for a text, or a conversation whose last message may be an answer."""

    model: str | None = None
    text: str | None = None
    messages: Messages | None = None
    layer: int | None = _optional("whose attention; default: the last", ge=0)
    head: int | None = _optional("whose attention; default: the mean of all", ge=0)
    last: int = Field(default=64, ge=1, le=MAX_INSPECTED, description="how many of the last tokens to show")
    top: int = Field(default=3, ge=1, le=10, description="how many predictions of each layer")


class ClassicMessage(Body):
    role: Literal["user", "assistant"]
    content: str = Field(min_length=1, max_length=8000)


class ClassicRequest(Body):
    """The chat of earlier versions, with their limits."""

    model: str | None = None
    messages: list[ClassicMessage] = Field(min_length=1, max_length=500)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    top_k: int | None = Field(default=None, ge=1, le=200)
    stream: bool = Field(default=False, description='events {"token", "gpu"}, and {"done": true} at the end')


class GenerateRequest(Body):
    """Continue a text, the plain way; of one longer than the context the end. Other fields are refused.

    Defaults are the operator's; unless changed they are nanoGPT's: 256 tokens, temperature 0.8, top_k 200.
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    prompt: str = Field(examples=["Once upon a time"])
    max_tokens: int | None = _optional("may exceed the context", ge=1, le=MAX_GENERATED)
    temperature: float | None = _optional("0 takes the most likely token", ge=0)
    top_k: int | None = _optional("sample from the k most likely tokens; 0: from all", ge=0)
    seed: Seed | None = _optional("the same seed gives the same reply")
    stop: Stops = Field(default=[], description="one string or several; the text ends before the first of them")
    num_samples: int = Field(default=1, description='number of continuations, all in "texts"', ge=1, le=MAX_CHOICES)
    stream: bool = Field(default=False, description='events {"index", "text"}, and [DONE] at the end')


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error looks like this."""

    error: ErrorDetail


BODIES = (
    ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, InspectRequest, ClassicRequest, GenerateRequest,
)  # fmt: skip


def validated(kind: type[Anybody], body: bytes) -> Anybody:
    """The JSON of a request as a `kind`. Raises ApiError that names the first field that is wrong."""
    body = LONE_SURROGATE.sub(lambda found: found[1] or rb"\ufffd", body)
    try:
        result = kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error, kind, body) from None
    if isinstance(result, Sampling):
        unsupported.check(result.model_extra or {}, result.penalties)
    return result
