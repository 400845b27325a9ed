"""Labels in training: their validation, and the share of examples without a condition, which guidance needs.

A network of classes 0 to K - 1 has one more label, K, for "no label" (Ho and Salimans 2022), which
`network.no_label(params)` returns. `jaxdiff.losses.ConditionDropout` drops labels, and a user's own `prepare` may do
so.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff.arrays import as_argument, rebuilt
from jaxdiff.arrays.mesh import on_mesh, place_batch, replicated, sharded
from jaxdiff.denoisers import check_cond_of, no_label_of
from jaxdiff.denoisers.condition import label_of, parts_of
from jaxdiff.training.step import prepare_as_given

GLANCES = 2  # keys under which the labels of each batch are checked
LOOKS = 32  # keys under which suspicious labels are checked: a label that prepare drops at random survives one of them


def recorded(denoiser, share: float | None) -> Any:
    """`denoiser` with its `condition_dropout`, or that of the denoiser it wraps, set to `share`."""
    if hasattr(denoiser, "condition_dropout"):
        return rebuilt(denoiser, condition_dropout=share)
    inner = getattr(denoiser, "denoiser", None)
    return denoiser if inner is None else rebuilt(denoiser, denoiser=recorded(inner, share))


def share_dropped(prepare: Callable, key, batch: dict, cond, loss, none: int | None) -> float | None:
    """The share of examples that a run trains without any condition; None if it is not known.

    `cond` is the condition of `batch` under some key. The share is known from the loss. If the loss drops nothing, it
    is 0, unless `prepare` drops labels by itself. Raises ValueError if the data contain the label that means "no
    label", or if labels would be dropped twice.
    """
    rates = loss.rates(cond) if hasattr(loss, "rates") else None
    share = None if rates is None else _share(rates, cond)
    if none is None or label_of(cond) is None:
        return share
    labels = np.asarray(_made(as_argument("prepare", prepare), jax.random.split(key, LOOKS), batch, label_of))
    _check(labels, none, 0)
    if not (labels == none).any():
        return share or 0.0
    if any("label" in names and rate > 0 for names, rate in (rates or {}).items()):
        raise ValueError(
            f"loss = {type(loss).__name__} drops labels, and so does prepare; drop none in prepare, or give the loss "
            "without its ConditionDropout"
        )
    return None


def _share(rates: dict, cond) -> float:
    """The share of examples that lose every part of `cond`, at these rates; 0 if some part is never dropped."""
    every = {name for names in rates for name in names} == parts_of(cond).keys()
    return math.prod(map(float, rates.values())) if every else 0.0


def _bare_label_of(cond) -> Any:
    """`cond` if it is itself the labels; None for a dictionary of parts."""
    return None if isinstance(cond, dict) else label_of(cond)


@functools.partial(jax.jit, static_argnames="of")
def _made(prepare, keys, batch: dict, of: Callable) -> jax.Array | None:
    """The labels [keys, batch] that `prepare` returns for a batch under each of `keys`; None if it returns none."""
    if of(jax.eval_shape(prepare, keys[0], batch)[1]) is None:
        return None
    return jax.lax.map(lambda key: of(prepare(key, batch)[1]), keys)


class Watch:
    """Validates the labels of every batch.

    With the default `prepare` labels are validated when the batch comes. With a user's own `prepare` they are computed
    next to the step, under two keys, and validated on the host once `check` is called; if one is invalid, its batch is
    checked again under more keys. All batches have the parts of the first: if that has nothing to validate, the others
    are not looked at.
    """

    def __init__(self, prepare: Callable, key, denoiser, mesh: jax.sharding.Mesh):
        self._own, self._key, self._mesh = prepare is not prepare_as_given, key, mesh
        self._denoiser, self._none = denoiser, no_label_of(denoiser)
        self._seen: list[tuple[int, jax.Array]] = []
        self._unlabelled = False
        self._prepare = sharded(as_argument("prepare", prepare), mesh)
        of = _bare_label_of if self._none is None else label_of
        made = on_mesh(mesh)(lambda *given: _made(*given, of))
        self._made = jax.jit(made, out_shardings=replicated(mesh))

    def __call__(self, step: int, rows: dict, placed: dict) -> None:
        """Validate a batch, or queue it for `check`. Raises ValueError for labels that the denoiser does not take."""
        if self._unlabelled:
            return
        if self._own:
            labels = self._look(step, placed, GLANCES)
            self._unlabelled = labels is None
            self._seen += [] if labels is None else [(step, labels)]
            return
        cond = prepare_as_given(None, rows)[1]
        self._unlabelled = cond is None
        if self._none is None:
            self._check_cond(cond, step)
        elif (label := label_of(cond)) is not None:
            _check(np.asarray(label)[None], self._none, step)

    def check(self, batches) -> None:
        """Raise ValueError if the denoiser does not take the labels of a batch since the last call."""
        seen, self._seen = self._seen, []
        for step, labels in seen:
            try:
                self._check(np.asarray(labels), step)
            except ValueError:  # may be chance, if prepare drops labels
                self._check(np.asarray(self._look(step, place_batch(self._mesh, batches[step]), LOOKS)), step)

    def _look(self, step: int, placed: dict, looks: int) -> jax.Array | None:
        return self._made(self._prepare, jax.random.split(jax.random.fold_in(self._key, step), looks), placed)

    def _check(self, labels: np.ndarray, step: int) -> None:
        if self._none is not None:
            return _check(labels, self._none, step)
        for label in labels:
            self._check_cond(label, step)

    def _check_cond(self, cond, step: int) -> None:
        try:
            check_cond_of(self._denoiser, cond)
        except ValueError as error:
            raise ValueError(f"batches[{step}]: {error}") from None


def _check(labels, none: int, step: int) -> None:
    """Raise ValueError for an example whose label, of `[keys, batch]`, is outside 0 to `none` - 1 under every key."""
    outside = ((labels < 0) | (labels >= none)).all(0)
    if outside.any():
        where = f"example {outside.argmax()} of batches[{step}]"
        wrong = labels[0, outside][0]
        raise ValueError(
            _means_none(where, none)
            if wrong == none
            else f"{where}: label {wrong} is out of range; expected 0 to {none - 1}"
        )


def _means_none(where: str, none: int) -> str:
    return (
        f"{where} has the label {none}, which means no label to a network of {none} classes; the labels of the data "
        f"must be 0 to {none - 1}. If they count from 1, subtract 1"
    )
