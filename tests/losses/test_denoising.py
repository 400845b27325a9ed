import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import OF_THREE_PROCESSES, PROCESSES, few
from scipy import integrate, stats
from tables import TIMES

import jaxdiff as jd
from jaxdiff.losses import Denoising, times, weightings
from jaxdiff.losses.inputs import draw_times


def wrong_by(error, process, name, std=0.5):
    """A denoiser whose output is off by `error` wherever x_0 = 0, for a loss at exactly that x_0."""

    return jd.Denoiser(_constant, error, process, name, std)


def _constant(params, x, c_noise, cond):
    return params


@pytest.mark.parametrize("process", OF_THREE_PROCESSES)
@pytest.mark.parametrize("name", ["data", "noise", "score", "v", "velocity", "edm"])
def test_simple_is_the_error_of_the_output(name, process, x64):
    """With x_0 = 0 the target is b ε: the loss is the mean of |out - b ε|² over the draws it made itself."""
    t, n = 0.4003, 8
    out = jnp.linspace(-1.0, 1.0, 3 * n).reshape(n, 3)
    loss = Denoising(weightings.Simple(), times.Fixed(t))
    key = jax.random.key(0)
    got = loss(wrong_by(out, process, name), key, jnp.zeros((n, 3)))
    _, (_, noise) = jd.perturb(jax.random.split(key)[1], process, jnp.zeros((n, 3)), t)
    _, b = jd.processes.row(name, process, t)
    np.testing.assert_allclose(got, jnp.mean((out - b * noise) ** 2, 1), rtol=1e-9)


@pytest.mark.parametrize("process", OF_THREE_PROCESSES)
def test_weightings_are_the_papers(process, x64):
    """Each weight on the errors of x_0 or ε that the papers state, read off a denoiser with a known error of x_0."""
    t, n, e = 0.4003, 4, 0.3
    alpha, sigma = (float(c) for c in process.marginal(t))
    snr = (alpha / sigma) ** 2
    slope = float(jax.grad(lambda t: process.log_snr(t))(t))
    expected = {  # times the error of x_0, squared
        weightings.MinSNR(): min(snr, 5.0),
        weightings.MinSNR(0.01): min(snr, 0.01),
        weightings.Likelihood(): -0.5 * slope * snr,  # VDM, eq. 17: -1/2 SNR'(t)
        weightings.Sigmoid(-1.0): -0.5 * slope * snr / (1 + snr * np.exp(1.0)),
    }
    if type(process).__name__ in ("VE", "BrownianVE", "EDM"):
        expected[weightings.EDM()] = (sigma**2 + 0.36) / (sigma * 0.6) ** 2
    off = wrong_by(jnp.full((n, 2), e), process, "data", 0.6)
    for weighting, weight in expected.items():
        got = Denoising(weighting, times.Fixed(t))(off, jax.random.key(1), jnp.zeros((n, 2)))
        np.testing.assert_allclose(got, weight * e**2, rtol=1e-6, err_msg=str(weighting))


def test_weights_are_finite_at_both_ends(process):
    off = wrong_by(jnp.ones((2, 2)), process, "v")
    for t in (0.0, 1.0):
        for weighting in (weightings.Simple(), weightings.MinSNR(), weightings.EDM()):
            assert jnp.isfinite(weighting(off, jnp.full(2, t))).all()


@pytest.mark.parametrize("name", TIMES)
def test_times_follow_their_density(name, process):
    n, law_of_t = 2000, TIMES[name]
    t, factor = law_of_t(jax.random.key(0), process, n)
    assert t.shape == factor.shape == (n,)
    assert ((t >= 0) & (t <= 1)).all()
    log_ratio = -np.asarray(process.log_snr(t)) / 2
    if name == "Fixed":
        np.testing.assert_array_equal(t, np.float32(law_of_t.t))
        return
    if name in ("Uniform", "Stratified"):
        sample, law = t, stats.uniform(law_of_t.t_min, 1 - law_of_t.t_min)
    elif name == "LogitNormal":
        sample, law = jax.scipy.special.logit(t), stats.norm(law_of_t.mean, law_of_t.std)
    elif name == "LogNormal":  # held at the ends of the process: compare inside
        low, high = (-float(process.log_snr(e)) / 2 for e in (0.0, 1.0))
        inside = (log_ratio > low + 1e-3) & (log_ratio < high - 1e-3)
        law = stats.norm(law_of_t.mean, law_of_t.std)
        sample = (law.cdf(log_ratio[inside]) - law.cdf(low)) / (law.cdf(high) - law.cdf(low))
        law = stats.uniform()
    else:  # uniform in log sin φ between its ends
        u = np.log(np.sin(np.asarray(process.angle(t), np.float64)))
        ends = np.log(np.sin(np.array([process.angle(law_of_t.t_min), process.angle(1.0)], np.float64)))
        sample, law = (u - ends[0]) / (ends[1] - ends[0]), stats.uniform()
    assert stats.kstest(np.asarray(sample), law.cdf).pvalue > 1e-3


def test_times_stay_below_one():
    """(n - 1 + u)/n rounds to 1 in float32 for a large n; the shift that does it is found by trying."""
    largest = jax.jit(lambda seed: times.Stratified()(jax.random.key(seed), jd.Flow(), 2**16)[0].max())
    assert all(largest(seed) < 1 for seed in range(200))


