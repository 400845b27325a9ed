"""Labels in training: which ones may enter, and their dropping, by which one network learns to do without.

A network of classes 0 to K - 1 has one label more, K, for none (Ho and Salimans 2022). It is `network.no_label(params)`
of a network that has one; guidance asks such a network for its unconditional prediction.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.training.step import prepare_as_given

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

    def prepare_and_drop(key, batch):
        prepare_key, drop_key = jax.random.split(key)
        x0, cond = prepare(prepare_key, batch)
        if cond is None or not jnp.issubdtype(cond.dtype, jnp.integer) or cond.ndim != 1:
            found = "no labels" if cond is None else f"{cond.dtype}{list(cond.shape)}"
            raise ValueError(
                f"label_dropout = {share}, but a batch has {found}; expected integer labels, one an example"
            )
        dropped = jax.random.bernoulli(drop_key, share, cond.shape)
        return x0, jnp.where(dropped, jnp.int32(none), cond.astype(jnp.int32))

    return prepare_and_drop


def share_dropped(prepare: Callable, key, batch: dict, share: float, none: int | None) -> float | None:
    """The share of labels that a run drops; None where it has no labels, or `prepare` drops some itself.

    Raises ValueError where the data themselves have the label that means none, or labels would be dropped twice.
    """
    if none is None:
        return None
    labels = jax.jit(lambda keys, batch: jax.lax.map(lambda key: prepare(key, batch)[1], keys))(
        jax.random.split(key, LOOKS), batch
    )
    if labels is None:
        return None
    absent = np.asarray(labels) == none
    if absent.all(0).any():
        raise ValueError(_means_none(f"example {absent.all(0).argmax()} of batches[0]", none))
    if absent.any() and share > 0:
        raise ValueError(
            f"label_dropout = {share}, but prepare drops labels itself; take it out there, or leave label_dropout at 0"
        )
    return None if absent.any() else share


def check_labels(prepare: Callable, batch: dict, step: int, none: int | None) -> None:
    """Raise ValueError where a batch that is used as it is has a label that the network's data cannot have."""
    labels: Any = batch.get("label", batch.get("cond"))
    if none is None or prepare is not prepare_as_given or labels is None:
        return
    labels = np.asarray(labels)
    outside = (labels < 0) | (labels >= none)
    if outside.any():
        where = f"example {outside.argmax()} of batches[{step}]"
        wrong = labels[outside].flat[0]
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
