"""Labels in training: which ones may enter, and their dropping, by which one network learns to do without.

A network of classes 0 to K - 1 has one label more, K, for none (Ho and Salimans 2022). It is `network.no_label(params)`
of a network that has one; guidance asks such a network for its unconditional prediction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_argument, pytree, rebuilt
from jaxdiff.arrays.mesh import on_mesh, place_batch, replicated, sharded
from jaxdiff.denoisers import check_cond_of, no_label_of
from jaxdiff.training.step import prepare_as_given

GLANCES = 2  # keys under which each batch is looked at
LOOKS = 32  # keys under which labels are looked at: a label that prepare drops is not dropped under all of them


def dropping(prepare: Callable, share: float, none: int | None) -> Callable:
    """`prepare`, with the labels of a `share` of the examples, drawn anew in each step, replaced by `none`.

    Raises ValueError where there is no label to put in their place.
    """
    if share == 0:
        return prepare
    if none is None:
        raise ValueError(
            f"label_dropout = {share}, but the network has no label that means none. Build one of jaxdiff.networks "
            "with classes=..., give a network of your own a method `no_label(params)` that returns it, or drop labels "
            "in `prepare`"
        )
    return Dropping(as_argument("prepare", prepare), share, none)


@pytree
@dataclasses.dataclass(frozen=True)
class Dropping:
    """`prepare`, with the labels of a `share` of the examples replaced by `none`."""

    prepare: Any
    share: float = dataclasses.field(metadata={"static": True})
    none: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key, batch: dict) -> tuple:
        """(x0, cond); ValueError for a batch without labels."""
        prepare_key, drop_key = jax.random.split(key)
        x0, cond = self.prepare(prepare_key, batch)
        if not _are_labels(cond) or cond.ndim != 1:
            found = "no labels" if cond is None else jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", cond)
            raise ValueError(
                f"label_dropout = {self.share}, but a batch has {found}; expected integer labels, one an example"
            )
        dropped = jax.random.bernoulli(drop_key, self.share, cond.shape)
        return x0, jnp.where(dropped, jnp.int32(self.none), cond.astype(jnp.int32))


def _are_labels(cond) -> bool:
    """Whether `cond` is one array of integers, and not None, a tree or numbers."""
    return hasattr(cond, "dtype") and bool(jnp.issubdtype(cond.dtype, jnp.integer))


def recorded(denoiser, share: float | None) -> Any:
    """`denoiser` with `share` as its `label_dropout`, or as that of the denoiser that it wraps."""
    if hasattr(denoiser, "label_dropout"):
        return rebuilt(denoiser, label_dropout=share)
    inner = getattr(denoiser, "denoiser", None)
    return denoiser if inner is None else rebuilt(denoiser, denoiser=recorded(inner, share))


def share_dropped(prepare: Callable, key, batch: dict, share: float, none: int | None) -> float | None:
    """The share of labels that a run drops; None where it has no labels, or `prepare` drops some itself.

    Raises ValueError where the data themselves have the label that means none, or labels would be dropped twice.
    """
    if none is None:
        return None
    labels = jax.jit(_made)(as_argument("prepare", prepare), jax.random.split(key, LOOKS), batch)
    if labels is None:
        return None
    labels = np.asarray(labels)
    _check(labels, none, 0)
    dropped = bool((labels == none).any())
    if dropped and share > 0:
        raise ValueError(
            f"label_dropout = {share}, but prepare drops labels itself; take it out there, or leave label_dropout at 0"
        )
    return None if dropped else share


def _made(prepare, keys, batch: dict) -> jax.Array | None:
    """The labels [keys, batch] that `prepare` makes of a batch under each of `keys`; None where it makes none."""
    labels = jax.eval_shape(prepare, keys[0], batch)[1]
    if not _are_labels(labels):
        return None
    return jax.lax.map(lambda key: prepare(key, batch)[1], keys)


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
        self._made = jax.jit(on_mesh(mesh)(_made), out_shardings=replicated(mesh))

    def __call__(self, step: int, rows: dict, placed: dict) -> None:
        """Look at a batch. Raises what the denoiser has against its labels."""
        if self._own:
            labels = self._look(step, placed, GLANCES)
            self._seen += [] if labels is None else [(step, labels)]
        elif (cond := rows.get("label", rows.get("cond"))) is not None:
            self._check(np.asarray(cond)[None], step)

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
        try:
            for cond in labels:
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
