"""The argmax flow against the probabilities of the categories of a law that is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.likelihood import Argmax, DequantizationLoss, Exact
from jaxdiff.samplers import example_keys

KEY = jax.random.key(0)
K = 3
MEAN, STD = np.array([0.6, 0.0, -0.4]), np.array([1.0, 0.7, 1.3])  # of v, whose parts are independent


def probability(x):
    """P(argmax v = x) = ∫ N(v_x) Π_{i ≠ x} Φ(v_x) dv_x."""
    others = [i for i in range(K) if i != x]
    at = lambda v: norm.pdf(v, MEAN[x], STD[x]) * np.prod(norm.cdf(v, MEAN[others], STD[others]))
    return integrate.quad(at, -12, 12)[0]


P = np.array([probability(x) for x in range(K)])


def given(params, noise, x):
    """u = `params`, whatever the noise."""
    return params, jnp.zeros(len(x))


def affine(params, noise, x):
    """A mean and a scale of each of u for each category."""
    shift, log_scale = params[0] @ jnp.swapaxes(x, -1, -2), params[1] @ jnp.swapaxes(x, -1, -2)
    shift, log_scale = jnp.swapaxes(shift, -1, -2), jnp.swapaxes(log_scale, -1, -2)
    return shift + jnp.exp(log_scale) * noise, log_scale.sum((1, 2))


def test_the_argmax_is_the_category_and_the_determinant_that_of_finite_differences(x64):
    assert P.sum() == pytest.approx(1)
    tokens = np.array([[0, 2], [1, 1], [2, 0]])
    keys = example_keys(KEY, 3)
    v, _ = Argmax()(keys, tokens, K)
    assert v.shape == (3, 2, K)
    np.testing.assert_array_equal(jnp.argmax(v, -1), tokens)
    u = 2 * np.random.default_rng(0).standard_normal((3, 2, K))
    moved = lambda u: np.asarray(Argmax(given, jnp.asarray(u))(keys, tokens, K)[0])
    log_q = Argmax(given, jnp.asarray(u))(keys, tokens, K)[1]
    noise = jax.vmap(lambda key: jax.random.normal(key, (2, K), jnp.float32))(keys)
    steps = 1e-5 * np.eye(2 * K).reshape(-1, 1, 2, K)
    columns = np.stack([(moved(u + step) - moved(u - step)) / 2e-5 for step in steps], -1).reshape(3, 2 * K, 2 * K)
    expected = norm.logpdf(noise).sum((1, 2)) - np.linalg.slogdet(columns)[1]
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)


def test_far_apart_nothing_ties():
    u = np.array([[[0.0, 40.0, -40.0]], [[3.0, 3.0, 3.0]], [[-1e4, 1e4, 0.0]]], np.float32)
    tokens = np.array([[2], [1], [0]])
    v, log_q = Argmax(given, u)(example_keys(KEY, 3), tokens, K)
    np.testing.assert_array_equal(jnp.argmax(v, -1), tokens)
    assert np.isfinite(log_q).all()


@pytest.mark.parametrize("learned", [False, True])
def test_its_bound_is_above_the_probability_and_converges_to_it(learned):
    """E log p/q below log P and the log of the mean of many p/q at it, of each category, at 4 standard errors."""
    params = np.random.default_rng(1).standard_normal((2, K, K)).astype(np.float32) / 3
    dequantizer = Argmax(affine, params) if learned else Argmax()
    n = 20_000
    for x in range(K):
        v, log_q = dequantizer(example_keys(KEY, n), np.full((n, 1), x), K)
        ratio = norm.logpdf(np.asarray(v, np.float64), MEAN, STD).sum((1, 2)) - np.asarray(log_q, np.float64)
        assert ratio.mean() + 4 * ratio.std() / np.sqrt(n) < np.log(P[x])
        weight = np.exp(ratio)
        assert abs(weight.mean() - P[x]) < 4 * weight.std() / np.sqrt(n)


@pytest.mark.slow
def test_bits_per_dim_takes_it_in_front_of_a_flow():
    """The likelihood by the flow is that of the density, and importance-weighted it falls towards the entropy."""
    denoiser = jd.exact.Gaussian(jd.Flow(), MEAN, np.diag(STD**2))
    n = 24
    tokens = np.random.default_rng(0).choice(K, (n, 1), p=P)
    report = lambda samples: jd.bits_per_dim(
        KEY, denoiser, tokens, samples, levels=K, trace=Exact(), dequantizer=Argmax(), budget=0
    )
    one, many = report(1), report(8)
    truth = -np.log2(P)[tokens[:, 0]]
    assert one.kind == "argmax flow"
    assert many.kind == "importance-weighted bound of argmax flow, K = 8"
    assert one.bits_per_dim > many.bits_per_dim > truth.mean() - 0.05
    gap = (one.per_example - truth).mean()
    assert (many.per_example - truth).mean() < gap / 2


@pytest.mark.slow
def test_it_learns_from_the_bound_of_its_flow():
    """A step along the gradient of `DequantizationLoss` lowers it; and the weights are its own."""
    denoiser = jd.exact.Gaussian(jd.Flow(), MEAN, np.diag(STD**2))
    start, loss = Argmax(affine, np.zeros((2, K, K), np.float32)), DequantizationLoss(denoiser, K)
    tokens = np.tile(np.arange(K), 200)[:, None]
    value = lambda params: loss(start.with_params(params), KEY, tokens).mean()
    before, slope = jax.value_and_grad(value)(start.params)
    assert value(start.params - 0.3 * slope) < before
    assert dataclasses.replace(start, params=None).params is None


def test_what_it_cannot_do_is_refused():
    denoiser = jd.exact.Gaussian(jd.Flow(), MEAN, np.diag(STD**2))
    tokens = np.zeros((2, 1), int)
    with pytest.raises(ValueError, match=r"budget = 64 with dequantizer = Argmax\(.*give budget=0"):
        jd.bits_per_dim(KEY, denoiser, tokens, levels=K, dequantizer=Argmax())
    with pytest.raises(ValueError, match="expected 0..2"):
        jd.bits_per_dim(KEY, denoiser, tokens + 3, levels=K, dequantizer=Argmax(), budget=0)
    with pytest.raises(ValueError, match=r"network returned shape \(2, 1\)"):
        Argmax(lambda params, noise, x: (noise[..., 0], noise), None)(example_keys(KEY, 2), tokens, K)


def test_what_is_no_category_is_refused_and_is_nan_where_it_is_traced():
    halves, keys = np.array([[0.0, 0.5]], np.float32), example_keys(KEY, 1)
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(2 * K), np.eye(2 * K))
    loss = lambda x: DequantizationLoss(denoiser, K)(Argmax(), KEY, x)
    with pytest.raises(ValueError, match="images hold 0.5; expected whole numbers 0..2"):
        loss(halves)
    assert np.isfinite(jax.jit(loss)(np.array([[0.0, 2.0]], np.float32))).all(), (
        "whole numbers as floats are categories"
    )
    traced = jax.jit(lambda x: Argmax()(keys, x, K))
    for wrong in (halves, np.array([[0, 3]]), np.array([[0, -1]])):
        with pytest.raises(ValueError, match=f"images hold {wrong[0, 1]}, which is not a category; expected 0..2"):
            Argmax()(keys, wrong, K)
        v, log_q = traced(wrong)
        assert np.isfinite(v[0, 0]).all()
        assert np.isnan(v[0, 1]).all()
        assert np.isnan(log_q).all()
