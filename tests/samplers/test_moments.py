"""Samples against what is known of their distribution."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, THREE_PROCESSES, draw_mixture, few, mixture, mixture_moments
from scipy.integrate import quad

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, EulerMaruyama, Heun, PredictorCorrector, ReverseSDE

STOCHASTIC = {
    "Ancestral": Ancestral(),
    "Ancestral, large": Ancestral("large"),
    "DDIM": DDIM(eta=0.5),
    "EulerMaruyama": EulerMaruyama(),
    "Heun": Heun(churn=40.0),
    "DPMSolverPP": DPMSolverPP(sde=True),
    "PredictorCorrector": PredictorCorrector(),
    "ReverseSDE": ReverseSDE(),
}


def check_moments(x, mean, covariance):
    """Mean and covariance within 4 standard errors, those of the samples' own spread."""
    x = np.asarray(x, np.float64)
    products = np.einsum("ni,nj->nij", x - mean, x - mean).reshape(len(x), -1)
    for values, truth in ((x, mean), (products, covariance.ravel())):
        standard_error = values.std(0) / np.sqrt(len(x))
        assert (np.abs(values.mean(0) - truth) < 4 * standard_error).all(), (
            values.mean(0),
            truth,
            standard_error,
        )


@pytest.mark.parametrize("sampler", few(STOCHASTIC, "DPMSolverPP"))
@pytest.mark.parametrize("process", few(PROCESSES, "EDM"))
def test_stochastic_samplers_draw_the_mixture(sampler, process):
    """Started from the true x at t_start, so that only the sampler can be wrong."""
    n, t_start = 4000, 0.97 if isinstance(sampler, EulerMaruyama) else 1.0
    alpha, sigma = process.marginal(t_start)
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    x_start = (alpha * draw_mixture(0, n) + sigma * noise).astype(jnp.float32)
    grid = jd.grids.LogSNR() if isinstance(sampler, EulerMaruyama) else None
    x = jd.sample(
        jax.random.key(2), mixture(process), (n, 2), sampler, 200, grid=grid, t_start=t_start, x_start=x_start
    )
    check_moments(x, *mixture_moments())


def gaussian(process):
    return jd.exact.Gaussian(process, np.array([0.5]), np.array([[0.25]]))


def affine_moments(process, sampler, steps, grid=None):
    """Mean and variance of the result: a deterministic sampler of a Gaussian is affine in its start, N(0, std²)."""
    start = jnp.array([[0.0], [1.0]])
    x = jd.sample(jax.random.key(0), gaussian(process), (2, 1), sampler, steps, grid=grid, x_start=start)
    return float(x[0, 0]), float(((x[1] - x[0])[0] * process.prior_std) ** 2)


def test_edm_heun_of_a_gaussian(x64):
    """Data N(0.5, 0.25), 18 steps from N(0, 80²): the linear recursion of algorithm 2, computed by hand elsewhere."""
    got = affine_moments(jd.EDM(), Heun(), 18, jd.grids.Karras())
    np.testing.assert_allclose(got, (0.496702346018743, 0.278387757570487), rtol=1e-9)


def test_ddim_of_a_gaussian(x64):
    """Data N(0.5, 0.25), the linear table of 1,000 betas at its steps 0, 20, ..., 980 counted from 0, as published."""
    process = jd.from_betas(np.linspace(1e-4, 0.02, 1000))
    grid = np.append(np.arange(981, 0, -20) / 1000, 0.0)
    got = affine_moments(process, DDIM(), 50, grid)
    np.testing.assert_allclose(got, (0.498184986416912, 0.223198715518999), rtol=1e-9)


