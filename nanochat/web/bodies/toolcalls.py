"""Functions that a client offers: described to the model in the system text, called by it in its reply's text.

    <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>

The client runs the function and sends the result, which the model reads as the next user's text:

    <tool_response>3</tool_response>

All of it is plain text, so it needs no special tokens, and conversations that hold it teach a model to use tools. No
model has to know it: a grammar made from the functions' schemas allows only calls that are right.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanochat.chat import ToolIds
from nanochat.engine.request import Constraint
from nanochat.engine.text import TextChunk
from nanochat.web.bodies.grammar import Grammars, Wanted, styled
from nanochat.web.bodies.schemas import AllowedToolsChoice, Call, ChatRequest, Function, FunctionName, NamedTool
from nanochat.web.errors import ApiError, bad_request

OPENING, CLOSING = "<tool_call>", "</tool_call>"
BEFORE = "You can use these tools, one per line, each with the JSON schema of its arguments:"
AFTER = (
    f'To use one, write {OPENING}{{"name": "NAME", "arguments": {{...}}}}{CLOSING}. '
    "The result follows in <tool_response></tool_response>."
)
HEAD = re.compile(r'\{"name": "([^"]+)", "arguments": ')


@dataclass(frozen=True)
class Offer:
    """What a reply may call."""

    described: Sequence[Function]
    """what the system text describes"""
    allowed: Sequence[Function]
    """what may be called now"""
    required: bool
    parallel: bool
    place: str
    """where the functions stand in the body: "tools[{}].function" or "functions[{}]\""""


def offer(body: ChatRequest) -> Offer | None:
    """What the body lets the model call; None for nothing. Raises ApiError for a choice of what is not there."""
    functions, choice, where = [tool.function for tool in body.tools], body.tool_choice, "tools[{}].function"
    chosen_by = "tool_choice"
    if body.functions or body.function_call:
        if body.tools or body.tool_choice:
            raise bad_request("give either tools or functions, their older form", "functions")
        functions, where, chosen_by = body.functions, "functions[{}]", "function_call"
        choice = body.function_call
        choice = NamedTool(function=choice) if isinstance(choice, FunctionName) else choice
    check(functions, where)
    names = _chosen(choice)
    known = [function.name for function in functions]
    for name in names or []:
        if name not in known:
            listed = f"the tools are {', '.join(known)}" if known else "there are no tools"
            raise bad_request(f"{chosen_by} names {name!r}; {listed}", chosen_by, "invalid_value")
    required = choice == "required" or isinstance(choice, NamedTool) or (
        isinstance(choice, AllowedToolsChoice) and choice.allowed_tools.mode == "required"
    )  # fmt: skip
    if required and not functions:
        raise bad_request(f"{chosen_by} asks for a call, but there are no tools", chosen_by, "invalid_value")
    if choice == "none" or not functions:
        return None
    allowed = [function for function in functions if names is None or function.name in names]
    return Offer(functions, allowed, required, body.parallel_tool_calls and not body.functions, where)


def check(functions: Sequence[Function], place: str = "tools[{}].function") -> None:
    """Raises ApiError for two functions of one name, and parameters that are not an object's."""
    param = place.partition("[")[0]
    seen: dict[str, int] = {}
    for number, function in enumerate(functions):
        where = place.format(number)
        if function.name in seen:
            before = place.format(seen[function.name])
            raise bad_request(f"{where}.name: {function.name!r} is also the name of {before}", param, "invalid_value")
        seen[function.name] = number
        kind = (function.parameters or {}).get("type", "object")
        if kind != "object":
            raise bad_request(f"{where}.parameters.type is {kind!r}; expected 'object'", param, "invalid_value")


def _chosen(choice: object) -> list[str] | None:
    """The names that a choice is limited to; None: all."""
    if isinstance(choice, NamedTool):
        return [choice.function.name]
    if isinstance(choice, AllowedToolsChoice):
        return [tool.function.name for tool in choice.allowed_tools.tools]
    return None


def description(functions: Iterable[Function]) -> str:
    """What the system text says about them."""
    lines = []
    for function in functions:
        about = {"name": function.name, "description": function.description, "parameters": function.parameters}
        lines.append(json.dumps({name: each for name, each in about.items() if each is not None}, ensure_ascii=False))
    return "\n".join([BEFORE, *lines, AFTER]) if lines else ""


def call_text(calls: Iterable[Call]) -> str:
    """Calls as the model writes them."""
    return "".join(_head(call.function.name) + (call.function.arguments or "{}") + "}" + CLOSING for call in calls)


def response_text(result: str) -> str:
    return f"<tool_response>{result}</tool_response>"


