"""Labels in training: which ones may enter, and the share of examples without a condition, which guidance asks for.

A network of classes 0 to K - 1 has one label more, K, for none (Ho and Salimans 2022). It is `network.no_label(params)`
of a network that has one. `jaxdiff.losses.ConditionDropout` drops labels; so may a user's own `prepare`.
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

GLANCES = 2  # keys under which each batch is looked at
LOOKS = 32  # keys under which labels are looked at: a label that prepare drops is not dropped under all of them


def recorded(denoiser, share: float | None) -> Any:
    """`denoiser` with `share` as its `condition_dropout`, or as that of the denoiser that it wraps."""
    if hasattr(denoiser, "condition_dropout"):
        return rebuilt(denoiser, condition_dropout=share)
    inner = getattr(denoiser, "denoiser", None)
    return denoiser if inner is None else rebuilt(denoiser, denoiser=recorded(inner, share))


def share_dropped(prepare: Callable, key, batch: dict, cond, loss, none: int | None) -> float | None:
    """The share of examples that a run leaves without any condition; None where that is not known.

    `cond` is that of `batch` under some key. What the loss drops is known, and where it drops nothing that labels are
    always there, unless `prepare` drops some itself. Raises ValueError where the data themselves have the label that
    means none, or labels would be dropped twice.
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
            f"loss = {type(loss).__name__} drops labels, and prepare drops some itself; take it out there, or give the "
            "loss that is inside"
        )
    return None


def _share(rates: dict, cond) -> float:
    """The share of examples without any part of `cond`, at rates of draws: none where a part is never dropped."""
    every = {name for names in rates for name in names} == parts_of(cond).keys()
    return math.prod(map(float, rates.values())) if every else 0.0


def _bare_label_of(cond) -> Any:
    """The labels that a condition is, and not those that it has as a part."""
    return None if isinstance(cond, dict) else label_of(cond)


@functools.partial(jax.jit, static_argnames="of")
def _made(prepare, keys, batch: dict, of: Callable) -> jax.Array | None:
    """The labels [keys, batch] that `prepare` makes of a batch under each of `keys`; None where it makes none."""
    if of(jax.eval_shape(prepare, keys[0], batch)[1]) is None:
        return None
    return jax.lax.map(lambda key: of(prepare(key, batch)[1]), keys)


class Watch:
    """Looks at the labels of every batch: at once where they are used as they come, or else once `check` is called.

    The labels that a user's own `prepare` makes are made beside the step, under two keys, and looked at on the host;
    where one should not be, that batch is looked at under more.
    """

    def __init__(self, prepare: Callable, key, denoiser, mesh: jax.sharding.Mesh):
        self._own, self._key, self._mesh = prepare is not prepare_as_given, key, mesh
        self._denoiser, self._none = denoiser, no_label_of(denoiser)
        self._seen: list[tuple[int, jax.Array]] = []
        self._prepare = sharded(as_argument("prepare", prepare), mesh)
        of = _bare_label_of if self._none is None else label_of
        made = on_mesh(mesh)(lambda *given: _made(*given, of))
        self._made = jax.jit(made, out_shardings=replicated(mesh))

    def __call__(self, step: int, rows: dict, placed: dict) -> None:
        """Look at a batch. Raises what the denoiser has against its labels."""
        if self._own:
            labels = self._look(step, placed, GLANCES)
            self._seen += [] if labels is None else [(step, labels)]
            return
        cond = prepare_as_given(None, rows)[1]
        if self._none is None:
            self._check_cond(cond, step)
        elif (label := label_of(cond)) is not None:
            _check(np.asarray(label)[None], self._none, step)

    def check(self, batches) -> None:
        """Raise what the denoiser has against the labels of the batches since the last call."""
        seen, self._seen = self._seen, []
        for step, labels in seen:
            try:
                self._check(np.asarray(labels), step)
            except ValueError:  # by chance, where prepare drops labels itself
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
    """Raise ValueError for a label, of [looks, batch], that under no key is one of 0 to `none` - 1."""
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
        f"are 0 to {none - 1}. Where they count from 1, subtract 1"
    )
