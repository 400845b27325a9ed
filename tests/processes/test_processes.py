import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from conftest import PROCESSES

import jaxdiff as jd

ENDS = [1e-5, 1e-4, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-4]


def table_b(t):
    """B of the linear table of 1,000 betas, exact between steps for a rate constant on each."""
    betas = np.linspace(1e-4, 0.02, 1000)
    k = int(mp.floor(t * 1000))
    whole = mp.fsum(-mp.log1p(-mp.mpf(float(b))) for b in betas[:k])
    return whole + (t * 1000 - k) * -mp.log1p(-mp.mpf(float(betas[min(k, 999)])))


def vp(b):
    return mp.exp(-b / 2), mp.sqrt(1 - mp.exp(-b))


def linear_b(t):
    return mp.mpf("0.1") * t + mp.mpf("19.9") * t**2 / 2


def cosine(t):
    s = mp.mpf("0.008")
    f = lambda t: mp.cos((t + s) / (1 + s) * mp.pi / 2) ** 2
    bar = f(t) / f(0)
    return mp.sqrt(bar), mp.sqrt(1 - bar)


# The papers' own formulas, to fifty digits.
CURVES = {
    "VP": lambda t: vp(linear_b(t)),
    "SubVP": lambda t: (mp.exp(-linear_b(t) / 2), 1 - mp.exp(-linear_b(t))),
    "OU": lambda t: vp(10 * t),
    "VE": lambda t: (mp.mpf(1), mp.mpf("0.01") * mp.mpf(5000) ** t),
    "BrownianVE": lambda t: (mp.mpf(1), mp.sqrt((mp.mpf(25) ** (2 * t) - 1) / (2 * mp.log(25)))),
    "EDM": lambda t: (
        mp.mpf(1),
        (mp.mpf("0.002") ** (mp.mpf(1) / 7) * (1 - t) + t * mp.mpf(80) ** (mp.mpf(1) / 7)) ** 7,
    ),
    "Cosine": cosine,
    "Flow": lambda t: (1 - t, t),
    "from_betas": lambda t: vp(table_b(t)),
}
# Outside the fixture, so that not every test of samplers and likelihoods runs them.
OTHERS = {"Flow with noise": jd.Flow(0.01), "Brownian": jd.Brownian(0.7)}
CURVES["Flow with noise"] = lambda t: (1 - t, 1 - (1 - mp.mpf("0.01")) * (1 - t))
CURVES["Brownian"] = lambda t: (mp.mpf(1), mp.mpf("0.7") * mp.sqrt(t))


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_exact_in_float32(name):
    process = {**PROCESSES, **OTHERS}[name]
    times = np.array(ENDS, np.float32)
    with mp.workdps(50):
        # The curves are functions of the float32 t; its own rounding near t = 1 is not an error.
        alpha, sigma = (np.array(c, float) for c in zip(*[CURVES[name](mp.mpf(float(t))) for t in times]))
        # A difference in λ is a relative error of the SNR.
        log_snr = np.array([2 * mp.log(a / s) for a, s in (CURVES[name](mp.mpf(float(t))) for t in times)], float)
    got_alpha, got_sigma = process.marginal(times)
    eps = np.finfo(np.float32).eps
    # exp(x) in float32 has relative error |x| eps; the largest exponent here is B/2 = 5 (VP) or 2 log 5000 (VE).
    np.testing.assert_allclose(got_alpha, alpha, rtol=20 * eps)
    np.testing.assert_allclose(got_sigma, sigma, rtol=20 * eps)
    np.testing.assert_allclose(process.log_snr(times), log_snr, rtol=4 * eps, atol=40 * eps)


def test_maps_between_t_angle_and_log_snr(process):
    t = jnp.array(ENDS, jnp.float32)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(process.time_at_log_snr(process.log_snr(t)), t, rtol=1e-5, atol=4 * eps)
    # An angle of float32 carries an absolute rounding of eps; in t that is eps / (dφ/dt).
    slope = jax.vmap(jax.grad(lambda t: process.angle(t)))(t)
    error = jnp.abs(process.time_at_angle(process.angle(t)) - t)
    assert (error <= 4 * eps * (1 + 1 / slope)).all()
    np.testing.assert_allclose(process.time_at_angle(jnp.array([0.0, jnp.pi / 2])), [0.0, 1.0], atol=0)


