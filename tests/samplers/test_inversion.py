"""From data to noise by a sampler's own step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import THREE_PROCESSES, draw_mixture, few, mixture, within
from tables import SAMPLERS

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Heun, invert

PROCESSES = pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))
T_MIN = 0.01


@functools.partial(jax.jit, static_argnames="sampler")
def there_and_back(denoiser, x, sampler, grid):
    z = invert(denoiser, x, sampler, grid=grid)
    return z, jd.sample(jax.random.key(0), denoiser, x.shape, sampler, grid=grid, x_start=z)


@PROCESSES
def test_ddim_and_heun_have_their_orders_up_and_there_and_back(process, x64):
    """To the flow's own noise DDIM is of order 1 and Heun of 2; there and back again 1 and 3 (the module says why)."""
    denoiser, x = mixture(process), jnp.asarray(draw_mixture(0, 16))
    truth = jd.encode(denoiser, x, t_min=T_MIN, flow=within(1e-11))
    rms = lambda a, b: float(jnp.sqrt(jnp.mean((a - b) ** 2)))
    for sampler, order, returning in ((DDIM(), 1, 1), (Heun(), 2, 3)):
        grids = [jd.grids.Angle()(process, steps, 1.0, T_MIN) for steps in (320, 640)]
        grids[0] = jnp.pad(grids[0], (0, 320), mode="edge")  # a step of no length leaves x: one program for both
        ends = [there_and_back(denoiser, x, sampler, grid) for grid in grids]
        up, back = (np.log2(rms(a, b) / rms(c, b)) for a, c, b in zip(*ends, (truth, x)))
        assert abs(up - order) < 0.1, (sampler, up)
        assert abs(back - returning) < 0.1, (sampler, back)


@PROCESSES
def test_a_gaussians_noise_is_known(process, x64):
    """x_1 = α m + √(S_1/S_0) (x - α_0 m), S = α² s² + σ²: to the second order's error of 2,000 steps."""
    m, s = 0.5, 0.3
    (a0, s0), (a1, s1) = process.marginal(T_MIN), process.marginal(1.0)
    growth = jnp.sqrt((a1**2 * s**2 + s1**2) / (a0**2 * s**2 + s0**2))
    x = jnp.array([[-0.2], [0.5], [1.4]])
    z = invert(jd.exact.Gaussian(process, np.array([m]), np.array([[s**2]])), x, Heun(), 2000, t_min=T_MIN)
    np.testing.assert_allclose(z, a1 * m + growth * (x - a0 * m), rtol=1e-5)


def test_a_grid_is_walked_from_its_end():
    process, x = jd.VP(), jnp.asarray(draw_mixture(1, 3), jnp.float32)
    grid = jd.grids.Angle()(process, 6, 1.0, T_MIN)
    by_array = invert(mixture(process), x, grid=grid)
    np.testing.assert_allclose(by_array, invert(mixture(process), x, steps=6, t_min=T_MIN), rtol=1e-5)


def test_samplers_that_do_not_run_upwards_and_other_misfits_are_refused():
    denoiser, x = mixture(jd.VP()), jnp.zeros((2, 2))
    for sampler in (row.sampler for row in SAMPLERS.values() if not row.reversible):
        with pytest.raises(ValueError, match=r"does not run from data to noise.*use DDIM\(\) or Heun\(\)"):
            invert(denoiser, x, sampler)
    for call, message in (
        (lambda: invert(denoiser, x, steps=0), "steps = 0"),
        (lambda: invert(denoiser, x, t_min=0.5, t_max=0.2), "decrease"),
        (lambda: invert(denoiser, x.at[0, 0].set(jnp.nan)), r"x0\[0\] holds a NaN"),
        (lambda: invert(denoiser, x, cond=np.zeros(3)), r"cond has shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="expected an instance"):
        invert(denoiser, x, DDIM)


def test_ends_given_beside_an_array_of_times_are_its_own_or_refused():
    denoiser, x0 = jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2)), np.ones((3, 2), np.float32)
    times = np.array([0.9, 0.5, 0.1])
    plain = jd.invert(denoiser, x0, grid=times)
    np.testing.assert_array_equal(jd.invert(denoiser, x0, grid=times, t_max=0.9, t_min=0.1), plain)
    np.testing.assert_array_equal(jd.invert(denoiser, x0, steps=2, grid=times), plain)
    for name, t, where in (("t_max", 0.8, "begins at 0.9"), ("t_min", 0.2, "ends at 0.1")):
        with pytest.raises(ValueError, match=f"{name} = {t}, but the array as grid {where}; leave {name} out"):
            jd.invert(denoiser, x0, grid=times, **{name: t})
        found = jax.jit(lambda t, name=name: jd.invert(denoiser, x0, grid=times, **{name: t}))
        assert np.isnan(found(t)).all()
