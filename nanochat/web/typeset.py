"""Formulas as MathML, code as coloured runs: plain data, of which no part is HTML.

`typesetter` runs this file as a program of its own, which reads an item a line and writes a result a line. A macro can
make a formula endless and a regular expression may not end, so whoever waits sets the time, and ends the process.
"""

import contextlib
import html
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree.ElementTree import Element

MAX_TEXT = 20_000  # characters of code
MAX_TEX = 2000  # characters of a formula
MAX_NODES, MAX_DEPTH = 4000, 80  # of a formula
CPU_SECONDS, MEMORY = 10, 1 << 30  # for an item, and bytes: should the server be gone, nothing stays behind

# MathML's core, and of its attributes those that neither lead anywhere nor carry a style. Lengths stay small, so that
# no formula covers what is around it.
ELEMENTS = frozenset(
    "math mrow mi mn mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts "
    "mprescripts none mtable mtr mtd mstyle mpadded mphantom menclose".split()
)
ATTRIBUTES = frozenset(
    "display displaystyle scriptlevel stretchy fence form largeop movablelimits separator symmetric accent accentunder "
    "linethickness minsize maxsize width height depth lspace rspace notation columnalign mathvariant".split()
)
# The converter knows some environments only under one of their names.
ENVIRONMENTS = {
    **dict.fromkeys("aligned align alignat alignat* split eqnarray eqnarray* equation equation*".split(), "align*"),
    **dict.fromkeys("gather gather* gathered multline multline*".split(), "matrix"),
    "dcases": "cases",
}
ENVIRONMENT = re.compile(r"\\(begin|end)\{([a-z]+\*?)\}")
# Their limits stand below and above them; in a line of text, where browsers put them.
LARGE = frozenset("∑ ∏ ∐ ⋂ ⋃ ⋀ ⋁ ⨁ ⨂ ⨀ ⨄ ⨆ lim max min sup inf".split())
LIMITS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
VALUE = re.compile(r"[a-z]{1,20}|[+-]?\d{0,2}(\.\d{0,4})?(em|ex|px|pt|mu|%)?")

KINDS = {  # Pygments' names -> ours
    "Token.Comment": "comment", "Token.Comment.Preproc": "keyword", "Token.Keyword": "keyword",
    "Token.Keyword.Type": "type", "Token.Keyword.Constant": "number", "Token.Operator.Word": "keyword",
    "Token.Literal.String": "string", "Token.Literal.Number": "number", "Token.Name.Function": "name",
    "Token.Name.Class": "name", "Token.Name.Decorator": "name", "Token.Name.Tag": "keyword",
    "Token.Name.Attribute": "name", "Token.Name.Builtin": "type", "Token.Name.Exception": "type",
    "Token.Generic.Deleted": "deleted", "Token.Generic.Inserted": "inserted", "Token.Generic.Heading": "keyword",
    "Token.Generic.Subheading": "name", "Token.Generic.Prompt": "comment",
}  # fmt: skip


def typeset(item: dict[str, Any]) -> Any:
    """What an item becomes; None where it stays plain. item: type "math" or "code", text, display, language."""
    if item["type"] == "math":
        return formula(item["text"], item["display"])
    return code(item["text"], item["language"])


# ---------------------------------------------------------------- formulas


def formula(tex: str, display: bool) -> list | None:
    """LaTeX as a tree of MathML, [name, attributes, *children]; None for what cannot be read, or is too large."""
    from latex2mathml import exceptions
    from latex2mathml.converter import convert_to_element

    own = tuple(each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception))
    if len(tex) > MAX_TEX:
        return None
    tex = ENVIRONMENT.sub(lambda found: rf"\{found[1]}{{{ENVIRONMENTS.get(found[2], found[2])}}}", tex)
    try:
        math = convert_to_element(tex, display="block" if display else "inline")
    # It has no check for some mistakes, such as an argument that is missing.
    except (*own, LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError):
        return None
    if sum(1 for _ in math.iter()) > MAX_NODES or _depth(math) > MAX_DEPTH:
        return None
    return _tree(math)


def _depth(element: Element) -> int:
    """How many elements lie within each other."""
    level, depth = [element], 0
    while level:
        level, depth = [child for each in level for child in each], depth + 1
    return depth


def _tree(element: Element) -> list:
    name = element.tag if element.tag in ELEMENTS else "mrow"
    attributes = {key: value for key, value in element.attrib.items() if key in ATTRIBUTES and VALUE.fullmatch(value)}
    variant = attributes.pop("mathvariant", "")
    if variant == "normal":  # the only one that browsers know
        attributes["mathvariant"] = variant
    text = _styled(html.unescape(element.text or ""), element.attrib.get("mathvariant", ""))
    if name in LIMITS and len(element) and element[0].tag == "mo":
        base = element[0]
        if base.get("movablelimits") == "true" or html.unescape(base.text or "") in LARGE:
            name = LIMITS[name]
            base.set("movablelimits", "true")
    return [name, attributes, *([text] if text else []), *map(_tree, element)]


def _styled(text: str, variant: str) -> str:
    """Text in the characters that Unicode has for a style of mathematics, such as "double-struck"."""
    if variant in ("", "normal"):
        return text
    return "".join(_in_style(character, variant.upper().replace("-ITALIC", " ITALIC")) for character in text)


def _in_style(character: str, style: str) -> str:
    try:
        name = unicodedata.name(character).replace("LATIN ", "").replace("LETTER ", "").replace("GREEK ", "")
    except ValueError:
        return character
    # Some letters were there before the rest, under names of their own.
    older = {"FRAKTUR": "BLACK-LETTER"}.get(style, style)
    for full in (f"MATHEMATICAL {style} {name}", f"{older} {name}"):
        try:
            return unicodedata.lookup(full)
        except KeyError:
            continue
    return character


# ---------------------------------------------------------------- code


def code(text: str, language: str) -> list[list[str]] | None:
    """Code as runs of [kind, text], kind one of KINDS or ""; None for an unknown language, or too much code."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if len(text) > MAX_TEXT:
        return None
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    runs: list[list[str]] = []
    for token, piece in lexer.get_tokens(text):
        kind = next((KINDS[name] for name in _names(str(token)) if name in KINDS), "")
        if runs and (runs[-1][0] == kind or piece.isspace()):
            runs[-1][1] += piece
        elif piece:
            runs.append([kind, piece])
    return runs if "".join(piece for _, piece in runs) == text else None


def _names(token: str) -> Iterator[str]:
    """A token's name, and those of what it is a part of."""
    while token:
        yield token
        token = token.rpartition(".")[0]


# ---------------------------------------------------------------- the program


def main() -> None:
    """An item a line in, a result a line out, until the input ends."""
    limit = _limits()
    for line in sys.stdin.buffer:
        limit()
        sys.stdout.buffer.write(json.dumps(typeset(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


def _limits() -> Callable[[], object]:
    """What gives the next item its seconds, where the system can limit them."""
    try:
        import resource
    except ImportError:  # Windows
        return lambda: None
    import time

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most > MEMORY:
        with contextlib.suppress(ValueError, OSError):  # macOS has the name, but not always the limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, most))
    _, longest = resource.getrlimit(resource.RLIMIT_CPU)
    return lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_SECONDS, longest))


if __name__ == "__main__":
    main()
