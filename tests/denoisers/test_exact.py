import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COVARIANCES, MEANS, THREE_PROCESSES, WEIGHTS, draw_mixture, few, mixture, within
from scipy import integrate
from scipy.stats import multivariate_normal, norm

import jaxdiff as jd

THREE = pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))


def test_log_prob_is_scipys(process, x64):
    x = draw_mixture(0, 20)
    for t in (0.0, 0.3, 1.0):
        alpha, sigma = (float(c) for c in process.marginal(t))
        density = sum(
            w * multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * np.eye(2)).pdf(x)
            for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES)
        )
        np.testing.assert_allclose(mixture(process).log_prob(x, t), np.log(density), rtol=1e-9)


def test_score_is_the_gradient_of_log_prob(process, x64):
    x = jnp.asarray(draw_mixture(1, 16))
    data = jnp.asarray(draw_mixture(2, 5))
    for denoiser, times in (
        (mixture(process), (1e-4, 0.3, 1.0)),
        (jd.exact.Empirical(process, data), (0.4, 1.0)),
    ):
        for t in times:
            gradient = jax.grad(lambda x: denoiser.log_prob(x, t).sum())(x)
            np.testing.assert_allclose(jd.score(denoiser, x, t), gradient, rtol=1e-7, atol=1e-9)
            alpha, sigma = process.marginal(t)
            predicted = denoiser(x, t)
            np.testing.assert_allclose(alpha * predicted.data + sigma * predicted.noise, x, rtol=1e-8, atol=1e-8)


@THREE
def test_one_step_denoising_is_tweedie(process, x64):
    """E[x_0 | x] = (x + σ² ∇log p_t(x)) / α (Robbins 1956; Efron 2011), also given the component."""
    denoiser, x = mixture(process), jnp.asarray(draw_mixture(6, 8))
    for labels in (None, np.arange(8) % 2):
        score = jax.grad(lambda x, t: denoiser.log_prob(x, t, labels).sum())
        both = jax.jit(lambda x, t: (denoiser(x, t, labels).data, score(x, t)))
        for t in (0.05, 0.5, 0.95):
            alpha, sigma = process.marginal(t)
            data, slope = both(x, t)
            np.testing.assert_allclose(data, (x + sigma**2 * slope) / alpha, rtol=1e-7, atol=1e-8)


@THREE
def test_a_component_is_its_gaussian(process, x64):
    x, labels = jnp.asarray(draw_mixture(7, 6)), np.array([0, 1, 1, 0, 1, 0])
    model, times = mixture(process), jnp.linspace(0.01, 1.0, 6)
    conditioned = jax.jit(lambda model, x, t, k: (*model(x, t, k), model.log_prob(x, t, k)))
    for k in range(2):
        gaussian = jd.exact.Gaussian(process, MEANS[k], COVARIANCES[k])
        truth = conditioned(gaussian, x, times, 0 * labels)
        for got, by_label, expected in zip(
            conditioned(model, x, times, np.full(6, k)), conditioned(model, x, times, labels), truth
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(by_label[labels == k], expected[labels == k], rtol=1e-9, atol=1e-9)


@THREE
def test_responsibilities_are_bayes_rule(process, x64):
    x = draw_mixture(8, 12)
    for t in (0.1, 1.0):
        alpha, sigma = (float(c) for c in process.marginal(t))
        joint = np.stack(
            [
                w * multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * np.eye(2)).pdf(x)
                for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES)
            ],
            1,
        )
        got = mixture(process).log_responsibilities(jnp.asarray(x), t)
        np.testing.assert_allclose(got, np.log(joint / joint.sum(1, keepdims=True)), rtol=1e-8, atol=1e-10)


def test_a_component_by_the_adaptive_solver(x64):
    """The flow of N(m, C) is affine: in C's eigenbasis x_t - α m grows with √(α² c + σ²); cond comes one at a time."""
    process, labels, x = jd.Flow(), np.array([1, 0, 1]), draw_mixture(9, 3)
    z = jd.encode(mixture(process), jnp.asarray(x), labels, t_min=0.0, flow=within(1e-10))
    for point, end, k in zip(x, z, labels):
        values, basis = np.linalg.eigh(COVARIANCES[k])
        np.testing.assert_allclose(end, basis @ (basis.T @ (point - MEANS[k]) / np.sqrt(values)), rtol=1e-7, atol=1e-8)


