import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few, few_names, within
from tables import TRACES

import jaxdiff as jd
from jaxdiff.likelihood import Exact, Hutchinson, HutchPP, Trace, XTrace

RANDOM = [type(trace) for trace in TRACES.values() if trace.random]


def estimates(trace, matrix, n, dtype=jnp.float32):
    """[n, m] for x -> matrix x."""
    size, matrix = len(matrix), jnp.asarray(matrix, dtype)

    def one(key):
        return trace.estimates(lambda x: matrix @ x, trace.vectors(key, size, dtype))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), n)), np.float64)


def some_matrix(size=30):
    """Far from symmetric, eigenvalues of every size, and a multiple of I."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((size, size)) / size**0.5 + np.diag(np.geomspace(10, 0.01, size)) + 2 * np.eye(size)


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("probes", few_names([1, 2, 6], 2))
def test_unbiased(kind, probes):
    matrix = some_matrix()
    means = estimates(kind(probes), matrix, 20_000).mean(1)
    assert abs(means.mean() - np.trace(matrix)) < 4 * means.std() / np.sqrt(len(means))


@pytest.mark.parametrize("kind", few({kind.__name__: kind for kind in RANDOM}, "XTrace"))
def test_the_spread_of_the_probes_is_their_error(kind):
    """Where few of many directions are spent on the basis: XTrace's estimates share theirs."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((100, 100)) / 10
    found = estimates(kind(8), matrix, 4000)
    claimed = found.var(1, ddof=1) / 8
    spread = (found.mean(1) - np.trace(matrix)) ** 2
    error = np.hypot(claimed.std(), spread.std()) / np.sqrt(len(found))
    shared = 2 * 8 / 100 * spread.mean() if kind is XTrace else 0.0
    assert abs(claimed.mean() - spread.mean()) < 4 * error + shared


def test_signs_have_the_known_variance():
    matrix = some_matrix()
    symmetric = (matrix + matrix.T) / 2
    truth = 2 * ((symmetric**2).sum() - (np.diag(symmetric) ** 2).sum())
    found = estimates(Hutchinson(), matrix, 20_000)[:, 0]
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - truth) < 4 * squares.std() / np.sqrt(len(found))


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("k", [0.0, -3.0])
def test_a_multiple_of_the_identity_is_never_estimated(kind, k):
    found = estimates(kind(3), k * np.eye(20), 50)
    np.testing.assert_allclose(found, 20 * k, atol=1e-3)


@pytest.mark.slow
def test_a_basis_pays_where_few_directions_differ():
    """2 I but on three of 100 dimensions: for the same 49 products, a tenth of the error of signs and less."""
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((100, 3)))[0]
    matrix = 2 * (np.eye(100) - basis @ basis.T)
    error = lambda trace: np.sqrt(np.mean((estimates(trace, matrix, 400).mean(1) - np.trace(matrix)) ** 2))
    signs = error(Hutchinson(49))
    assert error(HutchPP(16)) < 0.1 * signs
    assert error(XTrace(24)) < 0.1 * signs


@pytest.mark.parametrize("size", [3, 64, 100])
def test_exact_in_chunks(size):
    matrix = np.random.default_rng(3).standard_normal((size, size))
    np.testing.assert_allclose(estimates(Exact(), matrix, 2), np.trace(matrix), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [HutchPP, XTrace])
@pytest.mark.slow
def test_likelihoods_agree_with_the_exact_trace(kind):
    """A Gaussian of 12 correlated values, of images: events need not be vectors."""
    d, n = 12, 400
    root = np.random.default_rng(4).standard_normal((d, d)) / 3
    covariance = root @ root.T + 0.05 * np.eye(d)
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(d), covariance)
    x = jnp.tile(jnp.linspace(-0.5, 0.5, d), (n, 1))
    exact = jd.log_likelihood(jax.random.key(0), denoiser, x[:1], trace=Exact(), flow=within(1e-4)).log_prob[0]
    found = jd.log_likelihood(jax.random.key(0), denoiser, x, flow=within(1e-4), trace=kind(3))
    values = np.asarray(found.log_prob, np.float64)
    assert found.converged.all()
    assert abs(values.mean() - float(exact)) < 4 * values.std() / np.sqrt(n) + 1e-3


