"""A function or class with some of its arguments, and the signature of the others."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_type_hints

REQUIRED = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A function or class with some of its arguments; `recipe(**others)` calls it with the others.

    A subclass is a kind of recipe, such as a network; its `supplied` names the arguments that the caller gives.

    Args:
        make: the function or class.
        arguments: a mapping of arguments. It is kept as pairs in the order of the signature, without those that equal a
            default, so that recipes are equal if they make the same.

    Raises:
        TypeError: if `make` does not take an argument, or the caller supplies it.

    Examples:
        >>> from jaxdiff.words import Recipe
        >>> class Power(Recipe):
        ...     supplied = ("base",)
        >>> def power(base, exponent=2):
        ...     return base**exponent
        >>> cube = Power(power, {"exponent": 3})
        >>> cube(base=2), cube.asks, cube.values
        (8, ('base',), {'exponent': 3})
    """

    make: Callable[..., Any]
    arguments: Any = ()

    supplied: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        given = dict(self.arguments)
        defaults = defaults_of(self.make)
        if unknown := [name for name in given if name not in defaults or name in self.supplied]:
            raise TypeError(f"{self.make.__name__} has no argument {unknown[0]} that can be given beforehand")
        kept = {name: _hashable(given[name]) for name in defaults if name in given}
        pairs = tuple((name, value) for name, value in kept.items() if value != defaults[name])
        object.__setattr__(self, "arguments", pairs)

    @property
    def asks(self) -> tuple[str, ...]:
        """Those of the supplied arguments that `make` takes."""
        return tuple(name for name in defaults_of(self.make) if name in self.supplied)

    @property
    def values(self) -> dict[str, Any]:
        """The arguments that are not supplied, including defaults."""
        own = {name: value for name, value in defaults_of(self.make).items() if name not in self.supplied}
        return {name: value for name, value in (own | dict(self.arguments)).items() if value is not REQUIRED}

    def __call__(self, **supplied) -> Any:
        """Call `make` with the arguments of the recipe and `supplied`."""
        return self.make(**dict(self.arguments), **supplied)


def defaults_of(make: Callable) -> dict[str, Any]:
    """The parameters of `make` with their defaults, or REQUIRED."""
    signature = inspect.signature(make.__init__ if isinstance(make, type) else make)
    found = {name: one.default for name, one in signature.parameters.items() if name != "self"}
    for field in dataclasses.fields(make) if dataclasses.is_dataclass(make) else ():
        if field.default_factory is not dataclasses.MISSING and field.name in found:
            found[field.name] = field.default_factory()
    return found


def hints_of(make: Callable, names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of the parameters of `make`."""
    of = make.__init__ if isinstance(make, type) and not dataclasses.is_dataclass(make) else make
    return get_type_hints(of, localns=dict(names))


def is_recipe(kind: Any) -> bool:
    """Whether the words of a kind make recipes, rather than objects of that kind."""
    return isinstance(kind, type) and issubclass(kind, Recipe)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
