"""The calculator agrees with Python on what it knows, and refuses the rest at once."""

import operator
import threading
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat
from nanochat.engine.tools import MAX_BITS, MAX_CHARACTERS, MAX_OUTPUT, calculator, calculator_tools, python_tools

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
             "//": operator.floordiv, "%": operator.mod}  # fmt: skip


@pytest.mark.parametrize(
    "expression, result",
    [
        ("12*7", "84"),
        ("'strawberry'.count('r')", "3"),
        ('"strawberry".count("rr")', "1"),
        (" 123 + 456 ", "579"),
        ("12/4", "3.0"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("-(3 - 5) * +2", "4"),
        ("0.1+0.2", "0.30000000000000004"),
        ("1.5e3 + .5", "1500.5"),
        ("1,234,567 + 1", "1234568"),
        ("'a,b,c'.count(',')", "2"),
        ("'1,000'.count(',')", "1"),
        ("'it\"s'.count('\"')", "1"),
        ("'naïve café'.count('é')", "1"),
        ("'aa'.count('a') * 10", "20"),
        ("10**300", "1" + "0" * 300),
        ("2**-(10**300)", "0.0"),
    ],
)
def test_known_values(expression: str, result: str) -> None:
    assert calculator(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "", " ", "hello", "1 +", "(1", "1)", "1 2", "()", "1,2", "1_000", "0x10", "1j", "True", "x", "'a'", "'a'*3",
        "'a'+'b'", "'a'.upper()", "'a'.count", "'a'.count()", "'a'.count('a', 1)", "'a'.count(1)", "1 .count('1')",
        "'a'.count(*'b')", "'a'.count(x='a')", "__import__('os').getcwd()", "().__class__", "[1]", "1 if 1 else 2",
        "1if 2else 3", "lambda: 1", "1 and 2", "1 < 2", "~1", "1 @ 2", "1 << 2", "f'{1}'", "'\\d'.count('d')",
        "1\n+2", "1;2", "1/0", "1//0", "1%0", "0**-1", "0.0**-1", "007", "٣+٤", "1\0", "(-8)**0.5", "1e999",
    ],
)  # fmt: skip
def test_everything_else_has_no_result_and_no_warning(expression: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculator(expression) is None


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9", "9**9**9**9", "2**1025", "(2**1000)**1000", "1e308*10", "9.9**9999", "10**300*10**300",
        "9" * 5000, "1" * 1_000_000, "'" + "a" * 1_000_000 + "'.count('a')", "(" * 400 + "1" + ")" * 400,
        "-" * 900 + "1", "+".join(["1"] * 400), "(10**300)**(10**300)", "1" * 400 + "/3.0",
    ],
)  # fmt: skip
def test_what_explodes_is_refused(expression: str) -> None:
    assert calculator(expression) is None


NUMBERS = st.one_of(
    st.integers(0, 10**6),
    st.decimals(0, 1000, places=3).map(float),
)


def trees(depth: int) -> st.SearchStrategy[tuple[str, Any]]:
    """Expressions with the value that Python's operators give them; None where they raise."""
    leaf = NUMBERS.map(lambda number: (repr(number), number))
    if depth == 0:
        return leaf
    part = trees(depth - 1)

    def binary(parts: tuple) -> tuple[str, Any]:
        (left, a), sign, (right, b) = parts
        try:
            value = None if a is None or b is None else OPERATORS[sign](a, b)
        except ArithmeticError:
            value = None
        return f"({left} {sign} {right})", value

    return st.one_of(
        leaf,
        part.map(lambda tree: (f"-{tree[0]}", None if tree[1] is None else -tree[1])),
        st.tuples(part, st.sampled_from(sorted(OPERATORS)), part).map(binary),
    )


@given(trees(4))
def test_arithmetic_is_pythons(tree: tuple[str, Any]) -> None:
    expression, value = tree
    assert calculator(expression) == (None if value is None else str(value))


@given(st.integers(-(10**4), 10**4), st.integers(-40, 400))
def test_powers_are_pythons_or_refused(base: int, exponent: int) -> None:
    result = calculator(f"({base})**({exponent})")
    if base == 0 and exponent < 0 or exponent > 0 and abs(base) ** exponent >= 2**MAX_BITS:
        assert result is None
    else:
        assert result == str(base**exponent)


@given(st.text("abcR ,.é", max_size=40), st.text("abcR ,é", max_size=2))
def test_counting_is_pythons(text: str, part: str) -> None:
    assert calculator(f"'{text}'.count('{part}')") == str(text.count(part))


@given(st.text(max_size=60) | st.text("0123456789+-*/%().eE ", max_size=MAX_CHARACTERS + 10))
def test_any_text_gives_a_short_number_or_nothing(text: str) -> None:
    result = calculator(text)
    assert result is None or float(result) == float(result) and len(result) <= 400


def test_the_glue_goes_from_ids_to_ids_in_any_thread(tokenizer) -> None:
    tools = calculator_tools(tokenizer)
    results: list[list[int] | None] = []

    def work() -> None:
        results.append(tools.run(tokenizer.encode("12 + 30")))
        results.append(tools.run(tokenizer.encode("12 +")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [tokenizer.encode("42"), None]
    assert tools.ids == chat.tool_ids(tokenizer)


@pytest.mark.parametrize(
    "code, printed",
    [("2 ** 10", "1024"), ("sorted('cab')", "['a', 'b', 'c']"), ("x = 5", ""),
     ("print('a'); 1 / 0", "a\nZeroDivisionError: division by zero"), ("'ab' * 5000", "'" + "ab" * 5000)],
)  # fmt: skip
def test_python_answers_what_the_calculator_does_not_know(tokenizer, code: str, printed: str) -> None:
    tools = python_tools(tokenizer)
    assert tools.slow
    result = tools.run(tokenizer.encode(code))
    assert result is not None and tokenizer.decode(result) == printed[:MAX_OUTPUT]
