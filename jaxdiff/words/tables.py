"""Tables of words, and the conversion between texts and values."""

import ast
import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

import numpy as np

from jaxdiff.arrays import said
from jaxdiff.words.annotations import TUPLES, as_constant, bare, members, parts_of
from jaxdiff.words.grammar import NOTHING, Refused, Source, constant_of, tree_of, written_number
from jaxdiff.words.recipe import REQUIRED, defaults_of, hints_of, is_recipe


@dataclasses.dataclass(frozen=True)
class Table:
    """The words of one kind.

    Args:
        noun: what a word is called in messages, with its article: "a process".
        makers: the class or function of each word.
        meant: given a text that is rejected, returns the text that was probably meant, or None.

    Examples:
        >>> from fractions import Fraction
        >>> from jaxdiff.words import Table
        >>> table = Table("a number", {"fraction": Fraction})
        >>> table.makers["fraction"](1, 2)
        Fraction(1, 2)
    """

    noun: str
    makers: Mapping[str, Callable[..., Any]]
    meant: Callable[[str], str | None] = lambda text: None


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A field of a word, as `Vocabulary.parameters` returns it.

    Attributes:
        name: the name of the field.
        kind: its annotation.
        default: its default, or `REQUIRED`.

    Examples:
        >>> import jaxdiff as jd
        >>> from jaxdiff.vocabulary import WORDS
        >>> WORDS.parameters(jd.Process, "vp")["beta_min"]
        Parameter(name='beta_min', kind=<class 'float'>, default=0.1)
    """

    name: str
    kind: Any
    default: Any


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tables of words by kind, which parse texts and write values.

    Args:
        tables: a table for each kind. A kind is a class, whose words make objects of it, or a subclass of `Recipe`.
        names: the modules that annotations in quotes refer to.

    Examples:
        >>> import jaxdiff as jd
        >>> from jaxdiff.words import Table, Vocabulary
        >>> words = Vocabulary({jd.Process: Table("a process", {"vp": jd.VP, "edm": jd.EDM})})
        >>> words.parse("edm(sigma_max=160)", jd.Process).sigma_max
        160.0
        >>> words.write(jd.EDM(sigma_max=160.0), jd.Process)
        'edm(sigma_max=160)'
    """

    tables: Mapping[Any, Table]
    names: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def parse(self, text: str, kind: Any, name: str = "") -> Any:
        """Parse a text.

        Args:
            text: a word, such as "vp", a call, such as "edm(sigma_max=160)", or a constant.
            kind: the annotation of the value.
            name: the name of the setting, for messages.

        Raises:
            ValueError: if the text is not of that kind; the message is one line.
            TypeError: if it is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"{name or 'text'} = {said(text)}; expected text, such as {self._expected(kind)}")
        try:
            return self._read(Source(text), tree_of(text), kind)
        except Refused as refused:
            given = f"{name} = {said(text)}" if name else said(text)
            meant = [found for one in self._kinds(kind) if (found := self.tables[one].meant(text))]
            raise ValueError(f"{given}: {f'write {meant[0]}' if meant else refused}") from None

    def write(self, value: Any, kind: Any, whole: bool = False) -> str:
        """Write a value as text, which `parse` reads back.

        Args:
            value: a value of the annotation `kind`.
            kind: the annotation.
            whole: whether to write every field, not only those that differ from their defaults. Write texts that are
                kept `whole`, since a later version may change a default.

        Raises:
            TypeError: if no word makes the value.
        """
        for one in members(kind):
            if (text := self._written(value, one, whole)) is not None:
                return text
        raise TypeError(f"{said(value)} cannot be written in words; expected {self._expected(kind)}")

    def describe(self, kind: Any) -> list[str]:
        """Every word of a kind, with its fields and defaults: "edm(sigma_min=0.002, sigma_max=80, rho=7)"."""
        return [self._signature(one, word) for one in self._kinds(kind) for word in self.tables[one].makers]

    def has(self, kind: Any) -> bool:
        """Whether the annotation `kind` has words."""
        return bool(self._kinds(kind))

    def nouns(self, kind: Any) -> list[str]:
        """The nouns of the annotation `kind`, without articles: ["process"]."""
        return [self.tables[one].noun.split(" ", 1)[1] for one in self._kinds(kind)]

    def parameters(self, kind: Any, word: str) -> dict[str, Parameter]:
        """The fields of a word that text can set, in order."""
        make = self.tables[kind].makers[word]
        hints = hints_of(make, self.names)
        supplied = kind.supplied if is_recipe(kind) else ()
        return {
            name: Parameter(name, hints.get(name, Any), default)
            for name, default in defaults_of(make).items()
            if name not in supplied and self._can_be_written(hints.get(name, Any))
        }

    # Reading

    def _read(self, source: Source, node: ast.expr, kind: Any) -> Any:
        constant = constant_of(node)
        for one in members(kind):
            if (found := as_constant(constant, one)) is not NOTHING:
                return found
            if isinstance(node, ast.Tuple | ast.List) and (parts := parts_of(one, len(node.elts))) is not None:
                values = tuple(self._read(source, part, kind) for part, kind in zip(node.elts, parts))
                return np.array(values) if one is np.ndarray else values
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            raise Refused(self._unexpected(source, node, constant, kind))
        for one in self._kinds(kind):
            if name.id in self.tables[one].makers:
                return self._made(source, node, one, name.id)
        choices = [choice for one in members(kind) if get_origin(one) is Literal for choice in get_args(one)]
        if name is node and name.id in choices:
            return name.id
        raise Refused(self._unknown(source.of(name), kind, [str(choice) for choice in choices]))

    def _made(self, source: Source, node: ast.expr, kind: Any, word: str) -> Any:
        parameters, signature = self.parameters(kind, word), self._signature(kind, word)

        def refuse(reason):
            raise Refused(f"{reason}; {signature}", signed=True)

        arguments = node.args if isinstance(node, ast.Call) else []
        keywords = node.keywords if isinstance(node, ast.Call) else []
        if len(arguments) > len(parameters):
            refuse(f"{word} takes {len(parameters) or 'no'} values; given {len(arguments)}")
        given: list[tuple[Any, ast.expr]] = list(zip(parameters, arguments))
        for keyword in keywords:
            if keyword.arg not in parameters:
                refuse(_no_field(kind, word, keyword.arg, parameters))
            if keyword.arg in dict(given):
                refuse(f"{word} is given {keyword.arg} twice")
            given.append((keyword.arg, keyword.value))
        values = {}
        for field, argument in given:
            try:
                values[field] = self._read(source, argument, parameters[field].kind)
            except Refused as refused:
                reason = f"{field} = {source.of(argument)}: {refused}"
                refuse(reason) if not refused.signed else None
                raise Refused(reason, signed=True) from None
        missing = [name for name, one in parameters.items() if one.default is REQUIRED and name not in values]
        if missing:
            refuse(f"{word} needs {' and '.join(missing)}")
        make = self.tables[kind].makers[word]
        try:
            return kind(make, values) if is_recipe(kind) else make(**values)
        except (ValueError, TypeError, OverflowError) as error:
            refuse(str(error))

    def _unexpected(self, source: Source, node: ast.expr, constant: Any, kind: Any) -> str:
        expected = self._expected(kind)
        if isinstance(constant, str) and any(constant in self.tables[one].makers for one in self._kinds(kind)):
            return f"{said(constant)} is a string; write {constant} without quotes"
        if constant is not NOTHING or isinstance(node, ast.Tuple | ast.List):
            return f"expected {expected}"
        return f"{source.of(node)} is neither a word, a call of one, a constant nor a tuple; expected {expected}"

    def _unknown(self, name: str, kind: Any, choices: list[str]) -> str:
        expected = self._expected(kind)
        other = [table.noun for table in self.tables.values() if name in table.makers]
        if other:
            return f"{name} is {' and '.join(other)}; expected {expected}"
        known = [word for one in self._kinds(kind) for word in self.tables[one].makers] + choices
        return f"there is no {name}{_nearest(name, known)}; expected {expected}"

    # Writing

    def _written(self, value: Any, kind: Any, whole: bool) -> str | None:
        """The text of `value` under one alternative of an annotation; None if it does not fit."""
        if hasattr(value, "dtype") and np.ndim(value) == 0:
            value = value.item()
        if kind is type(None) or kind is bool or kind is str:
            return repr(value) if isinstance(value, kind) else None
        if get_origin(kind) is Literal:
            return repr(value) if any(type(value) is type(one) and value == one for one in get_args(kind)) else None
        if kind is int:
            return repr(value) if type(value) is int else None
        if kind is float:
            real = type(value) is float or (type(value) is int and abs(value) < 2**1023)
            return written_number(value) if real else None
        if kind is np.ndarray and hasattr(value, "dtype") and np.ndim(value) == 1:
            value = np.asarray(value).tolist()
        if isinstance(value, tuple | list):
            parts = parts_of(kind, len(value))
            if parts is None:
                return None
            texts = [self.write(part, kind, whole) for part, kind in zip(value, parts)]
            return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"
        kind = bare(kind)
        for word, make in self.tables[kind].makers.items() if kind in self.tables else ():
            if (type(value) is kind and value.make is make) if is_recipe(kind) else type(value) is make:
                return self._call(value, kind, word, whole)
        return None

    def _call(self, value: Any, kind: Any, word: str, whole: bool) -> str:
        fields = value.values if is_recipe(kind) else {name: getattr(value, name) for name in defaults_of(type(value))}
        defaults = defaults_of(self.tables[kind].makers[word])
        parameters = self.parameters(kind, word)
        texts = []
        for name, part in fields.items():
            if name in parameters:
                text, default = self.write(part, parameters[name].kind, whole), parameters[name].default
                if default is REQUIRED:
                    texts.append(text)
                elif whole or text != self.write(default, parameters[name].kind):
                    texts.append(f"{name}={text}")
            elif part is not defaults[name]:
                raise TypeError(f"{name} = {said(part)} of {word} cannot be written in words")
        return f"{word}({', '.join(texts)})" if texts else word

    # Kinds

    def _kinds(self, kind: Any) -> list:
        """The alternatives of an annotation that have a table."""
        return [kind for kind in map(bare, members(kind)) if kind in self.tables]

    def _can_be_written(self, kind: Any) -> bool:
        """Whether text can be of an annotation, other than None."""
        plain = bool, int, float, str, np.ndarray
        return any(one in plain or get_origin(one) in (Literal, *TUPLES) or self._kinds(one) for one in members(kind))

    def _signature(self, kind: Any, word: str) -> str:
        parts = []
        for name, one in self.parameters(kind, word).items():
            parts.append(name if one.default is REQUIRED else f"{name}={self.write(one.default, one.kind)}")
        return f"{word}({', '.join(parts)})" if parts else word

    def _expected(self, kind: Any) -> str:
        found = []
        for one in members(kind):
            if table := self.tables.get(bare(one)):
                found.append(f"{table.noun} ({', '.join(table.makers)})")
            elif get_origin(one) is Literal:
                found.append(f"one of {', '.join(map(str, get_args(one)))}")
            elif get_origin(one) in TUPLES:
                item = "words" if self._kinds(get_args(one)[0]) else "values"
                found.append(f"a tuple of {item}, with a comma where it has one: (1,)")
            elif one in _NOUNS:
                found.append(_NOUNS[one])
        return " or ".join(found) or "nothing that words make"


_NOUNS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a 'string'",
    np.ndarray: "a tuple of numbers",
    type(None): "None",
}


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _no_field(kind: Any, word: str, field: str | None, parameters: Mapping[str, Parameter]) -> str:
    if field is None:
        return "** is not read"
    if is_recipe(kind) and field in kind.supplied:
        return f"{field} is supplied by the run; leave it out"
    return f"{word} has no {field}{_nearest(field, list(parameters))}"
