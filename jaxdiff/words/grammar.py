"""Parses text into a syntax tree of calls, names, constants and tuples, by `ast`, without evaluating it."""

import ast
import dataclasses
import math
import warnings
from typing import Any

LENGTH, DEPTH = 10_000, 20  # the most characters of a text, and the deepest nesting of brackets
NOTHING: Any = object()


class Refused(Exception):
    """The reason why a text is rejected; `signed` if it already lists the fields of the word at fault."""

    def __init__(self, reason: str, signed: bool = False):
        super().__init__(" ".join(reason.split()))
        self.signed = signed


@dataclasses.dataclass(frozen=True)
class Source:
    """A text, of which parts are quoted in messages."""

    text: str

    def of(self, node: ast.expr) -> str:
        """The text of a node, in at most 60 printable characters."""
        text = " ".join((ast.get_source_segment(self.text.lstrip(), node) or "").split())
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
        return text if len(text) <= 60 else f"{text[:57]}..."


def tree_of(text: str) -> ast.expr:
    """The syntax tree of a text. Raises Refused if it is too long, too deep or not a Python expression."""
    if len(text) > LENGTH:
        raise Refused(f"{len(text)} characters; expected at most {LENGTH}")
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > DEPTH:
            raise Refused(f"brackets within brackets; expected at most {DEPTH} deep")
    try:
        with warnings.catch_warnings(action="error"):  # such as invalid escapes
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
        raise Refused(f"{reason}; expected a word, or a call such as name(1, field=2)") from None


def constant_of(node: ast.expr) -> Any:
    """The number, string, True, False or None that a node is; `NOTHING` for any other."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    if isinstance(node, ast.Name) and node.id == "inf":
        return sign * math.inf
    if not isinstance(node, ast.Constant) or not isinstance(node.value, bool | int | float | str | None):
        return NOTHING
    value: Any = node.value
    if sign == 1:
        return value
    return -value if type(value) in (int, float) else NOTHING


def written_number(value: float) -> str:
    """The shortest text that is parsed as the same float, without a decimal point if it is whole."""
    value = float(value)
    if math.isnan(value):
        raise TypeError("nan cannot be written in words; expected a number")
    short = value.is_integer() and abs(value) < 1e16 and str(value) != "-0.0"
    return str(int(value)) if short else repr(value)