@pytest.mark.slow
def test_ddpm_of_a_gaussian():
    """The same data by all 1,000 ancestral steps with the small variance."""
    process, n = jd.from_betas(np.linspace(1e-4, 0.02, 1000)), 20_000
    x = jd.sample(jax.random.key(0), gaussian(process), (n, 1), Ancestral(), 1000, grid=jd.grids.Time())
    check_moments(x, np.array([0.499994955059922]), np.array([[0.246125211360283]]))


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_euler_maruyama_of_a_gaussian(eta, x64):
    """Mean and variance after each of 20 steps of the VP reverse SDE, or of one between it and the flow, by its own
    affine recursion."""
    process, n, steps = jd.VP(), 40_000, 20
    times = np.linspace(1.0, 0.1, steps + 1)
    mean, variance = 0.0, 1.0
    for t, s in zip(times[:-1], times[1:]):
        h, beta = t - s, 0.1 + 19.9 * t
        bar = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
        spread = 0.25 * bar + 1 - bar  # of x_t for the data N(0.5, 0.25): the score is (0.5 √bar - x) / spread
        pull = (1 + eta**2) / 2 * h * beta / spread
        slope = 1 + h * beta / 2 - pull
        mean = slope * mean + pull * 0.5 * np.sqrt(bar)
        variance = slope**2 * variance + eta**2 * h * beta
    x = jd.sample(jax.random.key(0), gaussian(process), (n, 1), EulerMaruyama(noise=eta), grid=times)
    check_moments(x, np.array([mean]), np.array([[variance]]))


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_ddim_with_full_noise_is_ancestral(process, x64):
    """Two ways to write q(x_s | x_t, x_0): with the predicted noise, and with x_t."""
    for grid in (None, jd.grids.Time()(process, 5, 1.0, 0.0)):
        runs = [
            jd.sample(jax.random.key(5), mixture(process), (6, 2), sampler, 12, grid=grid)
            for sampler in (DDIM(eta=1.0), Ancestral())
        ]
        np.testing.assert_allclose(*runs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_first_order_sde_solver_is_ancestral(process, x64):
    runs = [
        jd.sample(jax.random.key(6), mixture(process), (6, 2), sampler, 12, grid=jd.grids.Angle())
        for sampler in (DPMSolverPP(order=1, sde=True), Ancestral())
    ]
    np.testing.assert_allclose(*runs, rtol=1e-7, atol=1e-9)


def steps_of(process, times):
    """For every step (t, s) of a run to clean data: α, σ at both ends, as Python floats."""
    ends = [tuple(map(float, process.marginal(t))) for t in times]
    return list(zip(ends[:-1], ends[1:]))


def answer(alpha, sigma):
    """E[x_0 | x_t] of N(0.5, 0.25) as (constant, slope): by Bayes' rule."""
    slope = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
    return 0.5 - slope * alpha * 0.5, slope


def run_recursion(process, times, step):
    """Mean and variance after all steps x -> a x + b + std z, and the denoiser's answer; `step` gives (a, b, std)."""
    mean, variance = 0.0, float(process.prior_std) ** 2
    for (alpha, sigma), (alpha_s, sigma_s) in steps_of(process, times):
        a, b, std = step(alpha, sigma, alpha_s, sigma_s)
        mean, variance = a * mean + b, a**2 * variance + std**2
    constant, slope = answer(*map(float, process.marginal(times[-1])))
    return constant + slope * mean, slope**2 * variance


def ddim(eta):
    def step(alpha, sigma, alpha_s, sigma_s):
        ratio = 1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2
        std = eta * sigma_s * np.sqrt(ratio)
        constant, slope = answer(alpha, sigma)
        kept = np.sqrt(sigma_s**2 - std**2) / sigma  # of ε = (x - α x_0)/σ
        return kept + (alpha_s - kept * alpha) * slope, (alpha_s - kept * alpha) * constant, std

    return step


def ancestral_large(alpha, sigma, alpha_s, sigma_s):
    ratio = 1 - (alpha * sigma_s / (alpha_s * sigma)) ** 2
    c_x, c_data = alpha / alpha_s * (sigma_s / sigma) ** 2, alpha_s * ratio
    constant, slope = answer(alpha, sigma)
    return c_x + c_data * slope, c_data * constant, sigma * np.sqrt(ratio)


def dpm_sde(alpha, sigma, alpha_s, sigma_s):
    """First-order SDE-DPM-Solver++ (Lu et al. 2022, eq. 18): ℓ = log α/σ."""
    h = np.log(alpha_s / sigma_s) - np.log(alpha / sigma)
    constant, slope = answer(alpha, sigma)
    lost = 1 - np.exp(-2 * h)
    return sigma_s / sigma * np.exp(-h) + alpha_s * lost * slope, alpha_s * lost * constant, sigma_s * np.sqrt(lost)


@pytest.mark.parametrize("process", few({"VP": jd.VP(), "SubVP": jd.SubVP(), "EDM": jd.EDM()}, "VP"))
def test_every_stochastic_step_has_its_moments(process):
    """Ten steps, far from converged, so that only the method's own recursion fits."""
    n = 20_000
    times = np.asarray(jd.grids.LogSNR()(process, 10), np.float64)
    start = float(process.prior_std) * jax.random.normal(jax.random.key(0), (n, 1))
    for sampler, step in (
        (Ancestral(), ddim(1.0)),
        (Ancestral("large"), ancestral_large),
        (DDIM(eta=0.6), ddim(0.6)),
        (ReverseSDE(diffrax.Euler()), ddim(1.0)),
        (DPMSolverPP(1, sde=True), dpm_sde),
    ):
        mean, variance = run_recursion(process, times, step)
        x = jd.sample(jax.random.key(1), gaussian(process), (n, 1), sampler, 10, grid=jd.grids.LogSNR(), x_start=start)
        check_moments(x, np.array([mean]), np.array([[variance]]))


@pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))
def test_every_deterministic_step_has_its_moments(process, x64):
    """DDIM and Heun by their recursion; DPM-Solver++ 2M by its own of two steps' answers, in x_0 and x."""
    times = np.asarray(jd.grids.LogSNR()(process, 10, 0.9), np.float64)
    start = jnp.array([[0.0], [1.0]])
    run = lambda sampler: np.asarray(
        jd.sample(
            jax.random.key(0),
            gaussian(process),
            (2, 1),
            sampler,
            10,
            grid=jd.grids.LogSNR(),
            t_start=0.9,
            x_start=start,
        )
    )[:, 0]

    def end(advance):
        ends = []
        for x in (0.0, 1.0):
            history = []
            for i, ((alpha, sigma), (alpha_s, sigma_s)) in enumerate(steps_of(process, times)):
                x = advance(i, x, alpha, sigma, alpha_s, sigma_s, history)
            constant, slope = answer(*map(float, process.marginal(times[-1])))
            ends.append(constant + slope * x)
        return ends

    def data_of(x, alpha, sigma):
        constant, slope = answer(alpha, sigma)
        return constant + slope * x

    def by_ddim(i, x, alpha, sigma, alpha_s, sigma_s, history):
        data = data_of(x, alpha, sigma)
        return alpha_s * data + sigma_s * (x - alpha * data) / sigma

    def by_heun(i, x, alpha, sigma, alpha_s, sigma_s, history):
        ahead = by_ddim(i, x, alpha, sigma, alpha_s, sigma_s, history)
        now, then = data_of(x, alpha, sigma), data_of(ahead, alpha_s, sigma_s)
        noises = (x - alpha * now) / sigma, (ahead - alpha_s * then) / sigma_s
        return x + (alpha_s - alpha) * (now + then) / 2 + (sigma_s - sigma) * sum(noises) / 2

    def by_2m(i, x, alpha, sigma, alpha_s, sigma_s, history):
        ell, ell_s, data = np.log(alpha / sigma), np.log(alpha_s / sigma_s), data_of(x, alpha, sigma)
        h, mean = ell_s - ell, data
        if history:
            before, ell_before = history[-1]
            mean = data + h / (2 * (ell - ell_before)) * (data - before)
        history.append((data, ell))
        return sigma_s / sigma * x - alpha_s * np.expm1(-h) * mean

    for sampler, advance in ((DDIM(), by_ddim), (Heun(), by_heun), (DPMSolverPP(), by_2m)):
        np.testing.assert_allclose(run(sampler), end(advance), rtol=1e-8)