def test_stratified_times_are_one_in_each_part():
    t, _ = times.Stratified(0.0)(jax.random.key(1), jd.VP(), 50)
    np.testing.assert_array_equal(np.floor(np.asarray(t) * 50), np.arange(50))


@pytest.mark.parametrize("process", few(PROCESSES, "VP", "from_betas"))
def test_importance_leaves_the_likelihood_integral_unchanged(process, x64):
    """∫ h cot φ dφ = E[h cot φ dφ/dt factor] for a smooth h, to the error of a stratified sum of 4,000 terms."""
    t, factor = times.Importance(0.01)(jax.random.key(2), process, 4000)
    angle, slope = jax.vmap(jax.value_and_grad(lambda t: process.angle(t)))(t)
    ends = np.asarray(process.angle(jnp.array([0.01, 1.0])))
    h = lambda phi: np.cos(phi) / np.tan(phi)
    truth, _ = integrate.quad(h, *ends)
    np.testing.assert_allclose(np.mean(h(np.asarray(angle)) * slope * factor), truth, rtol=2e-3)


@pytest.mark.parametrize("process", few(PROCESSES, "VP", "EDM"))
def test_likelihood_weighting_integrates_to_the_mutual_information(process, x64):
    """For x_0 ~ N(0, s²) the best loss, -∫ SNR' mmse / 2, is log((1 + s² SNR_0)/(1 + s² SNR_1))/2 (Guo et al. 2005)."""
    s, n, t_min = 0.8, 40_000, 0.01
    denoiser = jd.exact.Gaussian(process, np.zeros(1), np.array([[s**2]]))
    x0 = s * jax.random.normal(jax.random.key(0), (n, 1))
    snr = np.exp(np.asarray(process.log_snr(jnp.array([t_min, 1.0]))))
    truth = 0.5 * np.log((1 + s**2 * snr[0]) / (1 + s**2 * snr[1]))
    for draw in (times.Importance(t_min), times.Stratified(t_min)):
        factor = 1.0 if isinstance(draw, times.Importance) else 1 - t_min
        losses = factor * Denoising(weightings.Likelihood(), draw)(denoiser, jax.random.key(1), x0)
        error = np.std(losses) / np.sqrt(n)
        assert abs(np.mean(losses) - truth) < 4 * error, (draw, float(np.mean(losses)), truth, error)


def test_the_exact_denoiser_is_the_minimum():
    """Any scaling of the optimum's error raises the loss, and by the right amount's sign on either side."""
    data = jax.random.normal(jax.random.key(3), (400_000, 2)) * 0.7  # 4,000 leave the difference within its error
    loss = Denoising()
    best = jd.exact.Gaussian(jd.VP(), np.zeros(2), 0.49 * np.eye(2))

    def scaled(params, x, c_noise, cond):
        t = jd.VP().time_at_log_snr(-8 * c_noise)
        alpha, sigma = jd.VP().marginal(t)
        raw = x * jnp.hypot(alpha * 0.5, sigma)[:, None]
        predicted = best(raw, t)
        phi = jd.VP().angle(t)[:, None]
        return params * (jnp.cos(phi) * predicted.noise - jnp.sin(phi) * predicted.data)

    mean = jax.jit(lambda k: loss(jd.Denoiser(scaled, k, jd.VP(), "v"), jax.random.key(4), data).mean())
    values = [float(mean(k)) for k in (0.9, 1.0, 1.1)]
    assert values[1] < values[0]
    assert values[1] < values[2]


def test_new_numbers_compile_nothing():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(loss, denoiser, key, x0):
        return loss(denoiser, key, x0)

    for gamma, mean in ((5.0, -1.2), (3.0, 0.0)):
        loss = Denoising(weightings.MinSNR(gamma), times.LogNormal(mean))
        run(
            loss,
            wrong_by(jnp.full((2, 2), gamma), jd.VP(gamma, 20.0), "v"),
            jax.random.key(0),
            jnp.zeros((2, 2)),
        )


def test_integer_data_and_a_nan_are_refused():
    denoiser = wrong_by(jnp.zeros((2, 2)), jd.VP(), "v")
    with pytest.raises(TypeError, match="uint8"):
        Denoising()(denoiser, jax.random.key(0), np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"x0\[1\] holds a NaN"):
        Denoising()(denoiser, jax.random.key(0), np.array([[0.0], [np.nan]]))


@pytest.mark.parametrize("law", [times.Stratified(0.0), times.Importance(0.1)], ids=["Stratified", "Importance"])
def test_every_place_in_a_batch_has_times_of_the_whole_law(law):
    """Or classes that stand in a fixed order would each be trained on times of their own."""
    draw = lambda of, seed: jax.jit(jax.vmap(of))(jax.random.split(jax.random.key(seed), 1000))
    drawn = draw(lambda key: draw_times(law, key, jd.VP(), 4)[0], 0)
    whole = draw(lambda key: law(key, jd.VP(), 4)[0], 1).ravel()
    for place in range(4):
        assert stats.ks_2samp(np.asarray(drawn[:, place]), np.asarray(whole)).pvalue > 1e-3
