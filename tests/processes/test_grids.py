import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, few, few_names
from tables import GRIDS

import jaxdiff as jd


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("steps", few_names([1, 2, 17], 1, 17))
@pytest.mark.parametrize("process", few(PROCESSES, "VP", "VE", "Flow", "from_betas"))
def test_times_decrease_from_the_start(grid, steps, process):
    times = np.asarray(grid(process, steps))
    assert times.shape == (steps,)
    assert times[0] == 1.0
    assert (np.diff(times) < 0).all()
    ended = np.asarray(grid(process, steps, 0.9, 0.2))
    assert ended.shape == (steps + 1,)
    np.testing.assert_array_equal(ended[[0, -1]], np.array([0.9, 0.2], np.float32))
    assert (np.diff(ended) < 0).all()


def test_steps_are_equal_in_their_coordinate(process, x64):
    coordinates = {
        jd.grids.Time(): lambda t: t,
        jd.grids.Angle(): lambda t: np.arctan(np.divide(*process.marginal(t)[::-1])),
        jd.grids.LogSNR(): lambda t: np.log(np.divide(*process.marginal(t))),
        jd.grids.Karras(3.0): lambda t: np.divide(*process.marginal(t)[::-1]) ** (1 / 3),
    }
    for grid, coordinate in coordinates.items():
        steps = np.diff(coordinate(grid(process, 9, 0.95, 0.05)))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_edm_sequence_is_the_papers(x64):
    i, n, rho = np.arange(18), 18, 7.0
    sigma = (80.0 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80.0 ** (1 / rho))) ** rho  # Karras et al., eq. 5
    for grid in (jd.grids.Karras(), jd.grids.Time()):
        np.testing.assert_allclose(jd.EDM().marginal(grid(jd.EDM(), 18))[1], sigma, rtol=1e-9)
    ve = jd.VE(sigma_min=0.002, sigma_max=80.0)
    np.testing.assert_allclose(ve.marginal(jd.grids.Karras()(ve, 18))[1], sigma, rtol=1e-9)


def test_time_visits_every_step_of_a_ddpm_table(x64):
    process = jd.from_betas(np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(jd.grids.Time()(process, 1000) * 1000, np.arange(1000, 0, -1), rtol=1e-12)


def test_infinite_coordinates_stop_short():
    assert jd.grids.LogSNR()(jd.VP(), 10)[-1] == pytest.approx(1e-3, rel=1e-4)
    times = jd.grids.LogSNR()(jd.Flow(), 10)
    assert jnp.isfinite(times).all()
