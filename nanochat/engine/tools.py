"""Tools that a model may call while it answers: a calculator, which runs no code, and where allowed Python."""

import ast
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from nanochat import chat, sandbox
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

MAX_CHARACTERS = 1000
MAX_DEPTH = 100
MAX_OUTPUT = 1000  # characters of a program's output that the model gets to read
MAX_BITS = 1024  # of an integer: the range of a float, and far below Python's limit for printing one

# Everything that an expression may consist of. Checked before parsing, because Python's parser prints warnings about
# oddities such as '\d' or "1if".
_STRING = r"'[^'\\\n]*'" + r'|"[^"\\\n]*"'
_TOKEN = re.compile(rf"{_STRING}|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+|\.count(?=\()|[-+*/%() ]")
_STRING_OR_COMMA = re.compile(rf"({_STRING})|(?<=[0-9]),(?=[0-9]{{3}}(?![0-9]))")

_BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Tools:
    """How the Engine serves a tool call, in token ids.

    `run` takes the ids between python_start and python_end and returns those of the result, which the Engine forces
    into the reply between output_start and output_end; None forces nothing.
    """

    ids: chat.ToolIds
    run: Callable[[list[int]], list[int] | None]
    slow: bool = False
    """run it in a thread of its own, so that the other requests continue"""


def calculator_tools(tokenizer: Tokenizer) -> Tools:
    """Tools with the calculator. Raises UserError if the tokenizer has no tokens for tool calls."""

    def run(ids: list[int]) -> list[int] | None:
        result = calculator(tokenizer.decode(ids))
        return None if result is None else tokenizer.encode(result)

    return Tools(chat.tool_ids(tokenizer), run)


def python_tools(tokenizer: Tokenizer) -> Tools:
    """Tools with the calculator and, for everything else, Python in the sandbox.

    The model reads the program's output or its error. Raises UserError as `calculator_tools` does.
    """

    def run(ids: list[int]) -> list[int]:
        code = tokenizer.decode(ids)
        result = calculator(code)
        if result is None:
            done = sandbox.run(code)
            result = "\n".join(part for part in (done.stdout.strip(), done.error) if part)
        return tokenizer.encode(result[:MAX_OUTPUT])

    return Tools(chat.tool_ids(tokenizer), run, slow=True)


def permit_code(what: str, unsafe_code: bool, instead: str) -> str:
    """A line for the user about how model-written Python, which `what` runs, is isolated on this machine.

    Raises UserError if isolation is incomplete, unless `unsafe_code`, naming what is missing and what to do `instead`.
    """
    missing = sandbox.missing()
    if not missing:
        return "Model-written Python runs in a sandbox, isolated from network, processes, files and memory."
    lacks = "; ".join(missing)
    if not unsafe_code:
        raise UserError(
            f"{what} runs model-written Python, and this machine cannot isolate it from: {lacks}. "
            f"Use a Linux machine or container that provides this, {instead}, "
            "or add --unsafe_code to run it anyway; it can then do anything that you can do"
        )
    return f"--unsafe_code: model-written Python runs without complete isolation; not isolated: {lacks}."


def calculator(expression: str) -> str | None:
    """The value of an arithmetic expression or of `'text'.count('x')`, as Python would print it.

    Knows numbers (also 1,000 and 1e3), + - * / // % **, parentheses and counting. Returns None for anything else, for
    an error such as division by zero, and at once for results that are too large, such as 9**9**9.
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    expression = _STRING_OR_COMMA.sub(r"\1", expression.strip())
    if _TOKEN.sub("", expression):
        return None
    try:
        value = _value(ast.parse(expression, mode="eval").body, MAX_DEPTH)
    except (SyntaxError, ArithmeticError, _Refused, RecursionError, MemoryError):
        return None  # the last two: too deep nesting for CPython's parser
    return str(value)


class _Refused(Exception):
    """The calculator does not know the expression, or it is too large."""


def _value(node: ast.expr, depth: int) -> int | float:
    if depth == 0:
        raise _Refused
    match node:
        case ast.Constant(value=int() | float() as value):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand, depth - 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand, depth - 1)
        case ast.BinOp(left=left, op=op, right=right):
            value = _binary(type(op), _value(left, depth - 1), _value(right, depth - 1))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            value = text.count(part)
        case _:
            raise _Refused
    if isinstance(value, int):
        fits = value.bit_length() <= MAX_BITS
    else:
        fits = isinstance(value, float) and math.isfinite(value)  # (-8)**0.5 is complex
    if not fits:
        raise _Refused
    return value


def _binary(op: type, left: int | float, right: int | float) -> int | float:
    # A power's size must be known before the work; the other operations at most double the digits.
    bits = left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    if op is ast.Pow and bits > 2 * MAX_BITS:
        raise _Refused
    return _BINARY[op](left, right)
