import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COVARIANCES, MEANS, WEIGHTS, draw_mixture, few
from scipy import integrate
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.processes.gaussian import log_cell

POINTS = np.random.default_rng(0).integers(0, 256, (8, 4), np.uint8)  # eight images of four values
POINTS[0, 0] = 255


@pytest.mark.parametrize("case", few({"VP": (jd.VP(), (16, 256)), "Flow": (jd.Flow(), (64,))}, "Flow"))
def test_it_falls_to_the_entropy_of_a_data_set(case):
    """The exact denoiser of n images needs log2(n)/D bits a value: with every level less above it, and then just it."""
    process, levels = case
    entropy, images, key = np.log2(8) / 4, np.tile(POINTS, (50, 1)), jax.random.key(1)
    denoiser = jd.exact.Empirical(process, 2 * (POINTS + 0.5) / 256 - 1)
    bounds = [jd.variational_bound(key, denoiser, images, T, t_min=1e-5, batch_size=400) for T in levels]
    excess = np.array([bound.bits_per_dim - entropy for bound in bounds])
    assert (excess > -4 * np.array([bound.standard_error for bound in bounds])).all()
    assert (np.diff(excess) < 0).all()
    assert excess[-1] < 20 / levels[-1]
    assert bounds[0].transitions.shape == (400, levels[0] - 1)
    if isinstance(process, jd.VP):
        limit = jd.continuous_bound(key, denoiser, images, t_min=1e-5, batch_size=400)
        assert abs(limit.bits_per_dim - entropy) < 4 * limit.standard_error
        assert limit.standard_error < 0.02


@pytest.mark.parametrize("levels", [2, 256])
def test_cells_are_scipys(levels):
    k = np.arange(levels)
    edges = np.concatenate([[-np.inf], 2 * np.arange(1, levels) / levels - 1, [np.inf]])
    for mean, std in ((0.1, 0.3), (-0.9, 0.02), (0.4, 1.0), (1.7, 0.1)):
        got = np.asarray(log_cell(jnp.asarray(k), mean, std, levels), np.float64)
        assert np.exp(got).sum() == pytest.approx(1.0, abs=1e-4)
        z = (edges - mean) / std
        low, high = np.where(z[:-1] > 0, -z[1:], z[:-1]), np.where(z[:-1] > 0, -z[:-1], z[1:])
        truth = norm.logcdf(high) + np.log1p(-np.exp(norm.logcdf(low) - norm.logcdf(high)))
        np.testing.assert_allclose(got, truth, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("process", few({"VP": jd.VP(), "VE": jd.VE(), "Flow": jd.Flow()}, "VE"))
def test_prior_and_reconstruction_are_what_they_say(process):
    """∫ q log q/p between q(x_1 | x_0) and the prior; the cells of N(x̂_0, sin² φ), where x̂_0 = 0, at the last level."""
    denoiser = jd.Denoiser(lambda params, x, c, cond: 0 * x, None, process, "data")
    images, times = np.arange(16)[:, None], np.array([1.0, 0.5, 0.1])
    bound = jd.variational_bound(jax.random.key(0), denoiser, images, levels=16, grid=times)

    alpha, sigma = (float(c) for c in process.marginal(1.0))
    for k in (0, 3, 15):
        q, p = norm(alpha * (2 * (k + 0.5) / 16 - 1), sigma), norm(0, float(process.prior_std))
        truth = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *q.interval(1 - 1e-12))[0]
        np.testing.assert_allclose(bound.prior[k], truth / np.log(2), rtol=1e-3, atol=2e-7)

    alpha, sigma = (float(c) for c in process.marginal(0.1))
    truth = log_cell(images[:, 0], 0.0, sigma / np.hypot(alpha, sigma), 16)
    np.testing.assert_allclose(bound.reconstruction * np.log(2), -truth, rtol=1e-5)


def gaussian_images(n, mean, std, levels):
    rng = np.random.default_rng(3)
    return np.asarray(jd.quantize(mean + std * rng.standard_normal((n, 1)), levels))


