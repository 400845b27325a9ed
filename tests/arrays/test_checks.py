import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.arrays import (
    along_batch,
    check_array,
    check_batch,
    check_event,
    check_number,
    check_room,
    check_scalar,
    check_shape,
    check_shared,
    check_time,
    check_tolerances,
    check_whole,
    said,
)

NUMBERS = [0.5, 1, np.float32(0.5), np.int64(1), np.ones(()), np.full(3, 0.5), jnp.ones(2), jnp.bfloat16(0.5)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
def test_numbers_of_every_kind_are_accepted_as_they_are(number):
    assert check_number("scale", number, above=0, most=1) is number


def test_a_message_holds_the_value_the_range_and_the_fix():
    for bounds, words in (
        ({"above": 0}, "a number above 0"),
        ({"least": 0, "below": 1}, r"a number in \[0, 1\)"),
        ({"above": 0, "most": 1}, r"a number in \(0, 1\]"),
        ({"least": 0}, "a number of 0 or more"),
        ({"most": -2}, "a number of -2 or less"),
    ):
        with pytest.raises(ValueError, match=f"eta = -1; expected {words}: try 1$"):
            check_number("eta", -1, **bounds, fix=": try 1")
    with pytest.raises(ValueError, match="eta = 3.0; expected a share below 2"):
        check_number("eta", np.array([1.0, 3.0]), below=2, noun="a share")


def test_a_python_number_counts_as_the_float_it_is_computed_as():
    """1e300 is infinite in float32 and 1e-300 is 0, in which a process would be computed."""
    for number, bounds in ((1e300, {}), (1e-300, {"above": 0}), (10**400, {}), (-(10**400), {})):
        with pytest.raises(ValueError, match="sigma = "):
            check_number("sigma", number, **bounds)
    assert check_number("sigma", float("inf"), most=float("inf")) == float("inf")


def test_numbers_are_checked_under_jit_where_they_are_concrete_and_nan_out_of_range_where_they_are_traced():
    concrete = jnp.asarray(-1.0)
    with pytest.raises(ValueError, match=r"beta = -1.0; expected a number above 0"):
        jax.jit(lambda x: x * check_number("beta", concrete, above=0))(1.0)
    assert np.isnan(jax.jit(lambda beta: check_number("beta", beta, above=0))(-1.0))
    with pytest.raises(TypeError, match="beta = .*; expected a number above 0"):
        jax.jit(lambda beta: check_number("beta", beta, above=0))(True)


def test_whole_numbers_are_ints_known_before_tracing():
    assert [check_whole("n", n) for n in (3, np.int8(3), jnp.int32(3), np.array(3))] == [3] * 4
    with pytest.raises(TypeError, match="n is traced; expected a whole number, at least one, known before tracing"):
        jax.jit(lambda n: check_whole("n", n))(3)
    with pytest.raises(ValueError, match=r"n = 7; expected a whole number in \[1, 5\]"):
        check_whole("n", 7, most=5)


def test_one_number_for_all_is_not_several():
    with pytest.raises(ValueError, match=r"rtol has shape \(2,\); expected one number for all examples.*jax.vmap"):
        check_scalar("rtol", np.ones(2))
    with pytest.raises(ValueError, match="rtol = 0.0 and atol = 0; expected one of them above 0"):
        check_tolerances(0.0, 0)
    check_tolerances(0.0, 1e-3)
    jax.jit(check_tolerances)(0.0, 0.0)


def test_arrays_where_one_number_is_for_all_are_found_however_deep():
    @dataclasses.dataclass
    class Table:
        values: jax.Array  # no number: an array by right
        scale: float = 1.0

    @dataclasses.dataclass
    class Outer:
        inner: Table
        noise: float = 0.0

    check_shared("sampler", Outer(Table(np.ones(3))))
    with pytest.raises(ValueError, match=r"sampler.inner.scale has shape \(3,\)"):
        check_shared("sampler", Outer(Table(np.ones(3), np.ones(3))))


def test_shapes_are_tuples_of_ints():
    assert check_shape("shape", [np.int64(3), 2], "(n, d)") == (3, 2)
    assert check_shape("shape", np.array([3, 2]), "(n, d)") == (3, 2)
    with pytest.raises(TypeError, match="shape = 3; expected"):
        check_shape("shape", 3, "(n, d)")


def test_a_size_that_no_memory_holds_says_what_it_would_take():
    with pytest.raises(ValueError, match=r"x of shape \(1000000, 1000000000\) takes 3.73e\+06 GiB, more than"):
        check_room("x", 10**6, 10**9)
    check_room("x", 10, 10)


def test_an_array_of_bytes_in_the_other_order_is_read_as_what_it_says():
    """JAX would read it backwards once a program of the same shape in this machine's order is there."""
    x = np.array([[0.25, -1.0], [3.0, 0.5]], np.float32)
    swapped = x.astype(">f4")
    for check in (check_batch, check_event, lambda x: check_array("x", x)):
        np.testing.assert_array_equal(np.asarray(check(swapped), np.float32), x)
    np.testing.assert_array_equal(check_time(np.array([0.25, 0.5], ">f8")), [0.25, 0.5])
    network = lambda params, x, c_noise, cond: params["w"] * x
    one, other = (jd.Denoiser(network, {"w": w}, jd.VP()) for w in (x, swapped))
    np.testing.assert_array_equal(jax.jit(lambda d: d(x, 0.5).data)(one), jax.jit(lambda d: d(x, 0.5).data)(other))
    np.testing.assert_array_equal(one(swapped, 0.5).data, one(x, 0.5).data)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_time_that_leaves_its_range_under_a_trace_is_nan(compiled):
    """Without a trace it is refused; with one nothing plausible comes out."""
    t = jnp.array([-0.1, 0.0, 0.3, 1.0, 1.5, jnp.nan])
    curves = jax.vmap(lambda t: jnp.stack(jd.VP().marginal(t)))
    alpha, sigma = (jax.jit(curves) if compiled else curves)(t).T
    inside = np.array([False, True, True, True, False, False])
    for curve, truth in zip((alpha, sigma), jax.jit(jd.VP().marginal)(t[inside])):
        np.testing.assert_array_equal(np.isfinite(curve), inside)
        np.testing.assert_allclose(curve[inside], truth, rtol=1e-6)
    log_snr, h = jax.jit(lambda t: jd.VP().log_snr(t)), 1e-2
    slope = jax.vmap(jax.grad(log_snr))(t[2:3])
    np.testing.assert_allclose(slope, (log_snr(0.3 + h) - log_snr(0.3 - h)) / (2 * h), rtol=1e-3)


def test_steps_the_wrong_way_round_are_nan_under_a_trace():
    for step in (jd.transition, jd.posterior):
        assert np.isnan(jax.jit(lambda s, t, step=step: jnp.stack(step(jd.VP(), s, t)))(0.8, 0.2)).all()
    a, std = jd.transition(jd.VP(), 0.5, 0.5)
    assert (a, std) == (1.0, 0.0)


def test_numbers_lie_along_the_batch():
    x = jnp.zeros((3, 3, 2))
    assert along_batch(2.0, x, "scale").shape == ()
    assert along_batch(np.ones(3), x, "scale").shape == (3, 1, 1)
    for wrong in (np.ones(2), np.ones((3, 1)), np.ones((3, 3, 2))):
        with pytest.raises(ValueError, match="scale has shape .*; expected a scalar, or one number per example"):
            along_batch(wrong, x, "scale")


def test_messages_are_short_whatever_the_value():
    assert said(np.zeros((1000, 1000))) == "array of float64 (1000, 1000)"
    assert len(said(jd.exact.Empirical(jd.VP(), np.zeros((1000, 3))))) < 120
    assert len(said(list(range(10**4)))) == 120


@pytest.mark.slow
def test_checks_do_not_meet_the_librarys_own_steps_where_nothing_is_traced():
    """Under `jax.disable_jit` all values are concrete, and some steps run from s to t > s or raise t a little."""
    denoiser, x = jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2)), np.ones((1, 2), np.float32)
    with jax.disable_jit():
        for sampler in (jd.samplers.Heun(), jd.samplers.Heun(1.0), jd.samplers.DDIM(0.5), jd.samplers.Ancestral()):
            assert np.isfinite(jd.sample(jax.random.key(0), denoiser, (1, 2), sampler, 2)).all()
        for sampler in (jd.samplers.DDIM(), jd.samplers.Heun()):
            assert np.isfinite(jd.invert(denoiser, x, sampler, 2)).all()
