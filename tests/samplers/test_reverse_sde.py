"""The reverse SDE by diffrax: its law on a Gaussian without sampling, its paths, and the methods it contains."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, few, mixture

import jaxdiff as jd
from jaxdiff.samplers import DDIM, ReverseSDE
from jaxdiff.samplers.reverse_sde import reverse_step

M, C = 0.5, 0.25
THREE = {"VP": jd.VP(), "VE": jd.VE(), "Flow": jd.Flow()}


class Given(diffrax.AbstractPath):
    """A Brownian path on [0, 1] of which the increment and the space-time area are known."""

    w: jax.Array
    h: jax.Array
    t0 = 0.0
    t1 = 1.0

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        return diffrax.SpaceTimeLevyArea(dt=t1 - t0, W=self.w, H=self.h) if use_levy else self.w


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_euler_without_noise_is_ddim(process, x64):
    """From t = 1 (α = 0 among them) to clean data."""
    start = process.prior_std * jax.random.normal(jax.random.key(0), (3, 2))
    for t_end in (None, 0.0):
        runs = [
            jd.sample(jax.random.key(0), mixture(process), (3, 2), sampler, 8, x_start=start, t_end=t_end)
            for sampler in (ReverseSDE(diffrax.Euler(), noise=0.0), DDIM())
        ]
        np.testing.assert_allclose(*runs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("process", few(PROCESSES, "VP", "from_betas"))
def test_euler_is_ancestral_sampling(process, x64):
    """A step is c_x x + c_data x̂_0 + std W, Ho et al.'s draw from the posterior."""
    x, w = jnp.array([0.7, -0.2]), jnp.array([0.3, -1.1])
    for t, s in ((0.9, 0.4), (0.3, 0.29)):
        c_x, c_data, std = jd.posterior(process, s, t)
        got = reverse_step(mixture(process), x, t, s, None, diffrax.Euler(), 1.0, Given(w, w))
        np.testing.assert_allclose(got, c_x * x + c_data * mixture(process)(x[None], t).data[0] + std * w, rtol=1e-9)


def law_errors(process, solver, noise, steps):
    """Relative errors of E[x_s | x_t] as a slope in x_t, and of the variance of x_s, for data N(M, C).

    Every step is affine in x, W and H ~ N(0, 1/12), so both follow from its coefficients. Deviations from α M keep
    their ratio to √S, S = α² C + σ², along the flow (η = 0), and to S/α under the reverse SDE (η = 1): the two parts
    of its drift, for every η, give (α_t/α_s)^{η²} (S_s/S_t)^{(1 + η²)/2}.
    """
    denoiser = jd.exact.Gaussian(process, np.array([M]), np.array([[C]]))
    times = jd.grids.LogSNR()(process, steps, 0.8, 0.05)
    starts = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])

    def coefficients(t, s):
        run = lambda c: reverse_step(denoiser, c[:1], t, s, None, solver, noise, Given(c[1:2], c[2:]))[0]
        out = jax.vmap(run)(starts)
        return out[1:] - out[0]

    alpha, sigma = process.marginal(times)
    spread = alpha**2 * C + sigma**2
    variance, slope = spread[0], 1.0
    for a, w, h in np.asarray(jax.jit(jax.vmap(coefficients))(times[:-1], times[1:])):
        variance, slope = a**2 * variance + w**2 + h**2 / 12, a * slope
    truth = (alpha[0] / alpha[-1]) ** (noise**2) * (spread[-1] / spread[0]) ** ((1 + noise**2) / 2)
    return np.array([slope / truth - 1, variance / spread[-1] - 1])


@pytest.mark.parametrize(
    ("solver", "order"), [(diffrax.Euler(), 1), (diffrax.SRA1(), 2), (diffrax.ShARK(), 2)], ids=str
)
@pytest.mark.parametrize("process", few(THREE, "VP"))
def test_order_of_mean_and_variance(process, solver, order, x64):
    """Weak orders, between the flow and the reverse SDE too; the mean of the reverse SDE is exact, as E[x_s | x_t] is
    that of the posterior with E[x_0 | x_t] in it."""
    for noise in (1.0, 0.5):
        coarse, fine = (law_errors(process, solver, noise, n) for n in (100, 200))
        exact = [noise == 1.0, False]
        np.testing.assert_allclose(fine[exact], 0, atol=1e-11)
        np.testing.assert_allclose(np.log2(np.abs(coarse / fine))[np.invert(exact)], order, atol=0.1)


