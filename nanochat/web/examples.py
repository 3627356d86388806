"""What /docs and /openapi.json show: requests and what comes back, and the same as commands and programs to copy.

Replies are cut to what most clients read. A test sends every request, and runs every program.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

MODEL = "sft:d3"  # stands for the model that the server has
KEY = "YOUR_KEY"  # stands for a server's key
WIDTH = 72  # of a line in a program
LANGUAGES = {"curl": "bash", "Python": "python", "JavaScript": "javascript"}  # what is shown -> Pygments' name

_HELLO = [{"role": "user", "content": "What is 12 * 7?"}]
_USAGE = {"prompt_tokens": 15, "completion_tokens": 20, "total_tokens": 35}
_HEAD = {"id": "chatcmpl-6726d315c0b4c2ec823bdbbd", "object": "chat.completion", "created": 1796103184, "model": MODEL}
_CHAT = {
    **_HEAD, "usage": _USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is 84."}, "finish_reason": "stop"}],
}  # fmt: skip
_CHUNK = {**_HEAD, "object": "chat.completion.chunk"}
_SIDES = {"type": "object", "properties": {"sides": {"enum": [6, 20]}}, "required": ["sides"]}
_ROLL = {"type": "function", "function": {"name": "roll", "description": "Roll a die.", "parameters": _SIDES}}
_CALL = {"id": "call_3f1c0b9a", "type": "function", "function": {"name": "roll", "arguments": '{"sides": 20}'}}
_ASK = {"role": "user", "content": "Roll a die with 20 sides."}
_MOOD = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}


@dataclass(frozen=True)
class Example:
    """A request to one route and its reply."""

    path: str
    title: str
    request: dict[str, Any] | None = None
    """the body; None: a GET"""
    reply: Any = None
    """JSON, or the data of the first events of a stream"""
    about: str = ""
    result: str = ""
    """what a program prints of `reply`, in Python and in JavaScript"""
    python: str = ""
    """the same in Python, where it differs"""
    status: int = 200
    call: str = ""
    """the method of OpenAI's client in Python; "" where it has none"""

    @property
    def streams(self) -> bool:
        return isinstance(self.reply, list)


