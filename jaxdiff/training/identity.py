"""The identity of a run as JSON: every part that decides its numbers, by name.

A part that is a number or a string is recorded as it is. Any other part is recorded as a readable description followed
by the hash of all of it (`jaxdiff.arrays.fingerprint`): "VP(beta_min=0.1, beta_max=20.0) #6f3a...". Devices are not
part of the identity: a run may continue on others. The initial weights are recorded as four figures that hardly depend
on rounding, since on another kind of device the same key draws weights that differ in their last digits.
"""

import dataclasses
import importlib.metadata
import json
import math
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.arrays import fingerprint, said
from jaxdiff.training import hosts
from jaxdiff.training.labels import recorded
from jaxdiff.training.step import hollow

LIBRARIES = ("jaxdiff", "jax", "jaxlib", "flax", "optax")  # their versions may change the numbers
LATER = ("batch", "first_batch", "condition_dropout", "schedule")  # parts that are known only once data are read
DRAWS = "one key an example"  # how a step draws its noise; a run cannot continue with other noise
LENGTH = 300  # the most characters of a description


def versions() -> dict[str, str]:
    """The versions of the libraries, "not installed" for those that are missing."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {name: version(name) for name in LIBRARIES}


def of_settings(key, denoiser, given: Mapping[str, Any] | None, **settings) -> dict[str, Any]:
    """The parts of a run that are known before its data: the denoiser's fields, `settings`, versions, and `given`.

    `given` are the caller's own parts. Raises ValueError if one of them has a name that is recorded here, TypeError if
    they are not JSON.
    """
    own = {
        "key": jax.random.key_data(key).tolist(),
        "draws": DRAWS,
        "generator": str(jax.random.key_impl(key)),
        "denoiser": describe(type(denoiser)),
        "weights": _types(denoiser.params),
        "initial_weights": figures(denoiser.params),
        **{name: describe(value) for name, value in settings.items()},
        **versions(),
    }
    fields = [field.name for field in dataclasses.fields(denoiser) if field.name not in ("params", "condition_dropout")]
    bare = recorded(hollow(denoiser), None)
    own |= {f"denoiser.{name}" if name in own else name: describe(getattr(bare, name)) for name in fields}
    try:
        theirs = json.loads(json.dumps(dict(given or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"identity = {given!r} is no JSON object ({error}); give a dict of words and numbers") from None
    if taken := sorted(theirs.keys() & own.keys()):
        raise ValueError(f"identity has {', '.join(taken)}, which train records itself; take another name")
    return own | theirs


def of_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that come from the first batch: shapes, types and the hash of its values."""
    if hosts.several():
        batch = multihost_utils.process_allgather(batch, tiled=True)
    shapes = {name: [str(array.dtype), *array.shape] for name, array in sorted(batch.items())}
    return {"batch": shapes, "first_batch": fingerprint(batch)}


def check_names(allow) -> None:
    """Raise TypeError if `allow` is not a sequence of names."""
    if isinstance(allow, str):
        raise TypeError(f'allow = "{allow}"; expected names in a tuple: allow=("{allow}",)')
    if not isinstance(allow, Collection) or not all(isinstance(name, str) for name in allow):
        raise TypeError(f"allow = {said(allow)}; expected names in a tuple")


