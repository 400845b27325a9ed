import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from scipy import integrate
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.likelihood import Exact, Hutchinson

FAST = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-2, atol=1e-2)}


def standard_normal(d, std=1.0):
    """Data N(0, std²) under VP: for std = 1 the flow stands still and log p is the normal's."""
    return jd.exact.Gaussian(jd.VP(), np.zeros(d), std**2 * np.eye(d))


def test_dequantize_and_quantize():
    images = jnp.arange(17, dtype=jnp.uint8).reshape(17, 1, 1, 1) + jnp.zeros((1, 5, 5, 1), jnp.uint8)
    x = jd.dequantize(jax.random.key(0), images, 17)
    assert x.dtype == jnp.float32
    assert ((x >= -1) & (x < 1)).all()
    np.testing.assert_array_equal(jd.quantize(x, 17), images)
    np.testing.assert_array_equal(jd.quantize(jnp.array([-3.0, -1.0, 0.999, 1.0, 3.0])), [0, 0, 255, 255, 255])
    many = jd.dequantize(jax.random.key(1), jnp.full((4000, 1), 3), 17)
    u = (np.asarray(many) + 1) / 2 * 17 - 3
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    tail = jd.dequantize(jd.samplers.example_keys(jax.random.key(0), 17)[9:], images[9:], 17)
    np.testing.assert_array_equal(tail, x[9:])


@pytest.mark.parametrize("levels", few_names([2, 17, 256], 256))
def test_bits_against_quadrature(levels):
    """E_u log p(x) of a standard normal over each level's cell, by quadrature; for 256 levels it holds the +7 bits."""
    d, n = 3, 400
    images = np.random.default_rng(0).integers(0, levels, (n, d))
    edges = 2 * np.arange(levels + 1) / levels - 1
    cell = [
        integrate.quad(norm.logpdf, low, high)[0] / (high - low) / np.log(2) + np.log2(high - low)
        for low, high in zip(edges[:-1], edges[1:])
    ]
    truth = -np.array(cell)[images].mean()
    report = jd.bits_per_dim(jax.random.key(0), standard_normal(d), images, levels=levels, batch_size=150, budget=0)
    spreads = [norm.logpdf(np.linspace(a, b, 50)).std() for a, b in zip(edges[:-1], edges[1:])]
    noise = np.max(spreads) / np.log(2)
    assert abs(report.bits_per_dim - truth) < 4 * noise / np.sqrt(n * d) + 1e-4
    assert report.examples == n
    assert report.not_converged == 0
    assert report.kind == "uniform dequantisation"
    assert report.standard_error == pytest.approx(report.per_example.std(ddof=1) / np.sqrt(n))


@pytest.mark.slow
def test_importance_weighting_approaches_the_integral():
    """More samples tighten the bound towards -log2 of the probability that a sharp density gives the cell itself."""
    levels, std = 4, 0.3
    images = np.tile(np.arange(levels), 100)[:, None]
    edges = 2 * np.arange(levels + 1) / levels - 1
    truth = -np.log2(np.diff(norm.cdf(edges, scale=std))).mean()
    reports = [
        jd.bits_per_dim(jax.random.key(0), standard_normal(1, std), images, k, levels, 400, trace=Exact(), budget=0)
        for k in (1, 4, 64)
    ]
    values = [report.bits_per_dim for report in reports]
    assert values[0] > values[1] > values[2] > truth - 4 * reports[2].standard_error
    assert values[2] - truth < 0.1 * (values[0] - truth)
    assert reports[1].kind == "importance-weighted bound, K = 4"


@pytest.mark.slow
def test_probes_do_not_undo_the_importance_weighted_bound():
    """Against the exact divergence on a correlated Gaussian, within four standard errors of the difference."""
    d, n = 8, 100
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(d), 0.02 * np.eye(d) + 0.2 * np.ones((d, d)))
    images = np.random.default_rng(5).integers(20, 44, (n, 1)) + np.zeros((1, d), int)
    exact, probed = (
        jd.bits_per_dim(jax.random.key(0), denoiser, images, 8, 64, n, trace=trace, budget=0)
        for trace in (Exact(), Hutchinson())
    )
    difference = probed.per_example - exact.per_example
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)
    assert probed.kind == "importance-weighted bound, K = 8, estimated by probes"


def test_labels_of_the_wrong_number_are_refused():
    with pytest.raises(ValueError, match=r"cond has shape \(3,\).* 6 examples"):
        jd.bits_per_dim(jax.random.key(0), standard_normal(3), np.zeros((6, 3), int), cond=np.zeros(3, int))


@pytest.mark.slow
def test_report_does_not_depend_on_the_batch_size():
    images = np.random.default_rng(1).integers(0, 17, (7, 4))
    whole, parts = (
        jd.bits_per_dim(
            jax.random.key(0), standard_normal(4), images, 2, 17, batch, **FAST, trace=Hutchinson(2), budget=5
        )
        for batch in (7, 3)
    )
    np.testing.assert_allclose(whole.per_example, parts.per_example, rtol=1e-4)
    for name in ("images", "dequantisation", "trace", "prior"):
        assert getattr(whole.budget, name) == pytest.approx(getattr(parts.budget, name), rel=1e-2, abs=1e-6)
    np.testing.assert_allclose(whole.budget.bound.per_example, parts.budget.bound.per_example, rtol=1e-4)


@pytest.mark.slow
def test_failures_are_counted_and_left_out():
    def network(params, x, c_noise, cond):
        return x * jnp.where(cond > 0, jnp.nan, 0.0)[:, None]

    denoiser = jd.Denoiser(network, None, jd.VP(), "v")
    images = np.random.default_rng(2).integers(0, 256, (5, 3))
    report = jd.bits_per_dim(jax.random.key(0), denoiser, images, batch_size=2, cond=np.array([0, 1, 0, 0, 1]))
    assert report.not_converged == 2
    np.testing.assert_array_equal(np.isnan(report.per_example), [False, True, False, False, True])
    assert np.isfinite(report.bits_per_dim)
    assert "2 of 5 not converged and left out" in str(report)


def test_images_and_settings_without_a_likelihood_are_refused():
    key, denoiser = jax.random.key(0), standard_normal(3)
    for call, error, message in (
        (lambda: jd.bits_per_dim(key, denoiser, np.zeros((0, 3), int)), ValueError, "the data set is empty"),
        (
            lambda: jd.bits_per_dim(key, denoiser, np.zeros((2, 3))),
            TypeError,
            "float64; expected integers in 0..255",
        ),
        (lambda: jd.bits_per_dim(key, denoiser, np.full((2, 3), 17), levels=17), ValueError, "values 17..17"),
        (lambda: jd.bits_per_dim(key, denoiser, np.full((2, 3), 1), levels=1), ValueError, "levels = 1"),
        (
            lambda: jd.bits_per_dim(key, denoiser, np.full((2, 3), 200), 0),
            ValueError,
            "dequantization_samples = 0",
        ),
        (lambda: jd.dequantize(key, np.full((2, 3), 300)), ValueError, "values 300..300; expected 0..255"),
    ):
        with pytest.raises(error, match=message):
            call()
