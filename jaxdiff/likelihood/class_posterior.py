r"""p(y | x) of a conditional model, by Bayes' rule over its classes.

    log p(y_k | x) = log p(x | y_k) + log p(y_k) - log Σ_j p(x | y_j) p(y_j)

Every log p(x | y_k) is that of the probability flow (`jaxdiff.likelihood.log_likelihood`), with the same probes for all
classes of an example, so that the common part of their trace errors cancels. To first order, errors e_k of log p(x |
y_k) under a probe make log p(y_k | x) wrong by e_k - Σ_j p(y_j | x) e_j.
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
    """p(y | x) of every class, with its parts, as NumPy arrays `[n, classes]`.

    Attributes:
        log_prob: log p(y | x) in nats; NaN for an example whose solve failed for a class.
        standard_error: of `log_prob` in nats, from the spread of the trace estimates, which the classes share; NaN for
            a single random one, 0 for the exact trace.
        log_likelihood: log p(x | y) in nats.
        evaluations: of each solve, as in `jaxdiff.Likelihood`.
        converged: of each solve, as in `jaxdiff.Likelihood`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], [[-1.0], [1.0]], [[[0.04]], [[0.04]]])
        >>> found = jd.likelihood.class_posterior(jax.random.key(0), denoiser, jnp.array([[0.9], [-1.1]]), 2)
        >>> found.log_prob.shape, bool(found.converged.all())
        ((2, 2), True)
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
    """Compute log p(y | x) of each class by Bayes' rule, under a denoiser conditioned on the class.

    It solves as many likelihoods an example as there are classes. Example i depends on `key` and i alone.

    Args:
        key: a typed key, or n keys, one an example.
        denoiser: denoiser conditioned on a class.
        x: examples `[n, *event]`.
        classes: their number, for a denoiser of labels 0, 1, ...; or the cond of each, as a list, or as a tree with
            leaves `[classes, ...]`, without an axis of examples.
        prior: p(y) of each class up to a factor, `[classes]`; None is uniform.
        flow: solver and tolerances, as in `jaxdiff.log_likelihood`.
        trace: trace of the flow's Jacobian, as in `jaxdiff.log_likelihood`.
        t_min: time of x, as in `jaxdiff.log_likelihood`.
        source: density at t = 1, as in `jaxdiff.log_likelihood`.
        batch_size: examples solved at once, for one class after the other.
        progress: show a progress bar.
        mesh: devices that each batch is split between; the batch size is rounded up to a multiple of their number.
        precision: of the network's float32 products, as in `jaxdiff.sample`.

    Raises:
        ValueError: for fewer than two classes, classes of different structures, or a prior of another length, with a
            negative number, or without one above 0.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], [[-1.0], [1.0]], [[[0.04]], [[0.04]]])
        >>> found = jd.likelihood.class_posterior(jax.random.key(0), denoiser, jnp.array([[0.9], [-1.1]]), 2)
        >>> found.log_prob.argmax(1)
        array([1, 0])
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
        raise ValueError(f"classes = {said(classes)}; expected two conds or more, one a class, of the same structure")
    return conds


def _array(leaf) -> np.ndarray:
    array = as_array(leaf)
    if array is None or array.dtype.kind in "OSUMm":
        raise TypeError(f"classes holds {said(leaf)}; expected numbers and arrays of numbers")
    return np.asarray(array)


def _repeated(cond, n: int) -> Any:
    """The `cond` of one example, for n of them."""
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