_CHATS, _TEXTS = "chat.completions.create", "completions.create"
EXAMPLES = (
    Example(
        "/v1/chat/completions", "Chat", {"model": MODEL, "messages": _HELLO, "temperature": 0}, _CHAT,
        "Send the whole conversation each time; the server keeps none.",
        "reply.choices[0].message.content", call=_CHATS,
    ),
    Example(
        "/v1/chat/completions", "Stream", {"model": MODEL, "messages": _HELLO, "stream": True},
        [
            {**_CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {**_CHUNK, "choices": [{"index": 0, "delta": {"content": "It"}, "finish_reason": None}]},
        ],
        "Server-sent events, a piece of the answer each; the last is [DONE].",
        "chunk.choices[0].delta.content", call=_CHATS,
    ),
    Example(
        "/v1/chat/completions", "Tools",
        {"model": MODEL, "messages": [_ASK], "tools": [_ROLL], "tool_choice": "required", "max_tokens": 60},
        {**_HEAD, "choices": [{"index": 0, "finish_reason": "tool_calls",
                               "message": {"role": "assistant", "content": None, "tool_calls": [_CALL]}}]},
        "The model asks for a call of your function; a grammar keeps its arguments to the schema.",
        "reply.choices[0].message.tool_calls[0].function.arguments", call=_CHATS,
    ),
    Example(
        "/v1/chat/completions", "A tool's result",
        {"model": MODEL, "tools": [_ROLL],
         "messages": [_ASK, {"role": "assistant", "content": "", "tool_calls": [_CALL]},
                      {"role": "tool", "tool_call_id": _CALL["id"], "content": "17"}]},
        _CHAT, "Call the function yourself, and send what it returned after the model's message.",
        "reply.choices[0].message.content", call=_CHATS,
    ),
    Example(
        "/v1/chat/completions", "JSON of a schema",
        {"model": MODEL, "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 60,
         "response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": _MOOD}}},
        {**_CHAT, "choices": [{"index": 0, "finish_reason": "stop",
                               "message": {"role": "assistant", "content": '{"mood":"good"}'}}]},
        "A grammar lets the model write nothing else; max_tokens can still cut it off.",
        "reply.choices[0].message.content", call=_CHATS,
    ),
    Example(
        "/v1/completions", "Completions", {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4},
        {"id": "cmpl-a180bf9e42bb198c1876c116", "object": "text_completion", "created": 1796103185, "model": MODEL,
         "choices": [{"index": 0, "text": " there was a fox", "logprobs": None, "finish_reason": "length"}],
         "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}},
        "Continue a text; without max_tokens, by 16 tokens.", "reply.choices[0].text", call=_TEXTS,
    ),
    Example(
        "/v1/responses", "Responses", {"model": MODEL, "input": "What is 12 * 7?"},
        {"id": "resp_1f465b1f144aea0d2c51b11f", "object": "response", "status": "completed", "model": MODEL,
         "output": [{"type": "message", "role": "assistant",
                     "content": [{"type": "output_text", "text": "It is 84.", "annotations": []}]}],
         "usage": {"input_tokens": 15, "output_tokens": 20, "total_tokens": 35}},
        "OpenAI's newer form of chats. The server stores nothing: send earlier items in `input`.",
        "reply.output[0].content[0].text", python="reply.output_text", call="responses.create",
    ),
    Example(
        "/tokenize", "Tokenize", {"text": "Hello!"}, {"tokens": [15496, 0], "count": 2, "texts": ["Hello", "!"]},
        "The ids of a text, or of `messages` as the model reads them.", "reply.tokens", python='reply["tokens"]',
    ),
    Example(
        "/v1/chat/completions", "Errors", {"model": MODEL, "messages": "Hello!"},
        {"error": {"message": 'messages is "Hello!"; expected a list', "type": "invalid_request_error",
                   "param": "messages", "code": "invalid_value"}},
        "What is wrong with a request, and with which field.", "reply.error.message",
        python='reply["error"]["message"]', status=400,
    ),
    Example("/v1/models", "Models", None,
            {"object": "list", "data": [
                {"id": MODEL, "object": "model", "context_length": 512, "display_name": "d3 · SFT, step 1,400",
                 "about": "d3 knows the little world: its people, towns and animals, sums, spelling and stories.",
                 "examples": [{"task": "followup", "questions": ["Where does Mira live?", "And what is her job?"]}],
                 "trained": {"parent": "base:d3", "conversations": "littleworld"}},
            ]},
            "", "reply.data[0].id", call="models.list"),
    Example("/detokenize", "Detokenize", {"tokens": [72, 105]}, {"text": "Hi"}, "",
            "reply.text", python='reply["text"]'),
    Example(
        "/inspect", "Inspect", {"text": "Once upon a time", "head": 0, "last": 1, "top": 1},
        {"model": MODEL, "layers": 4, "heads": 4, "layer": 3, "head": 0, "tokens": [" time"], "ids": [640],
         "earlier_tokens": 4, "attention": [[0.31]], "attention_to_earlier": [0.69],
         "logit_lens": [[[{"text": ",", "probability": 0.72}]]]},
        "", "reply.attention", python='reply["attention"]',
    ),
    Example("/chat/completions", "The original's chat", {"messages": _HELLO}, _CHAT, "",
            "reply.choices[0].message.content", python='reply["choices"][0]["message"]["content"]'),
    Example("/generate", "Generate", {"prompt": "Once upon a time", "max_tokens": 4}, {"text": "there was a fox"}, "",
            "reply.text", python='reply["text"]'),
    Example("/health", "Health", None,
            {"status": "ok", "ready": True, "models": [MODEL], "num_gpus": 1, "available_workers": 1}, "",
            "reply.status", python='reply["status"]'),
    Example("/stats", "Stats", None, {"total_workers": 1, "available_workers": 1, "busy_workers": 0}, "",
            "reply.busy_workers", python='reply["busy_workers"]'),
    Example(
        "/typeset", "Typeset", {"items": [{"type": "math", "text": "x^2"}]},
        {"items": [["math", {"display": "inline"}, ["mrow", {}, ["msup", {}, ["mi", {}, "x"], ["mn", {}, "2"]]]]]},
        "", "reply.items[0]", python='reply["items"][0]',
    ),
)  # fmt: skip