def test_angle_and_scale_are_the_rotation(process):
    t = jnp.array([0.0, 0.01, 0.5, 1.0])
    alpha, sigma = process.marginal(t)
    phi, q = process.angle(t), process.scale(t)
    np.testing.assert_allclose(q * jnp.cos(phi), alpha, atol=1e-5 * float(q.max()))
    np.testing.assert_allclose(q * jnp.sin(phi), sigma, rtol=1e-5)


def test_sde_is_the_derivative_of_the_curves(process, x64):
    t = jnp.array([1e-4, 0.0103, 0.3001, 0.7003, 0.9903, 1 - 1e-4])  # off the corners of the table
    alpha, sigma = process.marginal(t)
    d_alpha, d_sigma = process.velocity(t)
    f, g = jd.forward_sde(process, t)
    np.testing.assert_allclose(f, d_alpha / alpha, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(g**2, 2 * sigma * (d_sigma - f * sigma), rtol=1e-6)


def test_sde_reproduces_the_marginal(process, x64):
    """Variance and mean of the SDE solve dm/dt = f m, dV/dt = 2 f V + g² (Särkkä and Solin 2019, eq. 6.2)."""
    from scipy.integrate import solve_ivp

    start, end = 0.05, 0.95
    alpha, sigma = process.marginal(jnp.array([start, end]))

    @jax.jit
    def moments(t, y):
        f, g = jd.forward_sde(process, t)
        return jnp.array([f * y[0], 2 * f * y[1] + g**2])

    y = solve_ivp(moments, (start, end), [float(alpha[0]), float(sigma[0]) ** 2], rtol=1e-7, max_step=0.005).y[:, -1]
    # A table's rate jumps a thousand times, which the integrator sees to within one part in a thousand.
    np.testing.assert_allclose(y, [alpha[1], sigma[1] ** 2], rtol=2e-3 if process is PROCESSES["from_betas"] else 1e-5)


def test_transitions_compose(process, x64):
    s, t, u = 0.02, 0.4, 1.0
    a1, std1 = jd.transition(process, s, t)
    a2, std2 = jd.transition(process, t, u)
    a, std = jd.transition(process, s, u)
    np.testing.assert_allclose(a1 * a2, a, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose((a2 * std1) ** 2 + std2**2, std**2, rtol=1e-9)
    alpha, sigma = process.marginal(jnp.array([s, u]))
    np.testing.assert_allclose(a * alpha[0], alpha[1], atol=1e-12)
    np.testing.assert_allclose((a * sigma[0]) ** 2 + std**2, sigma[1] ** 2, rtol=1e-9)


def test_posterior_is_bayes_rule(process, x64):
    """Condition the joint Gaussian of (x_s, x_t) given x_0 by linear algebra."""
    for s, t in ((0.1, 0.5), (0.6, 1.0)):
        a, std = jd.transition(process, s, t)
        alpha_s, sigma_s = process.marginal(s)
        alpha_t, _ = process.marginal(t)
        gain = a * sigma_s**2 / (a**2 * sigma_s**2 + std**2)
        c_x, c_data, std_post = jd.posterior(process, s, t)
        np.testing.assert_allclose(c_x, gain, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(c_data, alpha_s - gain * alpha_t, rtol=1e-9)
        np.testing.assert_allclose(std_post**2, sigma_s**2 * (1 - gain * a), rtol=1e-9)


def test_from_betas_is_the_ddpm_table(x64):
    betas = np.linspace(1e-4, 0.02, 1000)
    process = jd.from_betas(betas)
    k = np.arange(1, 1001)
    alpha, sigma = process.marginal(k / 1000)
    bar = np.cumprod(1 - betas)
    np.testing.assert_allclose(alpha**2, bar, rtol=1e-12)
    np.testing.assert_allclose(sigma**2, 1 - bar, rtol=1e-11)
    a, std = jd.transition(process, (k - 1) / 1000, k / 1000)
    np.testing.assert_allclose(a, np.sqrt(1 - betas), rtol=1e-11)
    np.testing.assert_allclose(std**2, betas, rtol=1e-8)
    previous = np.concatenate([[1.0], bar[:-1]])
    _, c_data, std = jd.posterior(process, (k - 1) / 1000, k / 1000)
    np.testing.assert_allclose(std**2, betas * (1 - previous) / (1 - bar), rtol=1e-8, atol=1e-18)  # Ho et al., eq. 7
    np.testing.assert_allclose(c_data, np.sqrt(previous) * betas / (1 - bar), rtol=1e-8)


def test_priors():
    std = {name: float(process.prior_std) for name, process in PROCESSES.items()}
    assert std["VE"] == 50.0
    assert std["EDM"] == 80.0
    assert abs(std["BrownianVE"] - ((25**2 - 1) / (2 * np.log(25))) ** 0.5) < 1e-5
    assert all(std[name] == 1.0 for name in ("VP", "SubVP", "OU", "Cosine", "Flow", "from_betas"))
    assert jd.OU(3.0) == jd.VP(3.0, 3.0)
    assert jd.Brownian(0.7).prior_std == 0.7
    for end, sigma in ((0.0, np.float32(0.01)), (1.0, 1.0)):  # no rounding at the ends
        assert jd.Flow(0.01).marginal(np.float32(end)) == (1 - end, sigma)


def test_perturb_draws_the_marginal(process):
    n = 20_000
    x0 = jnp.tile(jnp.array([[1.0, -2.0]]), (n, 1))
    t = jnp.where(jnp.arange(n) < n // 2, 0.3, 0.8)
    x, (_, noise) = jd.perturb(jax.random.key(0), process, x0, t)
    for half, time in ((slice(0, n // 2), 0.3), (slice(n // 2, n), 0.8)):
        alpha, sigma = process.marginal(time)
        np.testing.assert_allclose(x[half], alpha * x0[half] + sigma * noise[half], rtol=1e-5, atol=1e-5)
        error = np.abs(np.mean(x[half], 0) - alpha * x0[0]) / (sigma / np.sqrt(n // 2))
        assert (error < 4).all()


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize(
    "check",
    [
        test_maps_between_t_angle_and_log_snr,
        test_angle_and_scale_are_the_rotation,
        test_perturb_draws_the_marginal,
    ],
)
def test_other_processes(check, other):
    check(other)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize(
    "check",
    [
        test_sde_is_the_derivative_of_the_curves,
        test_sde_reproduces_the_marginal,
        test_transitions_compose,
        test_posterior_is_bayes_rule,
    ],
)
def test_other_processes_in_float64(check, other, x64):
    check(other, x64)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_times_outside_are_refused(t, process):
    for call in (process.marginal, process.log_snr, lambda t: jd.forward_sde(process, t)):
        with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
            call(t)
    with pytest.raises(ValueError, match="divide the step"):
        jd.perturb(jax.random.key(0), process, jnp.zeros((3, 2)), jnp.array([0.1, 0.2, 500.0]))


def test_numbers_data_and_times_that_fit_no_process_are_refused():
    process, key = jd.VP(), jax.random.key(0)
    with pytest.raises(TypeError, match="uint8.*dequantize"):
        jd.perturb(key, process, np.zeros((3, 8, 8, 1), np.uint8), 0.5)
    with pytest.raises(ValueError, match=r"x0\[1\] holds a NaN"):
        jd.perturb(key, process, jnp.array([[0.0], [jnp.nan]]), 0.5)
    with pytest.raises(ValueError, match=r"t has shape \(3, 1\)"):
        jd.perturb(key, process, jnp.zeros((3, 2)), jnp.full((3, 1), 0.5))
    with pytest.raises(ValueError, match="batch axis"):
        jd.perturb(key, process, jnp.zeros(3), 0.5)
    for wrong in (
        lambda: jd.VP(beta_min=-1.0),
        lambda: jd.VE(sigma_min=3.0, sigma_max=1.0),
        lambda: jd.EDM(sigma_min=0.0),
        lambda: jd.BrownianVE(0.5),
        lambda: jd.Cosine(-1.0),
        lambda: jd.Flow(1.0),
        lambda: jd.Brownian(0.0),
        lambda: jd.from_betas([]),
        lambda: jd.from_betas([0.1, 1.0]),
    ):
        with pytest.raises(ValueError, match="expected|swap"):
            wrong()
