"""UniPC against its paper, written out in numpy, and against the methods it contains."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mixture

import jaxdiff as jd
from jaxdiff.samplers import DDIM, DPMSolverPP, UniPC


def unipc(process, predict, x, times, order):
    """Zhao et al. 2023, algorithms 1 to 4 with B_2(h), data prediction as in their appendix, line by line.

    `predict(x, t)` is x_0. The history starts with one prediction, so that step i is of order min(i, order).
    """
    alpha, sigma = (np.asarray(c, float) for c in process.marginal(times))
    lam = np.log(alpha / sigma)
    buffer = [predict(x, times[0])]
    for i in range(1, len(times)):
        p, h = min(i, order), lam[i] - lam[i - 1]
        r = [(lam[i - m] - lam[i - 1]) / h for m in range(2, p + 1)]
        d = [(buffer[-m] - buffer[-1]) / rm for m, rm in zip(range(2, p + 1), r)]
        b_h = math.expm1(-h)  # B_2 for data prediction, with the sign of -h

        def solve(nodes):
            """R_p(h) a B(h) = φ_p(h): row k is r^{k-1}, against k! φ_{k+1}(-h) (-h) / B; 1/2 for a single node."""
            if len(nodes) == 1:
                return np.array([0.5])
            phi, right, z = math.expm1(-h) / -h, [], -h  # φ_1(z), then φ_{k+1} = (φ_k - 1/k!)/z
            for k in range(1, len(nodes) + 1):
                phi = (phi - 1 / math.factorial(k)) / z
                right.append(math.factorial(k) * phi * z / b_h)
            return np.linalg.solve(np.vander(nodes, increasing=True).T, right)

        linear = sigma[i] / sigma[i - 1] * x - alpha[i] * b_h * buffer[-1]
        move = lambda weights, differences: (
            linear - alpha[i] * b_h * sum((w * diff for w, diff in zip(weights, differences)), 0 * linear)
        )
        predicted = move(solve(r) if r else [], d)
        if i == len(times) - 1:
            return predicted
        new = predict(predicted, times[i])
        x = move(solve([*r, 1.0]), [*d, new - buffer[-1]])
        buffer.append(new)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_the_papers_algorithm(order, x64):
    for process in (jd.VP(), jd.EDM()):
        denoiser = mixture(process)
        times = np.asarray(jd.grids.Angle()(process, 6, 0.95, 0.05))
        start = process.scale(0.95) * np.asarray(jax.random.normal(jax.random.key(0), (4, 2)))
        want = unipc(process, lambda x, t: np.asarray(denoiser(jnp.asarray(x), t).data), start, times, order)
        got = jd.sample(jax.random.key(0), denoiser, (4, 2), UniPC(order), grid=times, x_start=start)
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_its_predictors_are_ddim_and_dpm_solver(x64):
    """One step is DDIM; the second, from the corrected point, is that of DPM-Solver++ 2M."""
    denoiser, key = mixture(jd.Flow()), jax.random.key(0)
    times = jnp.array([0.9, 0.7, 0.55])
    start = jax.random.normal(key, (3, 2))
    path = jd.sample(key, denoiser, (3, 2), UniPC(2), grid=times, x_start=start, trajectory=True)
    ddim = jd.sample(key, denoiser, (3, 2), DDIM(), grid=times[:2], x_start=start)
    np.testing.assert_allclose(path[1], ddim, rtol=1e-10)

    sampler = DPMSolverPP(2)  # its second step from the point that UniPC-1 corrects to: half of each prediction
    lost = 1 - jnp.exp(-(denoiser.process.log_snr(0.7) - denoiser.process.log_snr(0.9)) / 2)
    first, second = denoiser(start, 0.9).data, denoiser(ddim, 0.7).data
    corrected = ddim + denoiser.process.marginal(0.7)[0] * lost / 2 * (second - first)

    class Seen:  # the prediction made at the uncorrected point
        process = denoiser.process

        def __call__(self, x, t, cond=None):
            return jd.Prediction(second, second)

    history = (first[None], jnp.array([denoiser.process.log_snr(0.9) / 2]))
    want, _ = sampler.step(None, Seen(), corrected, times[1], times[2], history, None)
    np.testing.assert_allclose(path[2], want, rtol=1e-10)


def test_an_order_above_three_is_refused():
    with pytest.raises(ValueError, match="order = 4; expected 1, 2 or 3"):
        UniPC(4)
