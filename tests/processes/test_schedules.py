"""Schedules of categories, against their formulas in fifty digits."""

import dataclasses

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from tables import SCHEDULES

import jaxdiff as jd

TIMES = np.array([1e-5, 1e-4, 1e-3, 0.1, 0.499, 0.501, 0.9, 0.999, 1 - 1e-4], np.float32)
EPS = np.finfo(np.float32).eps


def hoogeboom(t, s="0.02"):
    u = lambda t: mp.cos((t + mp.mpf(s)) / (1 + mp.mpf(s)) * mp.pi / 2)
    return u(t) / u(mp.mpf(0))


CURVES = {  # α as it is printed, to fifty digits
    "Linear": lambda t: 1 - t,
    "Cosine": lambda t: 1 - mp.cos(mp.pi / 2 * (1 - t)),
    "CosineHoogeboom": hoogeboom,
    "Polynomial": lambda t: 1 - t ** mp.mpf("2.5"),
    "Geometric": lambda t: mp.exp(-mp.exp((1 - t) * mp.log(mp.mpf("1e-3")) + t * mp.log(12))),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_schedule_is_exact_in_float32_at_both_ends(name):
    process = jd.Multinomial(3, SCHEDULES[name])
    with mp.workdps(50):
        times = [mp.mpf(float(t)) for t in TIMES]
        alpha = [CURVES[name](t) for t in times]
        odds = [mp.log(a / (1 - a)) for a in alpha]
        slope = [-mp.diff(CURVES[name], t) for t in times]
        alpha, sigma, odds, slope = (np.array(v, float) for v in (alpha, [1 - a for a in alpha], odds, slope))
        rate = slope / sigma
    # exp(x) in float32 has the relative error |x| eps, and |x| <= 12; a power of t = 1e-5 loses 2.5 log t of them
    near = dict(rtol=40 * EPS)
    np.testing.assert_allclose(process.alpha(TIMES), alpha, **near)
    np.testing.assert_allclose(process.sigma(TIMES), sigma, **near)
    np.testing.assert_allclose(process.log_snr(TIMES), 2 * odds, rtol=4 * EPS, atol=80 * EPS)
    np.testing.assert_allclose(process.rate(TIMES), rate, rtol=2e-5)
    np.testing.assert_allclose(process.time_at_log_snr(process.log_snr(TIMES)), TIMES, rtol=2e-5, atol=4 * EPS)
    ends = process.alpha(np.array([0.0, 1.0], np.float32))
    if name != "Geometric":
        np.testing.assert_array_equal(ends, [1, 0], err_msg="to the bit")


@pytest.mark.parametrize("name", CURVES)
def test_derivatives_of_a_schedule_are_finite_at_both_ends(name):
    schedule, t = SCHEDULES[name], jnp.array([0.0, 0.3, 1.0])
    values = lambda schedule, t: jnp.stack([*jd.Multinomial(3, schedule).marginal(t)])
    slopes = jax.jacrev(values, argnums=(0, 1))(schedule, t)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    if jax.tree.leaves(schedule):
        assert all(np.abs(leaf[:, 1]).min() > 0 for leaf in jax.tree.leaves(slopes[0])), "numbers are leaves"


def test_a_polynomial_of_power_1_is_linear_and_hoogebooms_curve_is_that_of_numbers():
    t = np.linspace(0, 1, 33, dtype=np.float32)
    np.testing.assert_allclose(jd.schedules.Polynomial(1.0).alpha(t), 1 - t, atol=EPS)
    np.testing.assert_allclose(jd.schedules.CosineHoogeboom().alpha(t), jd.Cosine().alpha(t), atol=2 * EPS)


@pytest.mark.parametrize("name", ["Linear", "Cosine", "Polynomial"])
def test_equal_steps_in_what_is_kept_are_one_sampler_under_every_schedule(name):
    process = jd.Absorbing(3, SCHEDULES[name])
    assert process.sampling_grid == jd.grids.Kept()
    np.testing.assert_allclose(process.alpha(jd.grids.Kept()(process, 8)), np.arange(8) / 8, atol=1e-6)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Late(jd.schedules.Schedule):
    """One of a user's own, by its alpha alone."""

    def alpha(self, t):
        return 1 - t**2


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Rising(jd.schedules.Schedule):
    def alpha(self, t):
        return t


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Own(jd.Absorbing):
    def alpha(self, t):
        return 1 - t


def test_a_schedule_of_ones_own_is_its_alpha():
    process, t = jd.Absorbing(3, Late()), np.array([0.01, 0.3, 0.8], np.float32)
    np.testing.assert_allclose(process.rate(t), 2 / t, rtol=1e-3)  # of 1 - t² float32 keeps four digits at t = 0.01
    np.testing.assert_allclose(process.time_at_log_snr(process.log_snr(t)), t, rtol=1e-3)
    process.check_curves()


REFUSED = {
    "noise left out": (lambda: jd.Absorbing(3, SCHEDULES["Geometric"]).check_curves(), r"Geometric: alpha\(0\) = 0.99"),
    "rising": (lambda: jd.Multinomial(3, Rising()).check_curves(), "log_snr gives .* falls"),
    "two curves": (lambda: Own(3, SCHEDULES["Cosine"]), "schedule = .*Own writes alpha"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_a_schedule_that_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
