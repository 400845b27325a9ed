"""Likelihoods of flows from any source: what the flow carries is known at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COVARIANCES, MEANS, WEIGHTS, PairsOfGaussians, draw_mixture, mixture, schrodinger_covariance
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal, norm

import jaxdiff as jd
from jaxdiff.data.toys import eight_gaussians, eight_gaussians_mixture

TIGHT = dict(flow=jd.samplers.ProbabilityFlow(rtol=1e-10, atol=1e-10), trace=jd.likelihood.Exact(), t_min=0.0)


def test_mixture_from_mixture(x64):
    """Pairs drawn independently of two and of three Gaussians: 2 x 3 Gaussians of pairs."""
    weights, means = np.array([0.2, 0.3, 0.5]), np.array([[2.0, 0.0], [-1.0, 2.0], [0.0, -2.0]])
    covariances = np.array([0.5, 1.0, 0.3])[:, None, None] * np.eye(2)
    flow = PairsOfGaussians(
        0.0,
        np.outer(WEIGHTS, weights).ravel(),
        np.array([[*a, *b] for a in MEANS for b in means]),
        np.array([block_diag(a, b) for a in COVARIANCES for b in covariances]),
    )
    source = jd.exact.Mixture(jd.Flow(), weights, means, covariances).log_prob
    x = jnp.asarray(draw_mixture(0, 5))
    got = jd.log_likelihood(jax.random.key(0), flow, x, source=source, **TIGHT)
    assert got.converged.all()
    np.testing.assert_allclose(got.log_prob, mixture(jd.Flow()).log_prob(x), atol=1e-8)


@pytest.mark.slow
def test_the_flow_of_a_bridge(x64):
    """Two Gaussian Schrödinger bridges in one, N(±2 - 0.1, 1) to N(±2 + 0.1, 1), in halves."""
    sigma = 0.7
    c = schrodinger_covariance(sigma)
    bridge = PairsOfGaussians(
        sigma, np.ones(2) / 2, np.array([[-2.1, -1.9], [1.9, 2.1]]), np.array([[[1.0, c], [c, 1.0]]] * 2)
    )
    half = lambda x, low, high: np.log((norm.pdf(x, low) + norm.pdf(x, high)) / 2)[:, 0]
    source = lambda x: jax.nn.logsumexp(jax.scipy.stats.norm.logpdf(x, jnp.array([-1.9, 2.1])), axis=1) - jnp.log(2.0)
    x = np.array([[-3.0], [-1.0], [0.1], [2.5]])
    got = jd.log_likelihood(jax.random.key(0), bridge, x, source=source, **TIGHT)
    np.testing.assert_allclose(got.log_prob, half(x, -2.1, 1.9), atol=1e-8)


@pytest.mark.slow
def test_optimal_transport_from_eight_gaussians(x64):
    """x_0 = A x_1 + b with A positive definite is optimal: log p_0(x_0) = log p_1(x_1) - log det A, and straight."""
    matrix, shift = np.array([[0.8, 0.3], [0.3, 0.5]]), np.array([1.0, -2.0])
    weights, means, covariances = eight_gaussians_mixture()
    both = np.concatenate([matrix, np.eye(2)])  # of x_1 to the pair (x_0, x_1), but for the shift
    flow = PairsOfGaussians(0.0, weights, means @ both.T + np.array([*shift, 0, 0]), both @ covariances @ both.T)
    x_1 = np.asarray(eight_gaussians(jax.random.key(0), 6), np.float64)
    x_0 = x_1 @ matrix + shift
    density = np.mean([multivariate_normal(m, c).pdf(x_1) for m, c in zip(means, covariances)], axis=0)
    source = jd.exact.Mixture(jd.Flow(), weights, means, covariances).log_prob
    got = jd.log_likelihood(jax.random.key(0), flow, jnp.asarray(x_0), source=source, **TIGHT)
    np.testing.assert_allclose(got.log_prob, np.log(density) - np.log(np.linalg.det(matrix)), atol=1e-8)
    one_step = jd.sample(jax.random.key(1), flow, (6, 2), jd.samplers.DDIM(), 1, x_start=x_1)
    np.testing.assert_allclose(one_step, x_0, atol=1e-9)


@pytest.mark.slow
def test_new_numbers_compile_nothing():
    """And the prior given as a source is no source: x at t = 1 of VE is not of unit scale."""
    traces = []

    def network(params, x, c_noise, cond):
        traces.append(1)
        return params * x

    normal = lambda scale, x: jax.scipy.stats.norm.logpdf(x, scale=scale).sum(1)
    denoiser, x = jd.Denoiser(network, 0.3, jd.VE(), "v"), jnp.ones((2, 2))
    exact = {"trace": jd.likelihood.Exact()}
    value = lambda source: jd.log_likelihood(jax.random.key(0), denoiser, x, **exact, source=source).log_prob[0]
    for make in (
        lambda k: jd.exact.Gaussian(jd.VP(), np.zeros(2), k**2 * np.eye(2)).log_prob,
        lambda k: jax.tree_util.Partial(normal, k),
    ):
        other, seen = value(make(30.0)), len(traces)
        np.testing.assert_allclose(value(make(50.0)), known := value(None), rtol=1e-5)
        assert len(traces) - seen in (0, seen)  # at most the one that None is
        assert other != known


def test_a_source_that_is_no_log_density_is_refused():
    key, denoiser, x = jax.random.key(0), mixture(jd.Flow()), jnp.zeros((2, 2))
    with pytest.raises(TypeError, match=r"source = 3.0; expected a function"):
        jd.log_likelihood(key, denoiser, x, source=3.0)
    with pytest.raises(ValueError, match=r"source gave shape \(1, 2\) for x of shape \(1, 2\); expected \(1,\)"):
        jd.log_likelihood(key, denoiser, x, source=jax.scipy.stats.norm.logpdf)
