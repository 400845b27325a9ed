import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import draw_mixture, mixture, within
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.denoisers import OnProcess

predict = jax.jit(lambda denoiser, x, t: denoiser(x, t))


@pytest.mark.parametrize(
    ("trained", "process"),
    [(jd.VP(), jd.VE()), (jd.VP(), jd.Flow()), (jd.Flow(), jd.VP()), (jd.EDM(), jd.Cosine())],
    ids=["VP to VE", "VP to Flow", "Flow to VP", "EDM to Cosine"],
)
def test_a_mixture_seen_through_another_process_is_the_mixture_on_it(trained, process, x64):
    noisiest, cleanest = (float(trained.log_snr(t)) for t in (1.0, 0.0))
    t = np.linspace(0.0, 1.0, 41)
    log_snr = np.asarray(process.log_snr(t))
    t = jnp.asarray(t[(noisiest < log_snr) & (log_snr < cleanest)])  # the levels both have
    assert len(t) >= 38
    alpha, sigma = (c[:, None] for c in process.marginal(t))
    x = alpha * draw_mixture(0, len(t)) + sigma * draw_mixture(1, len(t))
    got, expected = predict(OnProcess(mixture(trained), process), x, t), predict(mixture(process), x, t)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_beyond_the_trained_levels_the_nearest_one_answers(x64):
    trained, process = jd.EDM(), jd.Flow()  # σ/α from 0.002 to 80, and from 0 to infinity
    model, x = mixture(trained), jnp.asarray(draw_mixture(2, 4))
    on_flow = OnProcess(model, process)
    (low, high), last = (trained.scale(t) for t in (0.0, 1.0)), 1 - 1e-4
    np.testing.assert_allclose(on_flow(x, 0.0).noise, model(low * x, 0.0).noise, rtol=1e-10)
    np.testing.assert_array_equal(on_flow(x, 0.0).data, x)
    np.testing.assert_allclose(on_flow(x, 1.0).data, model(high * x, 1.0).data, rtol=1e-10)
    np.testing.assert_array_equal(on_flow(x, 1.0).noise, x)
    for t in (1e-4, last):
        alpha, sigma = process.marginal(t)
        data, noise = on_flow(x, t)
        np.testing.assert_allclose(alpha * data + sigma * noise, x, rtol=1e-13)
    np.testing.assert_allclose(on_flow(x, last).data, model(high * x / process.scale(last), 1.0).data, rtol=1e-10)


@pytest.mark.parametrize("process", [jd.VE(), jd.Flow(), jd.Cosine()], ids=["VE", "Flow", "Cosine"])
def test_in_float32_data_and_noise_recombine(process):
    x, t = jnp.asarray(draw_mixture(3, 41), jnp.float32), jnp.linspace(0, 1, 41)
    alpha, sigma = (c[:, None] for c in process.marginal(t))
    x = process.scale(t)[:, None] * x
    data, noise = predict(OnProcess(mixture(jd.SubVP()), process), x, t)
    np.testing.assert_allclose(alpha * data + sigma * noise, x, rtol=2e-6, atol=2e-6)


def of_equal_ends():
    """VP, a VE from σ/α = 0.01 to the last level of VP, and a network of VP with random weights."""
    vp = jd.VP()
    ve = jd.VE(0.01, float(jnp.exp(-vp.log_snr(1.0) / 2)))

    def mlp(params, x, c_noise, cond):
        first, level, second, last = params
        return jnp.tanh(jnp.tanh(x @ first + c_noise[:, None] * level) @ second) @ last

    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape) / 2 for shape in ((2, 16), (16,), (16, 16), (16, 2))]
    return vp, ve, jd.Denoiser(mlp, params, vp, "v")


def test_a_vp_network_sampled_through_the_ve_form(x64):
    """The same angles from the same z give the same z, and the same answer at the end."""
    vp, ve, model = of_equal_ends()
    angles = jnp.linspace(vp.angle(1.0), ve.angle(0.0), 20)
    z = jax.random.normal(jax.random.key(2), (5, 2))
    ends = []
    for denoiser in (model, OnProcess(model, ve)):
        process = denoiser.process
        times = process.time_at_angle(angles)
        start, ddim = process.scale(times[0]) * z, jd.samplers.DDIM()
        x = jd.sample(jax.random.key(0), denoiser, (5, 2), ddim, grid=times, x_start=start)
        ends.append((x / process.scale(times[-1]), predict(denoiser, x, times[-1]).data))
    for a, b in zip(*ends):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
        assert float(jnp.abs(a - z).max()) > 0.1


@pytest.mark.slow
def test_a_vp_network_scored_through_the_ve_form(x64):
    """x = q z, so log p(x) of the two forms differ by D log q of the ends and by their priors at the same z_1."""
    vp, ve, model = of_equal_ends()
    t_min = vp.time_at_log_snr(ve.log_snr(0.0))
    z = jnp.asarray(draw_mixture(4, 4))
    q_vp, q_ve = vp.scale(t_min), ve.scale(0.0)
    settings = dict(trace=jd.likelihood.Exact(), flow=within(1e-10))
    under_vp = jd.log_likelihood(jax.random.key(0), model, q_vp * z, t_min=float(t_min), **settings)
    under_ve = jd.log_likelihood(jax.random.key(0), OnProcess(model, ve), q_ve * z, t_min=0.0, **settings)
    assert under_vp.converged.all()
    assert under_ve.converged.all()
    x_1 = jd.encode(model, q_vp * z, t_min=float(t_min), flow=within(1e-10))
    q_1 = ve.scale(1.0) / vp.scale(1.0)
    priors = norm.logpdf(q_1 * x_1, scale=ve.prior_std).sum(1) + 2 * jnp.log(q_1) - norm.logpdf(x_1).sum(1)
    difference = priors - 2 * jnp.log(q_ve / q_vp)
    np.testing.assert_allclose(under_ve.log_prob - under_vp.log_prob, difference, atol=1e-7)
    assert float(jnp.abs(difference).max()) > 1e-5


def test_samplers_take_it_and_a_start_is_judged_by_the_trained_level():
    echo = lambda process: jd.Denoiser(lambda params, x, c, cond: 0.1 * x, None, process, "noise")
    cosine = OnProcess(echo(jd.Flow()), jd.Cosine())  # α = 0 for both
    with pytest.raises(ValueError, match=r"alpha\(1.0\) = 0 for Flow"):
        jd.sample(jax.random.key(0), cosine, (2, 2))
    jd.denoisers.check_start(cosine, 0.999)
    jd.denoisers.check_start(OnProcess(echo(jd.Flow()), jd.VP()), 1.0)
    on_flow = OnProcess(jd.guidance.ClassifierFree(echo(jd.VP()), 2.0), jd.Flow())  # VP's last level answers at α = 0
    assert jnp.isfinite(jd.sample(jax.random.key(0), on_flow, (2, 2), steps=4, cond=0)).all()