def test_data_is_the_posterior_mean(x64):
    """E[x_0 | x] by quadrature of Bayes' rule in one dimension."""
    process = jd.VP()
    weights, means, variances = np.array([0.4, 0.6]), np.array([-1.0, 2.0]), np.array([0.2, 0.5])
    denoiser = jd.exact.Mixture(process, weights, means[:, None], variances[:, None, None])
    alpha, sigma = (float(c) for c in process.marginal(0.3))
    prior = lambda u: (weights * norm.pdf(u, means, np.sqrt(variances))).sum()
    for x in (-1.5, 0.2, 1.0):
        joint = lambda u: prior(u) * norm.pdf(x, alpha * u, sigma)
        mass, _ = integrate.quad(joint, -8, 8, epsabs=1e-12, limit=200)
        first, _ = integrate.quad(lambda u: u * joint(u), -8, 8, epsabs=1e-12, limit=200)
        np.testing.assert_allclose(denoiser(jnp.array([[x]]), 0.3).data[0, 0], first / mass, rtol=1e-7)


def test_empirical_is_the_mixture_without_width(process, x64):
    data = jnp.asarray(draw_mixture(3, 6)).reshape(6, 2, 1)
    x = jnp.asarray(draw_mixture(4, 7)).reshape(7, 2, 1)
    t = jnp.linspace(0.3, 1.0, 7)
    empirical = jd.exact.Empirical(process, data)
    dirac = jd.exact.Mixture(process, np.ones(6), data.reshape(6, 2), np.zeros((6, 2, 2)))
    for got, expected in zip(empirical(x, t), dirac(x, t)):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(empirical.log_prob(x, t), dirac.log_prob(x, t), rtol=1e-9)


def test_gaussian_is_affine(x64):
    """For N(m, C): E[x_0 | x] = m + α C (α² C + σ² I)⁻¹ (x - α m)."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    mean, covariance = rng.standard_normal(5), root @ root.T
    x = rng.standard_normal((3, 5))
    alpha, sigma = (float(c) for c in jd.Flow().marginal(0.6))
    gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(5))
    predicted = jd.exact.Gaussian(jd.Flow(), mean, covariance)(jnp.asarray(x), 0.6)
    np.testing.assert_allclose(predicted.data, mean + (x - alpha * mean) @ gain.T, rtol=1e-9)


def test_what_is_no_mixture_and_labels_it_has_not_are_refused():
    vp = jd.VP()
    for wrong, message in (
        (lambda: jd.exact.Mixture(vp, [1.0], [1.0, 2.0], [[[1.0]]]), r"expected \[k, d\]"),
        (lambda: jd.exact.Mixture(vp, [1.0, 1.0], [[0.0, 0.0]], [np.eye(2)]), "do not fit"),
        (lambda: jd.exact.Mixture(vp, [-1.0], [[0.0, 0.0]], [np.eye(2)]), "positive numbers"),
        (lambda: jd.exact.Gaussian(vp, [0.0, 0.0], -np.eye(2)), "semi-definite"),
        (lambda: jd.exact.Gaussian(vp, [0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "asymmetry 0.5"),
        (lambda: jd.exact.Gaussian(vp, 0.0, 1.0), r"expected \[d\]"),
        (lambda: mixture(vp)(jnp.zeros((3, 2)), 0.5, np.array([0, 2, 1])), "label 2 is out of range; expected 0 to 1"),
        (lambda: mixture(vp).log_prob(jnp.zeros((3, 2)), 0.5, -1), "label -1 is out of range"),
        (lambda: mixture(vp)(jnp.zeros((3, 2)), 0.5, np.zeros(2, int)), r"cond has shape \(2,\).*scalar or \[3\]"),
        (lambda: jd.exact.Empirical(vp, np.zeros((0, 3))), "empty"),
        (lambda: jd.exact.Empirical(vp, np.full((2, 3), np.nan)), r"data\[0\] holds a NaN"),
        (lambda: jd.exact.Gaussian(vp, [0.0, 0.0], np.eye(2))(jnp.zeros((4, 3)), 0.5), "events of 3 values"),
        (lambda: jd.exact.Empirical(vp, np.zeros((2, 3)))(jnp.zeros((4, 2)), 0.5), r"events of shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(TypeError, match="int"):
        jd.exact.Empirical(vp, np.zeros((2, 3), int))
    with pytest.raises(TypeError, match="float.*; expected integer labels"):
        mixture(vp)(jnp.zeros((3, 2)), 0.5, np.zeros(3))
    unread = jax.jit(lambda k: mixture(vp)(jnp.zeros((3, 2)), 0.5, k).data)(jnp.array([0, 2, -1]))
    np.testing.assert_array_equal(np.isnan(unread).any(1), [False, True, True])
