r"""p(y | x) of a conditional model, by Bayes' rule over its classes.

    log p(y_k | x) = log p(x | y_k) + log p(y_k) - log Σ_j p(x | y_j) p(y_j)

Every log p(x | y_k) is that of the probability flow (`jaxdiff.likelihood.log_likelihood`), under the same probes for
all classes of an example: what the errors of their traces have in common cancels. Errors e_k of log p(x | y_k) are, for
every probe and to first order, one of e_k - Σ_j p(y_j | x) e_j of log p(y_k | x).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    Precision,
    as_array,
    at_precision,
    check_array,
    check_flag,
    check_precision,
    check_shared,
    check_whole,
    example_keys,
    said,
)
from jaxdiff.arrays.batches import in_batches
from jaxdiff.arrays.mesh import check_mesh, copied, spread
from jaxdiff.denoisers import DenoiserLike, check_cond
from jaxdiff.denoisers.checks import check_model
from jaxdiff.likelihood.log_likelihood import by_estimate
from jaxdiff.likelihood.trace import Hutchinson, Trace
from jaxdiff.processes import check_event
from jaxdiff.samplers import ProbabilityFlow


class ClassPosterior(NamedTuple):
    """p(y | x) and what it is made of, each [n, classes], of NumPy.

    log_prob: log p(y | x), nats, NaN for an example of which the solver gave up on a class. standard_error: of
    log_prob, nats, from the spread of the trace's estimates, which the classes share; NaN for a single random one, 0
    for the exact trace. log_likelihood: log p(x | y), nats. evaluations, converged: of each solve, as in
    `jaxdiff.Likelihood`.
    """

    log_prob: np.ndarray
    standard_error: np.ndarray
    log_likelihood: np.ndarray
    evaluations: np.ndarray
    converged: np.ndarray


def class_posterior(
    key,
    denoiser: DenoiserLike,
    x,
    classes: Any,
    prior=None,
    flow: ProbabilityFlow = ProbabilityFlow(),
    trace: Trace = Hutchinson(),
    t_min: float = 1e-5,
    source=None,
    batch_size: int = 256,
    progress: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    precision: Precision | None = None,
) -> ClassPosterior:
    """log p(y | x) of each class for x [n, *event], by Bayes' rule, under a denoiser that is conditioned on the class.

        jd.likelihood.class_posterior(key, denoiser, x, 10).log_prob.argmax(1)

    It costs as many likelihoods an example as there are classes. Example i depends on `key` and i alone.

    Args:
        classes: how many there are, of a denoiser of labels 0, 1, ...; or the cond of each, a list of them or a tree
            with leaves [classes, ...], without an axis of examples.
        prior: p(y) of each class, [classes], up to a factor; None is the same for all.
        flow, trace, t_min, source, precision: those of `jaxdiff.log_likelihood`.
        batch_size: how many examples are solved at once, for one class after the other.
        progress: show a bar.
        mesh: the devices each batch is split between, its size rounded up to a multiple of their number.

    Raises ValueError for fewer than two classes, classes of different forms, a prior of another length, with a negative
    number or without one above 0, and as `jaxdiff.log_likelihood` does.
    """
    check_model(denoiser)
    check_shared("denoiser", denoiser)
    check_precision(precision)
    check_flag("progress", progress)
    check_mesh(mesh)
    batch_size = check_whole("batch_size", batch_size)
    x = np.asarray(check_event(x))
    conds = _conds(classes)
    log_prior = _log_prior(prior, len(conds))
    n, settings = len(x), (flow, trace, t_min, source)
    for cond in conds:
        check_cond(denoiser, _repeated(cond, 1), 1)
    keys, model = example_keys(key, n), copied(denoiser, mesh)

    def compute(index):
        part_keys, part, part_conds = spread(
            (keys[index], x[index], [_repeated(cond, len(index)) for cond in conds]), mesh
        )
        with at_precision(precision):
            found = [by_estimate(part_keys, model, part, cond, *settings) for cond in part_conds]
        likelihoods, deviations = zip(*found)
        by_class = lambda *leaves: jnp.stack(leaves, 1)
        log_likelihood, _, evaluations, converged = jax.tree.map(by_class, *likelihoods)
        joint = log_likelihood + log_prior
        log_prob = jnp.where(converged.all(1, keepdims=True), jax.nn.log_softmax(joint, 1), jnp.nan)
        error = jnp.stack(deviations, 1)  # of each estimate of the trace, [n, classes, m]
        error = error - jnp.sum(jax.nn.softmax(joint, 1)[..., None] * error, 1, keepdims=True)
        return log_prob, trace.standard_error(error), log_likelihood, evaluations, converged

    parts = in_batches(compute, np.arange(n), min(batch_size, n), progress, "posterior", mesh, axis=0)
    return ClassPosterior(*map(np.concatenate, zip(*(found for _, found in parts))))


def _conds(classes) -> list:
    """The cond of each class, arrays without an axis of examples."""
    if not isinstance(classes, dict | list | tuple) and np.ndim(classes) == 0:
        return [np.int32(label) for label in range(check_whole("classes", classes, least=2, noun="classes"))]
    if isinstance(classes, list | tuple):
        conds = [jax.tree.map(_array, cond, is_leaf=lambda part: isinstance(part, list)) for cond in classes]
    else:
        leaves = jax.tree.map(_array, classes)
        lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(leaves)}
        if len(lengths) != 1 or () in lengths:
            raise ValueError(f"classes = {said(classes)}; expected a number, or a tree with leaves [classes, ...]")
        conds = [jax.tree.map(lambda leaf, k=k: leaf[k], leaves) for k in range(lengths.pop()[0])]
    forms = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), cond) for cond in conds]
    if len(conds) < 2 or any(form != forms[0] for form in forms):
        raise ValueError(f"classes = {said(classes)}; expected the cond of each of two classes or more, of one form")
    return conds


def _array(leaf) -> np.ndarray:
    array = as_array(leaf)
    if array is None or array.dtype.kind in "OSUMm":
        raise TypeError(f"classes holds {said(leaf)}; expected numbers and arrays of them")
    return np.asarray(array)


def _repeated(cond, n: int) -> Any:
    """`cond`, of one example, for n of them."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (n, *leaf.shape)), cond)


def _log_prior(prior, classes: int) -> np.ndarray:
    """log p(y), [classes]."""
    if prior is None:
        return np.full(classes, -np.log(classes))
    prior = np.asarray(check_array("prior", prior, least=0))
    if prior.shape != (classes,):
        raise ValueError(f"prior has shape {prior.shape}; expected ({classes},), one number a class")
    if not prior.sum() > 0:
        raise ValueError("prior = 0 for every class; expected one above 0")
    with np.errstate(divide="ignore"):
        return np.log(prior / prior.sum())
