"""Group normalisation beside its formula, and how it holds in few bits."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.normalization import _centred, _in_two_passes
from jaxdiff.networks.platforms import platform_dependent

GROUPS, EPSILON = 4, 1e-5
forms = pytest.mark.parametrize("form", [_centred, _in_two_passes])


def by_numpy(x, scale, bias):
    """In float64."""
    x = np.asarray(x, np.float64)
    grouped = x.reshape(len(x), -1, GROUPS, x.shape[-1] // GROUPS)
    normal = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(grouped.var((1, 3), keepdims=True) + EPSILON)
    per_example = lambda numbers: np.broadcast_to(numbers, (len(x), x.shape[-1]))[:, None, None]
    return normal.reshape(x.shape) * per_example(scale) + per_example(bias)


def draws(dtype):
    rng = np.random.default_rng(0)
    shapes = (3, 4, 5, 8), (3, 8), (8,)
    drawn = [(rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    return zip(*drawn)


@forms
def test_values_and_derivatives_are_those_of_the_formula(x64, form):
    x, dx = draws(np.float64)
    norm = jax.jit(lambda *x: form(*x, GROUPS, EPSILON))
    np.testing.assert_allclose(norm(*x), by_numpy(*x), atol=1e-13)
    step = 1e-5
    moved = lambda sign: by_numpy(*(part + sign * step * change for part, change in zip(x, dx)))
    found, pull = jax.jvp(norm, x, dx)[1], jax.vjp(norm, *x)[1]
    np.testing.assert_allclose(found, (moved(1) - moved(-1)) / (2 * step), atol=1e-7)
    g = np.random.default_rng(1).standard_normal(x[0].shape)
    along = sum(np.vdot(part, change) for part, change in zip(pull(g), dx))
    np.testing.assert_allclose(along, np.vdot(g, found), rtol=1e-12)


@forms
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_variance_that_is_small_beside_the_mean_is_right(form, offset):
    """To the rounding of the mean, by which x, of variance 1, is moved; E x^2 - (E x)^2 would be wrong by 2^-23 1e8."""
    (x, scale, bias), _ = draws(np.float32)
    x = x + np.float32(offset)
    error = np.abs(form(x, scale, bias, GROUPS, EPSILON) - by_numpy(x, scale, bias))
    assert np.all(error < 1e-5 + 2**-23 * offset * np.abs(scale)[:, None, None] * 2)


@forms
def test_in_bfloat16_only_the_result_is_rounded(form):
    (x, scale, bias), _ = draws(np.float32)
    x, scale, bias = (jnp.asarray(part, jnp.bfloat16) for part in (x, scale, bias))
    found = form(x, scale, bias, GROUPS, EPSILON)
    assert found.dtype == jnp.bfloat16
    right = by_numpy(*(np.asarray(part, np.float64) for part in (x, scale, bias)))
    assert np.all(np.abs(np.asarray(found, np.float64) - right) <= 2**-8 * np.abs(right) + 1e-6)


def test_no_pass_over_the_pixels_is_taken_twice():
    """A gradient reads the pixels in four sums: two of x, those of g and of g x; all else is one number a channel."""
    (x, scale, bias), _ = draws(np.float32)
    form = functools.partial(_in_two_passes, groups=GROUPS, epsilon=EPSILON)
    gradient = lambda norm: jax.jit(jax.grad(lambda *x: jnp.sin(norm(*x)).sum(), (0, 1, 2))).lower(x, scale, bias)
    text = gradient(form).as_text()
    reduced = re.findall(r"stablehlo.reduce\(.*: \(tensor<([\dx]+)xf32>", text)
    assert sum(math.prod(map(int, shape.split("x"))) == x.size for shape in reduced) == 4, reduced
    chosen = gradient(lambda *x: platform_dependent(*x, cpu=form, default=form))
    passes = lambda program: program.compile().as_text().count(" reduce(")
    assert passes(chosen) == passes(gradient(form))  # XLA has found the sums that the choice writes twice