def test_more_directions_than_there_are_is_refused():
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(3), np.eye(3))
    for kind in (HutchPP, XTrace):
        with pytest.raises(ValueError, match="probes = 3 for events of 3 values; expected fewer"):
            jd.log_likelihood(jax.random.key(0), denoiser, jnp.zeros((1, 3)), trace=kind(3))


@jd.pytree
@dataclasses.dataclass(frozen=True)
class NormalProbes(Trace):
    """A user's own trace: normal vectors of another scale, a number that is a leaf, in place of signs."""

    scale: float
    probes: int = dataclasses.field(default=2, metadata={"static": True})

    def vectors(self, key, size, dtype):
        return self.scale * jax.random.normal(key, (self.probes, size), dtype)

    def estimates(self, product, vectors):
        return jax.vmap(lambda e: e @ product(e))(vectors) / self.scale**2


@pytest.mark.slow
def test_a_trace_of_ones_own_is_that_of_its_vectors():
    """On N(0, s² I) the flow scales each of D directions by e^g, so that an estimate is g |e|²: of mean g D, which is
    the exact trace, and of variance 2 g² D."""
    d, n, std = 4, 4000, 0.3
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(d), std**2 * np.eye(d))
    (a0, s0), (a1, s1) = (jd.VP().marginal(t) for t in (1e-5, 1.0))
    growth = 0.5 * np.log((a1**2 * std**2 + s1**2) / (a0**2 * std**2 + s0**2))
    x = jnp.array([0.3, -0.2, 0.5, 0.1])
    truth = jax.scipy.stats.norm.logpdf(np.exp(growth) * x).sum() + d * growth
    found = jd.log_likelihood(
        jax.random.key(1), denoiser, jnp.tile(x, (n, 1)), flow=within(1e-4), trace=NormalProbes(3.0)
    )
    error = np.asarray(found.log_prob, np.float64) - float(truth)
    claimed = np.asarray(found.standard_error, np.float64) ** 2
    variance = 2 * growth**2 * d / 2
    assert abs(error.mean()) < 4 * np.sqrt(variance / n)
    for squares in (error**2, claimed):
        assert abs(squares.mean() - variance) < 4 * squares.std() / np.sqrt(n)


def test_a_new_number_of_a_trace_compiles_nothing():
    traced, counts = [], []

    def network(params, x, c_noise, cond):
        traced.append(1)
        return params * x

    denoiser = jd.Denoiser(network, 0.3, jd.VP())
    for scale in (1.0, 2.0):
        call = functools.partial(jd.log_likelihood, trace=NormalProbes(scale))
        jax.eval_shape(call, jax.random.key(0), denoiser, jnp.ones((2, 3)))
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Wrong(NormalProbes):
    answer: str = dataclasses.field(default="", metadata={"static": True})

    def vectors(self, key, size, dtype):
        return jnp.ones(size) if self.answer == "vectors" else super().vectors(key, size, dtype)

    def estimates(self, product, vectors):
        return super().estimates(product, vectors).sum() if self.answer == "sum" else None


def test_traces_of_ones_own_that_answer_something_else_are_refused():
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(3), np.eye(3))
    plain = type("Plain", (Trace,), {"vectors": None, "estimates": None})()
    for trace, error, message in (
        (Wrong(1.0, answer="vectors"), ValueError, r"trace.vectors returned shape \(3,\) for events of 3 values"),
        (Wrong(1.0, answer="sum"), ValueError, r"trace.estimates returned shape \(\); expected one estimate or more"),
        (Wrong(1.0, answer="none"), ValueError, "trace.estimates returned None"),
        (
            NormalProbes(1.0, probes=0),
            ValueError,
            r"estimates returned shape \(0,\); expected one estimate",
        ),
        (plain, TypeError, "Plain is no pytree"),
    ):
        with pytest.raises(error, match=message):
            jd.log_likelihood(jax.random.key(0), denoiser, jnp.zeros((1, 3)), trace=trace)