async def constraint(
    grammars: Grammars, offer: Offer, calculator: ToolIds | None, final: Wanted | None, prefill: str = ""
) -> Constraint:  # fmt: skip
    """The Constraint of a reply; see `grammar`. prefill: the text that it continues.

    Raises ApiError that names the schema that cannot be used.
    """
    if OPENING in prefill:
        raise bad_request("the reply cannot continue a call of a tool; leave the last message out", "messages")
    param = offer.place.partition("[")[0]
    if final and final.kind != "json":
        raise bad_request(f"{final.field} and {param} cannot both be kept; send one of them", final.param)
    text = final and _json(final.field, final.value, final.space, final.closed)
    try:
        # Any text may come before a call. A demand holds for all of the reply, also for what has begun.
        prefill = prefill if final and not offer.required else ""
        return await grammars.lark(grammar(offer, calculator, text), param, prefill)
    except ApiError:
        for function in offer.allowed:  # which of them is it?
            place = f"{offer.place.format(offer.described.index(function))}.parameters"
            try:
                await grammars.make(Wanted(place, "json", parameters(function)))
            except ApiError as error:
                raise bad_request(str(error), param, "invalid_json_schema") from None
        raise


def grammar(offer: Offer, calculator: ToolIds | None, final: str | None = None) -> str:
    """The replies that an offer allows, in llguidance's dialect of Lark.

    calculator: the tokens around its calls, which a text may hold; None where it may not. final: what a reply without
    calls must be, instead of any text.
    """
    rules = [f"call: {' | '.join(f'call_{n}' for n in range(len(offer.allowed)))}", f'next: "{OPENING}" call']
    for number, function in enumerate(offer.allowed):
        head = json.dumps(_head(function.name).removeprefix(OPENING))
        rules.append(f'call_{number}: {head} {_json("tools", parameters(function))} "}}{CLOSING}"')
    more = " next*" if offer.parallel else ""
    if offer.required:
        return "\n".join([f"start: next{more}", *rules])
    if final is not None:
        return "\n".join([f"start: final | next{more}", f"final: {final}", *rules])
    rules += ["text: /(?s:.*)/", f'before[suffix="{OPENING}"]: /(?s:.*)/']
    segments = f"(text <[{calculator.python_start}]> text <[{calculator.python_end}]>)* " if calculator else ""
    return "\n".join([f"start: {segments}(text | before call{more})", *rules])


def _json(place: str, schema: Any, *style: Any) -> str:
    try:
        return "%json " + json.dumps(styled(schema, *style))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise bad_request(f"{place} cannot be used: {reason}", place, "invalid_json_schema") from None


def parameters(function: Function) -> dict[str, Any]:
    """The schema that a call's arguments keep to."""
    given = function.parameters or {}
    return given if "$ref" in given else {"type": "object", "properties": {}, **given}


def _head(name: str) -> str:
    return f'{OPENING}{{"name": {json.dumps(name)}, "arguments": '


class CallParser:
    """Splits calls into chunks as their text comes: "call" with the name, then "arguments" in pieces.

    It relies on the grammar: what is between the parts of a call is known, and arguments are JSON.
    """

    def __init__(self, only_first: bool = False) -> None:
        """only_first: a call may only be the first thing of a reply. Then a text may spell one."""
        self.opening = OPENING
        self.only_first = only_first
        self._rest = ""  # what has not become a chunk
        self._depth = 0  # of brackets in the arguments
        self._in_arguments = self._in_string = self._escaped = False

    def add(self, text: str) -> list[TextChunk]:
        self._rest += text
        chunks = []
        while True:
            if self._in_arguments:
                size = self._arguments()
                if size:
                    chunks.append(TextChunk("arguments", self._rest[:size]))
                    self._rest = self._rest[size:]
                if self._in_arguments:
                    return chunks
            head = HEAD.search(self._rest)
            if head is None:
                return chunks
            chunks.append(TextChunk("call", head[1]))
            self._rest, self._in_arguments = self._rest[head.end() :], True

    def _arguments(self) -> int:
        """How much of the rest belongs to the arguments; notes where they end."""
        for position, character in enumerate(self._rest):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = not self._escaped and character == "\\"
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    ended = position + 1 + self._depth  # -1: the call's own bracket, after arguments without any
                    self._in_arguments, self._depth = False, 0
                    return ended
        return len(self._rest)


class Made(NamedTuple):
    """A call that a model made."""

    name: str
    arguments: str


def calls(chunks: Iterable[TextChunk]) -> list[Made]:
    """The calls of a reply."""
    made: list[Made] = []
    for kind, text in chunks:
        if kind == "call":
            made.append(Made(text, ""))
        elif kind == "arguments":
            made[-1] = made[-1]._replace(arguments=made[-1].arguments + text)
    return made