def check_known(allow: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError for a name in `allow` that is not a part of the run."""
    if unknown := sorted(set(allow) - set(known)):
        raise ValueError(
            f"allow has {', '.join(unknown)}, which is not a part of this run; its parts are {', '.join(sorted(known))}"
        )


def as_recorded_now(before: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a run under their current names.

    `condition_dropout` was once `label_dropout`, and labels were dropped by other draws. A `label_dropout` above 0 is
    kept, so that `check_draws` rejects it.
    """
    before = dict(before)
    if "label_dropout" in before and not before["label_dropout"]:
        before["condition_dropout"] = before.pop("label_dropout")
    return before


def check_draws(before: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError for a run that drew its noise in another way, and so cannot continue with the same noise."""
    if "label_dropout" in before:
        raise ValueError(
            f"{folder} holds a run that began before losses.ConditionDropout dropped conditions (label_dropout = "
            f"{before['label_dropout']}), so that this version would drop others. Finish it with the version of "
            "jaxdiff that began it, or train its weights (jaxdiff.training.load_params) in another folder"
        )
    if before.get("draws") != DRAWS:
        raise ValueError(
            f"{folder} holds a run that began before noise was drawn by {DRAWS}, so that this version would draw other "
            "noise. Finish it with the version of jaxdiff that began it, or train its weights "
            "(jaxdiff.training.load_params) in another folder"
        )


def check(before: Mapping[str, Any], now: Mapping[str, Any], allow: Sequence[str], folder: Path) -> None:
    """Raise ValueError if parts of the run in `folder` differ from `now`, except those in `allow`."""
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if not _same(name, before.get(name), now.get(name)) and name not in allow]
    if changed:
        what = "; ".join(f"{name}: {before.get(name)}, now {now.get(name)}" for name in changed)
        raise ValueError(
            f"{folder} holds a run with another {what}. Continue with its own settings, give another folder, or accept "
            f"the difference by name: allow {' '.join(changed)} (in Python allow={tuple(changed)})"
        )


def _same(name: str, before, now) -> bool:
    if name == "initial_weights" and now is not None:
        return same_weights(before, now)
    if isinstance(before, float) and isinstance(now, float):  # may have been measured on data on another machine
        return math.isclose(before, now, rel_tol=1e-5)
    return before == now


def figures(params) -> list[float]:
    """Four numbers that identify weights up to rounding: the log of their norm, and three sums in units of it."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)]
    size = math.sqrt(sum(float(leaf @ leaf) for leaf in leaves)) or 1.0
    sums = np.zeros(3)
    for j, leaf in enumerate(leaves):
        halves = leaf[: leaf.size // 2].sum(), leaf[leaf.size // 2 :].sum()
        sums += math.cos(j) * np.array([sum(halves), halves[0] - halves[1], leaf[::2].sum() - leaf[1::2].sum()])
    with np.errstate(invalid="ignore"):
        return [math.log(size), *(sums / size).tolist()]


def same_weights(one: list[float] | None, other: list[float]) -> bool:
    """Whether two lists of figures are of the same weights, up to rounding."""
    return one is not None and bool(np.allclose(one, other, rtol=0, atol=1e-3))


def _types(params) -> str:
    leaves = jax.tree.leaves(params)
    types_ = sorted({str(jnp.result_type(leaf)) for leaf in leaves})
    return f"{sum(np.size(leaf) for leaf in leaves):,} values of {', '.join(types_)}"


def describe(value) -> Any:
    """A part as JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if np.ndim(value) == 0 and isinstance(value, float | np.generic | np.ndarray | jax.Array):
        return float(value)
    return f"{_words(value)[:LENGTH]} #{fingerprint(value)}"


def _words(value, depth: int = 0) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, np.ndarray | jax.Array):
        return str(value) if value.ndim == 0 else f"{value.dtype}{list(value.shape)}"
    if isinstance(value, type | types.FunctionType):
        numbers = dict.fromkeys(_numbers(value))
        return value.__qualname__ + (f"({', '.join(numbers)})" if numbers else "")
    if dataclasses.is_dataclass(value) and depth < 3:
        fields = [f"{f.name}={_words(getattr(value, f.name), depth + 1)}" for f in dataclasses.fields(value)]
        return f"{type(value).__qualname__}({', '.join(fields)})"
    numbers = dict.fromkeys(_numbers(value))
    return type(value).__qualname__ + (f"({', '.join(numbers)})" if numbers else "")


def _numbers(value) -> Iterator[str]:
    """The numbers in the closure of a function, or of functions in a tuple: "learning_rate=0.001"."""
    named: list[tuple[str, Any]] = []
    if isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            try:
                named.append((name, cell.cell_contents))
            except ValueError:  # not filled yet
                continue
    elif isinstance(value, tuple):
        named = [("", part) for part in value]
    elif hasattr(value, "func") and hasattr(value, "keywords"):
        named = [("", value.func), *value.keywords.items()]
    for name, part in named:
        if isinstance(part, bool | int | float) and name:
            yield f"{name}={part!r}"
        elif isinstance(part, types.FunctionType | tuple):
            yield from _numbers(part)
