"""The forward SDE by Euler-Maruyama, and the way back with as many paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mixture
from test_moments import check_moments

import jaxdiff as jd
from jaxdiff.samplers import EulerMaruyama, forward_paths


def recursion(process, mean, variance, steps):
    """Mean and variance of a coordinate after every step x + h f x + g √h z."""
    times = np.arange(steps) / steps
    f, g = (np.asarray(c, np.float64) for c in jd.forward_sde(process, times))
    means, variances = [mean], [variance]
    for drift, diffusion in zip(f, g):
        means.append((1 + drift / steps) * means[-1])
        variances.append((1 + drift / steps) ** 2 * variances[-1] + diffusion**2 / steps)
    return np.array(means), np.array(variances)


@pytest.mark.parametrize("process", [jd.VP(), jd.SubVP(), jd.BrownianVE(3.0)], ids=["VP", "SubVP", "BrownianVE"])
def test_every_step_has_its_mean_and_variance(process):
    n, steps = 20_000, 12
    x0 = 0.5 + 0.3 * jax.random.normal(jax.random.key(0), (n, 1))
    paths = forward_paths(jax.random.key(1), process, x0, steps)
    assert paths.shape == (steps + 1, n, 1)
    np.testing.assert_array_equal(paths[0], x0)
    for x, mean, variance in zip(paths, *recursion(process, 0.5, 0.09, steps)):
        check_moments(x, np.array([mean]), np.array([[variance]]))


@pytest.mark.parametrize("process", [jd.VP(), jd.SubVP(), jd.EDM()], ids=["VP", "SubVP", "EDM"])
def test_it_tends_to_the_marginal_at_first_order(process, x64):
    """The recursion, which the test above holds the paths to, against α m and α² v + σ² at t = 1."""
    alpha, sigma = (float(c) for c in process.marginal(1.0))
    (_, sigma0) = (float(c) for c in process.marginal(0.0))
    truth = np.array([alpha * 0.5, alpha**2 * 0.09 + sigma**2])
    ends = [np.array([c[-1] for c in recursion(process, 0.5, 0.09 + sigma0**2, n)]) for n in (4000, 8000)]
    coarse, fine = (np.abs(end / truth - 1) for end in ends)
    wrong = coarse > 1e-9  # α = 1 keeps the mean
    np.testing.assert_allclose(np.log2(coarse[wrong] / fine[wrong]), 1, atol=0.1)


def test_paths_depend_on_their_key_and_index_alone():
    x0 = jnp.ones((5, 2))
    many = forward_paths(jax.random.key(0), jd.VP(), x0, 4)
    np.testing.assert_allclose(forward_paths(jax.random.key(0), jd.VP(), x0[:2], 4), many[:, :2], rtol=1e-6)
    assert float(jnp.abs(many[-1, 0] - many[-1, 1]).max()) > 1e-3


def test_the_way_back_has_as_many_paths_on_a_regular_grid():
    n, steps = 7, 20
    start = jax.random.normal(jax.random.key(0), (n, 2))
    back = jd.sample(
        jax.random.key(1), mixture(jd.VP()), (n, 2), EulerMaruyama(), steps, grid=jd.grids.Time(), t_end=0.05,
        x_start=start, trajectory=True,
    )  # fmt: skip
    assert back.shape == (steps + 1, n, 2)
    assert jnp.isfinite(back).all()


def test_times_that_do_not_rise_no_steps_and_a_nan_are_refused():
    key, x0 = jax.random.key(0), jnp.zeros((2, 2))
    for call, message in (
        (lambda: forward_paths(key, jd.VP(), x0, 0), "steps = 0"),
        (lambda: forward_paths(key, jd.VP(), x0, 5, 0.6, 0.3), "t_start = 0.6.*swap"),
        (lambda: forward_paths(key, jd.VP(), x0, 5, 0.0, 1.5), "t_end = 1.5"),
        (lambda: forward_paths(key, jd.VP(), x0.at[1, 1].set(jnp.inf), 5), r"x0\[1\]"),
        (lambda: EulerMaruyama(noise=-1.0), "noise = -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="typed key"):
        forward_paths(jax.random.PRNGKey(0), jd.VP(), x0, 5)
