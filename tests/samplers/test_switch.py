"""One sampler above a time and another below it."""

import jax
import numpy as np
import pytest
from conftest import mixture

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, EulerMaruyama, Switch


@pytest.mark.parametrize("second", [DDIM(), DPMSolverPP(3)], ids=str)
def test_it_is_the_two_by_hand(second, x64):
    """Steps of the one down to t, then of the other from there, which begins without a history."""
    process, key, n = jd.VP(), jax.random.key(0), 4
    grid = jd.grids.Angle()(process, 10, 1.0, 0.05)
    start = jax.random.normal(key, (n, 2))
    denoiser, keys = mixture(process), jd.samplers.example_keys(key, n)
    path = jd.sample(
        key, denoiser, (n, 2), Switch(DDIM(eta=0.7), second, float(grid[4])), grid=grid, x_start=start, trajectory=True
    )
    first = jd.sample(keys, denoiser, (n, 2), DDIM(eta=0.7), grid=grid[:5], x_start=start)
    np.testing.assert_allclose(path[4], first, rtol=1e-9)
    rest = jd.sample(keys, denoiser, (n, 2), second, grid=grid[4:], x_start=first)  # these draw no noise
    np.testing.assert_allclose(path[-1], rest, rtol=1e-8)


def test_starts_are_those_of_the_sampler_in_charge():
    flow = mixture(jd.Flow())
    with pytest.raises(ValueError, match="singular at t = 1"):
        jd.sample(jax.random.key(0), flow, (2, 2), Switch(EulerMaruyama(), DDIM()), 4)
    jd.sample(jax.random.key(0), flow, (2, 2), Switch(Ancestral(), EulerMaruyama()), 4)
    with pytest.raises(ValueError, match="outside"):
        Switch(DDIM(), Ancestral(), 1.5)
