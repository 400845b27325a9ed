"""Checks of a denoiser, also one of a user's own, before a run or a likelihood begins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_pytree, check_shared, example_keys, is_concrete, said
from jaxdiff.denoisers.denoiser import check_denoiser


def check_model(denoiser) -> None:
    """Raise for an object that is not a denoiser and a pytree, or whose process has an array as a number."""
    check_denoiser(denoiser)
    check_pytree("denoiser", denoiser)
    check_pytree("process", denoiser.process)
    check_shared("process", denoiser.process)


def check_answer(denoiser, shape: Any, cond) -> None:
    """Raise if a user's own denoiser, wrapped or not, returns no prediction of its process for x of `shape`."""
    process = denoiser.process
    if type(denoiser).__module__.partition(".")[0] != __name__.partition(".")[0]:

        def answer(cond):
            keys = example_keys(jax.random.key(0), process.split(shape)[0][0])
            x = process.prior(keys, shape, jnp.ones(()))
            process.check_prediction(denoiser(x, jnp.ones(()), cond), x)

        jax.eval_shape(answer, cond)
        return
    if hasattr(denoiser, "denoiser"):
        for inner, given in denoiser.asked(cond):
            if len(inner.process.processes) == len(process.processes):  # both see the same x
                check_answer(inner, shape, given)


def check_same_process(name: str, other, denoiser, fix: str) -> None:
    """Raise ValueError if the processes of `other`, a user's `name`, and of `denoiser` differ (see `differ`)."""
    if differ(denoiser.process, other.process):
        raise ValueError(
            f"{name} has the process {said(other.process)}, the denoiser has {said(denoiser.process)}; {fix}"
        )


def differ(one: Any, other: Any) -> bool:
    """Whether two processes, or trees, have different structures or numbers. Traced numbers are not compared."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return True
    as_computed = lambda leaf: np.asarray(leaf, jnp.result_type(float))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other))
    known = [pair for pair in pairs if all(map(is_concrete, pair))]
    return not all(np.array_equal(as_computed(a), as_computed(b)) for a, b in known)
