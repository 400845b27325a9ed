"""Ten steps beside diffusers' schedulers, step by step, on the exact score of N(0.5, 0.25); `make peers` installs it.

Its schedulers keep their noise levels in float32. DPMSolverPP(3) has no peer here: the published code of the third
order counts the curvature half, which makes it second order.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

BETAS = np.linspace(1e-4, 0.02, 1000)
START = np.array([[0.0], [1.0], [-1.3]])


def by_peer(scheduler):
    """x after each step, [steps, 3], and the times of a table of 1,000 steps that it visits."""
    import torch

    bar = np.cumprod(1 - BETAS)
    scheduler.set_timesteps(10)
    x, path = torch.tensor(START), []
    for k in scheduler.timesteps:
        alpha, variance = np.sqrt(bar[k]), 1 - bar[k]
        data = 0.5 + alpha * 0.25 / (alpha**2 * 0.25 + variance) * (x - alpha * 0.5)
        x = scheduler.step((x - alpha * data) / np.sqrt(variance), k, x).prev_sample
        path.append(x[:, 0].numpy())
    return np.array(path), (scheduler.timesteps.numpy() + 1) / 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "sampler", "steps"),
    [
        ("UniPCMultistepScheduler", {"solver_order": 2}, jd.samplers.UniPC(2), 10),
        ("UniPCMultistepScheduler", {"solver_order": 3}, jd.samplers.UniPC(3), 8),  # then it lowers its order
        ("DPMSolverMultistepScheduler", {"solver_order": 2}, jd.samplers.DPMSolverPP(2), 10),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}, jd.samplers.DDIM(), 10),
        ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, jd.samplers.DDIM(), 10),
    ],
)
def test_steps_are_those_of_diffusers(name, settings, sampler, steps, x64):
    diffusers = pytest.importorskip("diffusers")
    path, times = by_peer(getattr(diffusers, name)(trained_betas=BETAS, **settings))
    process = jd.from_betas(BETAS)
    denoiser = jd.exact.Gaussian(process, np.array([0.5]), np.array([[0.25]]))
    ours = jd.sample(
        jax.random.key(0),
        denoiser,
        START.shape,
        sampler,
        grid=np.append(times, 0.0),
        x_start=jnp.asarray(START),
        trajectory=True,
    )
    np.testing.assert_allclose(ours[1 : steps + 1, :, 0], path[:steps], atol=2e-6)