def test_churn_and_correctors_have_their_moments():
    """Ten steps from t = 0.8 of EDM, by the affine recursions of Karras et al. 2022, algorithm 2, with S_churn = 4, of
    Song et al. 2021, algorithm 2, with two corrector steps of ε = 2 r² σ², and of Song and Ermon 2019, algorithm 1."""
    process, n, steps, r = jd.EDM(), 20_000, 10, 0.3
    times = np.asarray(jd.grids.LogSNR()(process, steps, 0.8), np.float64)
    sigmas = [float(process.marginal(t)[1]) for t in times]
    pull = lambda sigma: (0.5 * sigma**2 / (0.25 + sigma**2), 0.25 / (0.25 + sigma**2))  # E[x_0 | x] = b + a x

    def heun(mean, variance, sigma, sigma_s):
        raised = sigma * (1 + 4 / steps)
        variance += raised**2 - sigma**2
        ends = []
        for x in (0.0, 1.0):
            slopes = []
            for at, level in ((x, raised), (None, sigma_s)):
                at = x + (sigma_s - raised) * slopes[0] if at is None else at
                b, a = pull(level)
                slopes.append((at - b - a * at) / level)
            ends.append(x + (sigma_s - raised) * sum(slopes) / 2)
        slope = ends[1] - ends[0]
        return ends[0] + slope * mean, slope**2 * variance

    def langevin(mean, variance, sigma, epsilon):
        """x + ε ∇ log p + √(2 ε) z."""
        shrink = epsilon / (0.25 + sigma**2)
        return mean + shrink * (0.5 - mean), (1 - shrink) ** 2 * variance + 2 * epsilon

    def corrected(mean, variance, sigma, sigma_s):
        b, a = pull(sigma)
        kept = (sigma_s / sigma) ** 2  # q(x_s | x, x_0) of a variance-exploding process
        slope = kept + (1 - kept) * a
        mean, variance = slope * mean + (1 - kept) * b, slope**2 * variance + kept * (sigma**2 - sigma_s**2)
        for _ in range(2):
            mean, variance = langevin(mean, variance, sigma_s, 2 * r**2 * sigma_s**2)
        return mean, variance

    def annealed(mean, variance, sigma, sigma_s):
        for _ in range(3):
            mean, variance = langevin(mean, variance, sigma_s, 0.2 * sigma_s**2 / 2)
        return mean, variance

    for sampler, advance in (
        (Heun(churn=4.0), heun),
        (PredictorCorrector(Ancestral(), 2, r), corrected),
        (jd.samplers.AnnealedLangevin(3, 0.2), annealed),
    ):
        mean, variance = 0.3, sigmas[0] ** 2
        start = mean + sigmas[0] * jax.random.normal(jax.random.key(0), (n, 1))
        for sigma, sigma_s in zip(sigmas[:-1], sigmas[1:]):
            mean, variance = advance(mean, variance, sigma, sigma_s)
        b, a = pull(sigmas[-1])
        x = jd.sample(
            jax.random.key(1),
            gaussian(process),
            (n, 1),
            sampler,
            steps,
            grid=jd.grids.LogSNR(),
            t_start=0.8,
            x_start=start,
        )
        check_moments(x, np.array([b + a * mean]), np.array([[a**2 * variance]]))


