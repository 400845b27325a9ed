"""Order of convergence on the exact mixture, against the probability flow at tight tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, THREE_PROCESSES, few, mixture
from tables import SAMPLERS

import jaxdiff as jd
from jaxdiff.samplers import DDIM, DPMSolverPP, EulerMaruyama, Heun, ProbabilityFlow, UniPC

T_START, T_END, N = 1.0, 0.01, 32


def start_and_end(process, t_start=T_START):
    denoiser = mixture(process)
    std = process.prior_std * process.scale(t_start) / process.scale(1.0)
    start = std * jax.random.normal(jax.random.key(3), (N, 2))
    tight = ProbabilityFlow(rtol=1e-10, atol=1e-10)
    end = jd.sample(jax.random.key(0), denoiser, (N, 2), tight, x_start=start, t_start=t_start, t_end=T_END)
    return denoiser, start, end


@jax.jit
def error(denoiser, sampler, start, end, grid):
    x = jd.sample(jax.random.key(0), denoiser, start.shape, sampler, x_start=start, grid=grid)
    return jnp.sqrt(jnp.mean((x - end) ** 2))


def observed_order(denoiser, sampler, start, end, grid_of, steps):
    """Of two runs by one program: the coarse grid repeats its last time, and times that run together are no step."""
    coarse, fine = (jnp.asarray(grid_of(n)) for n in (steps, 2 * steps))
    grids = jnp.pad(coarse, (0, steps), mode="edge"), fine
    return np.log2(np.divide(*(error(denoiser, sampler, start, end, grid) for grid in grids)))


def graded(process, n, t_start):
    """n steps that begin short: ℓ = ℓ_0 + Δ u² with u in equal steps."""
    ends = jnp.maximum(process.log_snr(jnp.array([t_start, T_END])), -14.0)
    times = process.time_at_log_snr(ends[0] + (ends[1] - ends[0]) * (jnp.arange(n + 1) / n) ** 2)
    return times.at[0].set(t_start).at[-1].set(T_END)


HELD_BELOW = {"DPMSolverPP of order 1", "UniPC", "UniPC of order 3"}  # by tests of their own


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_samplers_have_the_orders_of_their_rows(process, x64):
    """Orders 1 and 2 from pure noise at t = 1 (α = 0 among them) on equal steps in log-SNR.

    And order 3: on steps that begin short, ℓ = ℓ_0 + Δ u² with u in equal steps, the first-order first step is of
    length O(h²) and leaves O(h⁴): the order is 3.
    """
    denoiser, start, end = start_and_end(process)
    even = lambda n: jd.grids.LogSNR()(process, n, T_START, T_END)

    short_first = lambda n: graded(process, n, T_START)

    for name, row in SAMPLERS.items():
        if row.order is not None and name not in HELD_BELOW:
            grid, steps = (even, 160) if row.order < 3 else (short_first, 320)
            assert abs(observed_order(denoiser, row.sampler, start, end, grid, steps) - row.order) < 0.1, name


@pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))
def test_orders_of_unipc(process, x64):
    """UniPC-p is of order p + 1 (Zhao et al. 2023, theorem 3.1). For p = 2 its first step, UniPC-1, leaves O(h³) once,
    which is no more than the rest; for p = 3 that step must be short, as with 3M. From t = 0.8, where the data is felt.
    """
    denoiser, start, end = start_and_end(process, 0.8)
    even = lambda n: jd.grids.LogSNR()(process, n, 0.8, T_END)

    short_first = lambda n: graded(process, n, 0.8)

    for order, grid, steps in ((1, even, 320), (2, even, 480), (3, short_first, 320)):
        observed = observed_order(denoiser, UniPC(order), start, end, grid, steps)
        assert abs(observed - order - 1) < 0.1, (order, observed)


@pytest.mark.parametrize("process", few({"VP": jd.VP(), "EDM": jd.EDM()}, "VP"))
def test_euler_maruyama_without_noise_is_eulers_method(process, x64):
    """On the probability flow in t, of order 1."""
    denoiser, start, end = start_and_end(process)
    even = lambda n: jnp.linspace(T_START, T_END, n + 1)
    assert abs(observed_order(denoiser, EulerMaruyama(noise=0.0), start, end, even, 640) - 1) < 0.1


@pytest.mark.parametrize(
    "process", few({"Flow": jd.Flow(), "Cosine": jd.Cosine(), "BrownianVE": jd.BrownianVE()}, "Flow")
)
def test_third_order_is_second_where_the_first_step_is_long(process, x64):
    """From t = 0.9, where the data is already felt, the first step's O(h²) is what remains of 3M's error."""
    denoiser, start, end = start_and_end(process, 0.9)
    even = lambda n: jd.grids.LogSNR()(process, n, 0.9, T_END)
    assert abs(observed_order(denoiser, DPMSolverPP(3), start, end, even, 1280) - 2) < 0.1


@pytest.mark.parametrize("process", few(PROCESSES, "VP", "EDM"))
def test_first_order_dpm_solver_is_ddim(process, x64):
    grid = jd.grids.Angle()(process, 7, 1.0, T_END)
    start = process.prior_std * jax.random.normal(jax.random.key(0), (4, 2))
    runs = [
        jd.sample(jax.random.key(0), mixture(process), (4, 2), sampler, x_start=start, grid=grid)
        for sampler in (DDIM(), DPMSolverPP(1))
    ]
    np.testing.assert_allclose(*runs, rtol=1e-8, atol=1e-10)


def test_heun_is_the_papers_algorithm(x64):
    """Karras et al. 2022, algorithm 2 without churn, in σ as printed, on their own sequence of noise levels."""
    process, n = jd.EDM(), 9
    denoiser = mixture(process)
    i, rho = np.arange(n), 7.0
    sigmas = np.append((80.0 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80.0 ** (1 / rho))) ** rho, 0.0)
    start = 80.0 * np.asarray(jax.random.normal(jax.random.key(1), (5, 2)))
    denoise = lambda x, sigma: np.asarray(denoiser(jnp.asarray(x), process.time_at_log_snr(-2 * np.log(sigma))).data)
    x = start
    for now, then in zip(sigmas[:-1], sigmas[1:]):
        d = (x - denoise(x, now)) / now
        ahead = x + (then - now) * d
        if then > 0:
            d = (d + (ahead - denoise(ahead, then)) / then) / 2
        x = x + (then - now) * d
    got = jd.sample(jax.random.key(0), denoiser, (5, 2), Heun(), steps=n, grid=jd.grids.Karras(), x_start=start)
    np.testing.assert_allclose(got, x, rtol=1e-7)
