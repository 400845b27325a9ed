"""Operators of measurements, by hand, by SciPy, and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from jaxdiff.denoisers.guidance import operators

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 2))
SEEN = RNG.random((4, 6, 1)) < 0.5
KERNEL = RNG.normal(size=(3, 5))
TABLE = RNG.uniform(0.1, 0.5, (2, 2))
ALL = {
    "mask": operators.mask(SEEN),
    "average": operators.average(2),
    "blur": operators.blur(KERNEL),
    "quantise": operators.quantise(0.3, 2),
    "phase_retrieval": operators.phase_retrieval(),
}


def test_each_operator_is_its_formula(x64):
    np.testing.assert_array_equal(ALL["mask"](X), X * SEEN)
    blocks = [[X[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(ALL["average"](X), blocks, rtol=1e-14)
    for channel in range(2):
        expected = scipy.signal.convolve2d(X[..., channel], KERNEL, mode="same")
        np.testing.assert_allclose(ALL["blur"](X)[..., channel], expected, rtol=1e-12)
    padded = np.pad(X, ((0, 4), (0, 6), (0, 0)))
    magnitudes = np.abs(scipy.fft.fft2(padded, axes=(0, 1), norm="ortho"))
    np.testing.assert_allclose(ALL["phase_retrieval"](X), magnitudes, rtol=1e-12)
    np.testing.assert_allclose(np.sum(magnitudes**2), np.sum(X**2))
    for step, operator in ((0.3, ALL["quantise"]), (TABLE, operators.quantise(TABLE, 2))):
        expected = np.empty_like(X)
        for i, j, channel in np.ndindex(2, 3, 2):
            part = np.s_[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, channel]
            cosines = scipy.fft.dctn(X[part], norm="ortho")
            expected[part] = scipy.fft.idctn(step * np.round(cosines / step), norm="ortho")
        np.testing.assert_allclose(operator(X), expected, atol=1e-13)
        assert np.abs(expected - X).max() > 0.1
        np.testing.assert_allclose(operator(expected), expected, atol=1e-13)  # what was rounded stays


def test_sounds_and_volumes_are_seen_along_all_of_their_axes(x64):
    sound, volume = RNG.normal(size=(6, 2)), RNG.normal(size=(4, 4, 2, 1))
    np.testing.assert_allclose(operators.average(3)(sound), sound.reshape(2, 3, 2).mean(1))
    np.testing.assert_allclose(operators.average(2)(volume)[0, 1, 0, 0], volume[:2, 2:, :].mean())
    np.testing.assert_allclose(operators.blur([1.0, 0.0, 0.0])(sound), np.append(sound[1:], np.zeros((1, 2)), 0))
    np.testing.assert_allclose(operators.quantise(1e-9, 2)(volume), volume, atol=1e-8)
    assert operators.phase_retrieval(3)(volume).shape == (12, 12, 6, 1)


def test_derivatives_are_finite_differences_and_go_straight_through_rounding(x64):
    tangent, eps = RNG.normal(size=X.shape), 1e-6
    for name, operator in ALL.items():
        slope = jax.jvp(operator, (X,), (tangent,))[1]
        if name == "quantise":
            np.testing.assert_allclose(slope, tangent, atol=1e-14)
            np.testing.assert_array_equal(operator(X + 1e-9 * tangent), operator(X))
            continue
        differences = (operator(X + eps * tangent) - operator(X - eps * tangent)) / (2 * eps)
        np.testing.assert_allclose(slope, differences, atol=1e-8)
        back = jax.vjp(operator, X)[1](jnp.asarray(differences))[0]
        np.testing.assert_allclose(np.sum(back * tangent), np.sum(slope * differences), rtol=1e-9)
    dark = jax.jvp(ALL["phase_retrieval"], (0 * X,), (tangent,))
    np.testing.assert_array_equal(dark, np.zeros((2, 8, 12, 2)))


def test_numbers_of_operators_are_leaves_so_that_others_compile_nothing():
    traces = []

    @jax.jit
    def see(operator, x0):
        traces.append(operator)
        return operator(x0)

    x0 = jnp.asarray(X, jnp.float32)
    for factor in (1.0, 2.0):
        see(operators.mask(SEEN if factor == 1 else ~SEEN), x0)
        see(operators.blur(factor * KERNEL), x0)
        see(operators.quantise(0.3 * factor, 2), x0)
        see(operators.average(2), x0)
        see(operators.phase_retrieval(), x0)
    assert len(traces) == 5
    np.testing.assert_array_equal(operators.masked(x0, SEEN), see(operators.mask(SEEN), x0))
    np.testing.assert_allclose(operators.blurred(x0, KERNEL), see(operators.blur(KERNEL), x0), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_products_of_operators_are_at_full_precision(name):
    text = jax.jit(ALL[name]).trace(jnp.asarray(X, jnp.float32)).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "convolution" in line]
    assert all("HIGHEST" in line for line in products)
    assert bool(products) == (name in ("blur", "quantise"))
