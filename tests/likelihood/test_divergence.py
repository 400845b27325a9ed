import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.likelihood.divergence import draw_vectors, trace

RANDOM = ["hutchinson", "hutch++", "xtrace"]


def estimates(divergence, matrix, probes, n, dtype=jnp.float32):
    """[n, probes] for x -> matrix x."""
    size, matrix = len(matrix), jnp.asarray(matrix, dtype)

    def one(key):
        return trace(divergence, lambda x: matrix @ x, draw_vectors(key, divergence, probes, (size,), dtype), (size,))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), n)), np.float64)


def some_matrix(size=30):
    """Far from symmetric, eigenvalues of every size, and a multiple of I."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((size, size)) / size**0.5 + np.diag(np.geomspace(10, 0.01, size)) + 2 * np.eye(size)


@pytest.mark.parametrize("divergence", RANDOM)
@pytest.mark.parametrize("probes", [1, 2, 6])
def test_unbiased(divergence, probes):
    matrix = some_matrix()
    means = estimates(divergence, matrix, probes, 20_000).mean(1)
    assert abs(means.mean() - np.trace(matrix)) < 4 * means.std() / np.sqrt(len(means))


@pytest.mark.parametrize("divergence", RANDOM)
def test_the_spread_of_the_probes_is_their_error(divergence):
    """Where few of many directions are spent on the basis: XTrace's estimates share theirs."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((100, 100)) / 10
    found = estimates(divergence, matrix, 8, 4000)
    claimed = found.var(1, ddof=1) / 8
    spread = (found.mean(1) - np.trace(matrix)) ** 2
    error = np.hypot(claimed.std(), spread.std()) / np.sqrt(len(found))
    shared = 2 * 8 / 100 * spread.mean() if divergence == "xtrace" else 0.0
    assert abs(claimed.mean() - spread.mean()) < 4 * error + shared


def test_signs_have_the_known_variance():
    matrix = some_matrix()
    symmetric = (matrix + matrix.T) / 2
    truth = 2 * ((symmetric**2).sum() - (np.diag(symmetric) ** 2).sum())
    found = estimates("hutchinson", matrix, 1, 20_000)[:, 0]
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - truth) < 4 * squares.std() / np.sqrt(len(found))


@pytest.mark.parametrize("divergence", RANDOM)
@pytest.mark.parametrize("k", [0.0, -3.0])
def test_a_multiple_of_the_identity_is_never_estimated(divergence, k):
    found = estimates(divergence, k * np.eye(20), 3, 50)
    np.testing.assert_allclose(found, 20 * k, atol=1e-3)


def test_a_basis_pays_where_few_directions_differ():
    """2 I but on three of 100 dimensions: for the same 49 products, a tenth of the error of signs and less."""
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((100, 3)))[0]
    matrix = 2 * (np.eye(100) - basis @ basis.T)
    error = lambda name, probes: np.sqrt(
        np.mean((estimates(name, matrix, probes, 400).mean(1) - np.trace(matrix)) ** 2)
    )
    signs = error("hutchinson", 49)
    assert error("hutch++", 16) < 0.1 * signs
    assert error("xtrace", 24) < 0.1 * signs


@pytest.mark.parametrize("size", [3, 64, 100])
def test_exact_in_chunks(size):
    matrix = np.random.default_rng(3).standard_normal((size, size))
    np.testing.assert_allclose(estimates("exact", matrix, 1, 2), np.trace(matrix), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("divergence", ["hutch++", "xtrace"])
def test_likelihoods_agree_with_the_exact_divergence(divergence):
    """A Gaussian of 12 correlated values, of images: events need not be vectors."""
    d, n = 12, 400
    root = np.random.default_rng(4).standard_normal((d, d)) / 3
    covariance = root @ root.T + 0.05 * np.eye(d)
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(d), covariance)
    x = jnp.tile(jnp.linspace(-0.5, 0.5, d), (n, 1))
    exact = jd.log_likelihood(jax.random.key(0), denoiser, x[:1], "exact", rtol=1e-4, atol=1e-4).log_prob[0]
    found = jd.log_likelihood(jax.random.key(0), denoiser, x, divergence, 3, 1e-4, 1e-4)
    values = np.asarray(found.log_prob, np.float64)
    assert found.converged.all()
    assert abs(values.mean() - float(exact)) < 4 * values.std() / np.sqrt(n) + 1e-3


def test_more_directions_than_there_are_is_refused():
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(3), np.eye(3))
    for divergence in ("hutch++", "xtrace"):
        with pytest.raises(ValueError, match="probes = 3 for events of 3 values; expected fewer"):
            jd.log_likelihood(jax.random.key(0), denoiser, jnp.zeros((1, 3)), divergence, 3)