@pytest.mark.parametrize("case", few({"VP": (jd.VP(), 0.25), "EDM": (jd.EDM(), None)}, "VP"))
def test_the_continuous_bound_of_a_gaussian_is_its_entropy(case):
    """The integral is the mutual information log((1 + c S_0)/(1 + c S_1))/2 (Guo et al. 2005), and the whole the
    entropy of the integers, the mismatch of the prior, and what a last level of `end` cells (None: one) adds to it."""
    (process, end), n, levels, mean, variance = case, 20_000, 2**8, 0.1, 0.04
    images = gaussian_images(n, mean, np.sqrt(variance), levels)
    denoiser = jd.exact.Gaussian(process, [mean], [[variance]])
    log_snr = 2 * np.log(levels / 2 / (end or 1.0))
    t_min = end and process.time_at_log_snr(log_snr)
    bound = jd.continuous_bound(jax.random.key(1), denoiser, images, 32, levels, t_min, batch_size=n)
    information = bound.transitions.sum(1) * np.log(2)
    truth = np.log((1 + variance * np.exp(log_snr)) / (1 + variance * np.exp(float(process.log_snr(1.0))))) / 2
    assert abs(information.mean() - truth) < 4 * information.std() / np.sqrt(n)

    s = end or 1.0  # in cells; -log P(x_0 | x_1) for x_1 = x_0 + s u
    read = lambda u: norm.pdf(u) * -np.log(norm.cdf(0.5 / s - u) - norm.cdf(-0.5 / s - u))
    excess = integrate.quad(read, -8, 8)[0] - np.log(2 * np.pi * np.e * s**2) / 2
    cells = np.diff(norm.cdf(np.r_[-np.inf, 2 * np.arange(1, levels) / levels - 1, np.inf], mean, np.sqrt(variance)))
    (alpha, sigma), std = (float(c) for c in process.marginal(1.0)), float(process.prior_std)
    spread = (alpha**2 * variance + sigma**2) / std**2
    mismatch = (spread + (alpha * mean / std) ** 2 - 1 - np.log(spread)) / 2
    truth = -(cells * np.log2(np.maximum(cells, 1e-300))).sum() + (mismatch + excess) / np.log(2)
    assert abs(bound.bits_per_dim - truth) < 4 * bound.standard_error


@pytest.mark.slow
def test_more_levels_tend_to_the_continuous_bound():
    """The large variance, for few levels and for many: the closed form, which tends to the integral's."""
    process, n = jd.VP(), 400
    denoiser = jd.exact.Gaussian(process, [0.1], [[0.04]])
    images = gaussian_images(n, 0.1, 0.2, 256)

    def closed(times):
        """Σ (ρ + e^{-ρ} (1 + c S_s)/(1 + c S_t) - 1)/2."""
        log_snr, sigma = jax.jit(lambda times: (process.log_snr(times), process.marginal(times)[1]))(times)
        s = np.exp(np.asarray(log_snr, np.float64))
        rho = -2 * np.diff(np.log(np.asarray(sigma, np.float64)))
        return (rho + np.exp(-rho) * (1 + 0.04 * s[1:]) / (1 + 0.04 * s[:-1]) - 1).sum() / 2, s[[0, -1]]

    times = jd.grids.LogSNR()(process, 99, 1.0, 0.01)
    bound = jd.variational_bound(jax.random.key(2), denoiser, images, grid=times, variance="large", batch_size=n)
    sums = bound.transitions.sum(1) * np.log(2)
    assert abs(sums.mean() - closed(times)[0]) < 4 * sums.std() / np.sqrt(n)
    many, (first, last) = closed(jd.grids.LogSNR()(process, 20_000, 1.0, 0.01))
    assert many == pytest.approx(np.log((1 + 0.04 * last) / (1 + 0.04 * first)) / 2, abs=1e-2)


@pytest.mark.slow
def test_bound_and_flow_side_by_side():
    """The exact model of the same images: in continuous time the bound is the flow's value, in 32 levels above it."""
    n, levels, key = 200, 2**12, jax.random.key(3)
    denoiser = jd.exact.Mixture(jd.VP(), WEIGHTS, MEANS / 4, COVARIANCES / 16)
    images = np.asarray(jd.quantize(draw_mixture(6, n) / 4, levels))
    flow = jd.bits_per_dim(
        key, denoiser, images, levels=levels, batch_size=n, trace=jd.likelihood.Exact(), budget=0
    ).per_example
    limit = jd.continuous_bound(key, denoiser, images, 64, levels, batch_size=n).per_example - flow
    steps = jd.variational_bound(key, denoiser, images, 32, levels, batch_size=n).per_example - flow
    assert abs(limit.mean()) < 4 * limit.std() / np.sqrt(n)
    assert steps.mean() > 4 * steps.std() / np.sqrt(n)