@pytest.mark.slow
def test_strong_orders_on_the_same_paths(x64):
    """Euler and SEA 1; SRA1 and ShARK 1.5 at least (2 as far as the field is linear). In u the path is Brownian."""
    process, fine, paths = jd.VP(), 512, 200
    denoiser = jd.exact.Mixture(process, [0.3, 0.7], np.array([[1.0], [-0.5]]), np.array([[[0.3]], [[0.2]]]))
    times = process.time_at_log_snr(jnp.linspace(-1.0, 1.5, fine + 1))
    u, rng = np.exp(process.log_snr(times)), np.random.default_rng(0)
    du = np.diff(u)[:, None]
    increments = np.sqrt(du) * rng.standard_normal((fine, paths))
    integrals = du * (increments / 2 + np.sqrt(du / 12) * rng.standard_normal((fine, paths)))  # of W - W(start)
    alpha, sigma = process.marginal(times[0])
    start = 0.3 * alpha + sigma * rng.standard_normal((paths, 1))

    def end(solver, steps):
        parts = increments.reshape(steps, -1, paths)
        before = np.cumsum(parts, 1) - parts
        integral = (integrals.reshape(parts.shape) + du.reshape(steps, -1, 1) * before).sum(1)
        t, length, w = times[:: fine // steps], np.diff(u[:: fine // steps])[:, None], parts.sum(1)
        unit_w, unit_h = w / np.sqrt(length), (integral / length - w / 2) / np.sqrt(length)

        def step(x, now):
            t, s, w, h = now
            one = lambda x, w, h: reverse_step(denoiser, x, t, s, None, solver, 1.0, Given(w[None], h[None]))
            return jax.vmap(one)(x, w, h), None

        return jax.jit(lambda x: jax.lax.scan(step, x, (t[:-1], t[1:], unit_w, unit_h))[0])(start)

    truth = end(diffrax.SRA1(), fine)
    error = lambda solver, steps: np.sqrt(np.mean((end(solver, steps) - truth) ** 2))
    order = lambda solver: np.log2(error(solver, 16) / error(solver, 64)) / 2
    assert abs(order(diffrax.Euler()) - 1) < 0.1
    assert abs(order(diffrax.SEA()) - 1) < 0.1
    assert 1.4 < order(diffrax.SRA1()) < 2.1
    assert 1.4 < order(diffrax.ShARK()) < 2.1


@pytest.mark.slow
def test_inputs_are_as_noisy_as_they_are_said_to_be(x64):
    """Data that is a point, x_t ~ N(α M, σ²): SRA1 asks for predictions at inputs of just the variance of their own t,
    over any step; ShARK does not over a long one."""
    process = jd.VP()

    def excess(solver):
        """Of the variance of a stage's input over σ², from the law of the true x at t, the largest of the stages."""
        seen = []

        class Recording:
            process = jd.VP()

            def __call__(self, x, t, cond=None):
                jax.debug.callback(lambda *values: seen.append([float(v) for v in values]), t, x[0, 0])
                return jd.Prediction(jnp.full_like(x, M), x)

        def inputs_of(c):
            seen.clear()
            reverse_step(Recording(), c[:1], 0.9, 0.2, None, solver, 1.0, Given(c[1:2], c[2:])).block_until_ready()
            jax.effects_barrier()
            return sorted(seen, reverse=True)

        inputs = np.array([inputs_of(c) for c in jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])])
        a, w, h = inputs[1:, :, 1] - inputs[0, :, 1]
        start, here = process.marginal(0.9)[1] ** 2, process.marginal(inputs[0, :, 0])[1] ** 2
        return np.abs((a**2 * start + w**2 + h**2 / 12) / here - 1).max()

    assert excess(diffrax.SRA1()) < 1e-9
    assert excess(diffrax.ShARK()) > 1


def test_solvers_that_do_not_fit_are_refused():
    for solver in (
        diffrax.Tsit5(),
        diffrax.Kvaerno3(),
        diffrax.HalfSolver(diffrax.Euler()),
        diffrax.SemiImplicitEuler(),
        diffrax.Euler,
    ):
        with pytest.raises(TypeError, match=r"diffrax's solvers of SDEs with a fixed step, such as SRA1\(\)"):
            ReverseSDE(solver)
    with pytest.raises(ValueError, match="noise = -1.0; expected 0"):
        ReverseSDE(noise=-1.0)