def test_third_order_integrates_the_polynomial_through_its_predictions(x64):
    """Ten steps of VP; the integral of Lu et al. 2022, eq. 8, by quadrature of the polynomial that NumPy fits."""
    process = jd.VP()
    times = np.asarray(jd.grids.LogSNR()(process, 10, 0.9), np.float64)
    ends = []
    for x in (0.0, 1.0):
        history = []
        for (alpha, sigma), (alpha_s, sigma_s) in steps_of(process, times):
            constant, slope = answer(alpha, sigma)
            ell, ell_s = np.log(alpha / sigma), np.log(alpha_s / sigma_s)
            history = [*history, (ell, constant + slope * x)][-3:]
            nodes, values = np.transpose(history)
            through = np.polynomial.Polynomial(np.polyfit(nodes - ell, values, len(nodes) - 1)[::-1])
            integral = quad(lambda u: np.exp(u - (ell_s - ell)) * through(u), 0, ell_s - ell, epsabs=1e-13)[0]
            x = sigma_s / sigma * x + alpha_s * integral
        constant, slope = answer(*map(float, process.marginal(times[-1])))
        ends.append(constant + slope * x)
    start = jnp.array([[0.0], [1.0]])
    x = jd.sample(
        jax.random.key(0), gaussian(process), (2, 1), DPMSolverPP(3), grid=np.append(times, 0.0), x_start=start
    )
    np.testing.assert_allclose(x[:, 0], ends, rtol=1e-8)


@pytest.mark.parametrize("process", [jd.VP(), jd.EDM()], ids=["VP", "EDM"])
def test_second_order_sde_step_has_its_moments(process):
    """The joint law of x and the prediction before, which SDE-DPM-Solver++(2M) carries on linearly."""
    n = 20_000
    times = np.asarray(jd.grids.LogSNR()(process, 10), np.float64)
    mean, covariance, before = np.zeros(2), np.diag([float(process.prior_std) ** 2, 0.0]), None
    for (alpha, sigma), (alpha_s, sigma_s) in steps_of(process, times):
        ell, h = np.log(alpha / sigma), np.log(alpha_s / sigma_s) - np.log(alpha / sigma)
        constant, slope = answer(alpha, sigma)
        more = 0.0 if before is None else h / (ell - before) / 2
        lost = 1 - np.exp(-2 * h)
        pull = alpha_s * lost
        step = np.array([[sigma_s / sigma * np.exp(-h) + pull * (1 + more) * slope, -pull * more], [slope, 0.0]])
        mean = step @ mean + np.array([pull * (1 + more), 1.0]) * constant
        covariance = step @ covariance @ step.T + np.diag([sigma_s**2 * lost, 0.0])
        before = ell
    constant, slope = answer(*map(float, process.marginal(times[-1])))
    start = float(process.prior_std) * jax.random.normal(jax.random.key(0), (n, 1))
    sampler = DPMSolverPP(sde=True)
    x = jd.sample(jax.random.key(1), gaussian(process), (n, 1), sampler, 10, grid=jd.grids.LogSNR(), x_start=start)
    check_moments(x, np.array([constant + slope * mean[0]]), np.array([[slope**2 * covariance[0, 0]]]))