def for_model(example: Example, model: str) -> Example:
    """The example with the name of a model that the server has."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: named(each) for name, each in value.items()}
        if isinstance(value, list):
            return [named(each) for each in value]
        return model if value == MODEL else value

    return replace(example, request=named(example.request), reply=named(example.reply))


def shown_reply(example: Example) -> str:
    """The reply as text: JSON, or the beginning of a stream."""
    if example.streams:
        return "\n\n".join([*(f"data: {json.dumps(event)}" for event in example.reply), "…", "data: [DONE]"])
    return _written(example.reply)


def shown_request(example: Example) -> str:
    return _written(example.request)


def programs(example: Example, url: str, key: str = "") -> dict[str, str]:
    """An example as it is typed or run, by language, for a server at `url`; key: what clients have to send, if any."""
    return {
        "curl": _curl(example, url, key), "Python": _python(example, url, key),
        "JavaScript": _javascript(example, url, key),
    }  # fmt: skip


def _curl(example: Example, url: str, key: str) -> str:
    parts = [f"curl {'-N ' if example.streams else ''}{url}{example.path}"]
    if key:
        parts.append(f'-H "Authorization: Bearer {key}"')
    if example.request is not None:
        parts += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(_written(example.request))}"]
    return " \\\n  ".join(parts)


def _python(example: Example, url: str, key: str) -> str:
    printed = example.python or example.result
    if not example.call:
        headers = f', headers={{"Authorization": "Bearer {key}"}}' if key else ""
        sent = "" if example.request is None else f", json={_written(example.request, _in_python)}"
        method = "get" if example.request is None else "post"
        asks = f'reply = httpx.{method}("{url}{example.path}"{sent}{headers}).json()'
        return f"import httpx\n\n{asks}\nprint({printed})\n"
    given = ",\n".join(f"{name}={_written(value, _in_python)}" for name, value in (example.request or {}).items())
    given = "    " + given.replace("\n", "\n    ") if given else ""
    call = f"client.{example.call}({f'{chr(10)}{given},{chr(10)}' if given else ''})"
    ends = f"reply = {call}\nprint({printed})\n"
    if example.streams:
        ends = f'for chunk in {call}:\n    print({printed} or "", end="")\n'
    return f'from openai import OpenAI\n\nclient = OpenAI(base_url="{url}/v1", api_key="{key or "-"}")\n{ends}'


def _javascript(example: Example, url: str, key: str) -> str:
    lines = []
    if example.request is not None:
        lines.append('method: "POST"')
    headers = {} if example.request is None else {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if headers:
        lines.append(f"headers: {json.dumps(headers)}")
    if example.request is not None:
        lines.append(f"body: JSON.stringify({_written(example.request)})".replace("\n", "\n  "))
    options = "".join(f"\n  {line}," for line in lines)
    asks = f'const response = await fetch("{url}{example.path}"{f", {{{options}{chr(10)}}}" if lines else ""});\n'
    if example.streams:
        return asks + _READS_EVENTS.replace("RESULT", example.result.replace("chunk", "JSON.parse(line.slice(6))"))
    return f"{asks}const reply = await response.json();\nconsole.log({example.result});\n"


_READS_EVENTS = """let rest = "";
for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + text).split("\\n");
  rest = lines.pop();
  for (const line of lines)
    if (line.startsWith("data: {")) console.log(RESULT ?? "");
}
"""


def _written(value: Any, leaf: Callable[[Any], str] = json.dumps) -> str:
    """JSON, with what fits on a line on one; leaf: how what has no parts is written."""
    if not isinstance(value, (dict, list)):
        return leaf(value)
    if isinstance(value, dict):
        opens, closes, parts = "{", "}", [f"{json.dumps(name)}: {_written(each, leaf)}" for name, each in value.items()]
    else:
        opens, closes, parts = "[", "]", [_written(each, leaf) for each in value]
    flat = f"{opens}{', '.join(parts)}{closes}"
    if len(flat) <= WIDTH and "\n" not in flat:
        return flat
    inner = ",\n".join(parts).replace("\n", "\n  ")
    return f"{opens}\n  {inner}\n{closes}"


def _in_python(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, bool) else json.dumps(value)