class Counter:
    """A network that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, x, c_noise, cond):
        self.traces += 1
        return params * x * cond[:, None]


def test_an_example_depends_on_its_key_and_index_alone_and_new_numbers_compile_nothing():
    images, cond = np.random.default_rng(1).integers(0, 16, (7, 2)), np.linspace(0.5, 1.0, 7)
    for bound, numbers in (
        (jd.variational_bound, lambda k: {"grid": jd.grids.Karras(5.0 + k), "steps": 5}),
        (jd.continuous_bound, lambda k: {"t_min": 1e-3 * k, "draws": 5}),
    ):
        network = Counter()
        run = lambda k, batch=3, n=7: bound(
            jax.random.key(0),
            jd.Denoiser(network, jnp.float32(k), jd.VP(beta_min=k), "v", data_std=k),
            images[:n],
            levels=16,
            cond=cond[:n],
            batch_size=batch,
            **numbers(k),
        )
        first = run(0.3)
        traces = network.traces
        other = run(0.4)
        assert network.traces == traces > 0
        assert np.abs(first.per_example - other.per_example).max() > 1e-3
        np.testing.assert_allclose(run(0.3, 7).per_example, first.per_example, rtol=1e-4)
        np.testing.assert_allclose(run(0.3, 3, 4).per_example, first.per_example[:4], rtol=1e-4)
        assert first.transitions.shape == (7, 4 if bound is jd.variational_bound else 5)
        assert first.bits_per_dim == pytest.approx(first.per_example.mean())
        assert first.standard_error == pytest.approx(first.per_example.std(ddof=1) / np.sqrt(7))


def test_it_prints_its_terms():
    term = np.array([0.5, 1.0])
    bound = jd.VariationalBound("variational bound, 3 steps, small variance", term, np.ones((2, 2)), 2 * term)
    assert str(bound) == (
        "4.2500 +- 0.7500 bits/dim (variational bound, 3 steps, small variance; 2 examples; "
        "prior 0.7500 + transitions 2.0000 + reconstruction 1.5000)"
    )
    assert np.isnan(jd.VariationalBound("", term[:1], np.ones((1, 2)), term[:1]).standard_error)


def test_images_levels_and_times_without_a_bound_are_refused():
    key, images, vp = jax.random.key(0), np.zeros((2, 3), int), jd.exact.Gaussian(jd.VP(), np.zeros(3), np.eye(3))
    noise = jd.Denoiser(lambda params, x, c, cond: x, None, jd.Flow(), "noise")
    for bound in (jd.variational_bound, jd.continuous_bound):
        for images_, message in (
            (images[:0], "the data set is empty"),
            (images + 300, r"values 300..300; expected 0..255"),
            (images[:, 0], r"shape \(2,\); expected a batch axis"),
        ):
            with pytest.raises(ValueError, match=message):
                bound(key, vp, images_)
        with pytest.raises(TypeError, match="float64; expected integers in 0..255"):
            bound(key, vp, images / 2)
        with pytest.raises(ValueError, match="batch_size = 0"):
            bound(key, vp, images, batch_size=0)
        with pytest.raises(ValueError, match=r"cond has shape \(3,\).* 2 examples"):
            bound(key, vp, images, cond=np.zeros(3))
        with pytest.raises(ValueError, match=r"alpha\(1.0\) = 0 for Flow"):
            bound(key, noise, images)
        with pytest.raises(TypeError, match="not a typed key"):
            bound(jax.random.PRNGKey(0), vp, images)
    for call, message in (
        (lambda: jd.variational_bound(key, vp, images, 1), "steps = 1; expected at least two noise levels"),
        (lambda: jd.variational_bound(key, vp, images, grid=np.array([0.1, 0.9])), "decrease strictly"),
        (lambda: jd.variational_bound(key, vp, images, grid=np.array([1.0, 0.0])), "t_min = 0.0: no noise is left"),
        (lambda: jd.variational_bound(key, vp, images, grid=np.array([1.0, 0.1]), t_min=0.1), "leave t_min out"),
        (lambda: jd.variational_bound(key, vp, images, variance="medium"), "'medium'; expected \"small\""),
        (lambda: jd.variational_bound(key, vp, images, 3, variance="learned"), "predicts none"),
        (lambda: jd.continuous_bound(key, vp, images, 0), "draws = 0; expected at least one"),
        (lambda: jd.continuous_bound(key, vp, images, t_min=0.0), "t_min = 0.0: no noise is left"),
        (lambda: jd.continuous_bound(key, vp, images, t_min=-1.0), r"outside \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
