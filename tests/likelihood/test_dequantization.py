"""A learned dequantisation against the probability of the integers themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.likelihood import DequantizationLoss, Exact, Uniform, Variational
from jaxdiff.likelihood.dequantization import place

LEVELS, STD = 4, 0.3


def affine(params, noise, x):
    """y = e^{s(x)} ε + b(x), s and b cubic in x."""
    powers = jnp.stack([x**k for k in range(4)])
    s, b = jnp.einsum("pk,knd->pnd", params, powers)
    return noise * jnp.exp(s) + b, s.sum(1)


def test_densities_of_u_integrate_to_one():
    """E 1/q(u) over u ~ q is the volume of the cell: 1, for a map that reaches all of it."""
    dequantizer = Variational(affine, jnp.array([[0.4, 0.3, 0.0, 0.0], [0.2, -0.5, 0.0, 0.0]]))
    images = jnp.full((20_000, 1), 2)
    keys = jax.random.split(jax.random.key(0), len(images))
    u, log_q = dequantizer(keys, images, LEVELS)
    weight = np.exp(-np.asarray(log_q, np.float64))
    assert abs(weight.mean() - 1) < 4 * weight.std() / np.sqrt(len(images))
    moment = (weight * np.asarray(u)[:, 0]).astype(np.float64)
    assert abs(moment.mean() - 0.5) < 4 * moment.std() / np.sqrt(len(images))
    x, log_density = place(dequantizer, keys, images, LEVELS)
    assert (jd.quantize(x, LEVELS) == images).all()
    np.testing.assert_allclose(log_density, log_q + np.log(LEVELS / 2), rtol=1e-5)


@pytest.mark.slow
def test_training_closes_the_gap():
    """Under N(0, 0.3²) with four levels, uniform draws lose 0.15 bits; what is learned from the bound gets a tenth."""
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(1), STD**2 * np.eye(1))
    images = np.tile(np.arange(LEVELS), 100)[:, None]
    edges = 2 * np.arange(LEVELS + 1) / LEVELS - 1
    truth = -np.log2(np.diff(norm.cdf(edges, scale=STD))).mean()

    loss, optimizer = DequantizationLoss(denoiser, LEVELS), optax.adam(optax.cosine_decay_schedule(0.05, 600))
    start = Variational(affine, jnp.zeros((2, 4)).at[0, 0].set(0.5))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value = lambda params: loss(dataclasses.replace(start, params=params), key, jnp.asarray(images)).mean()
            updates, state = optimizer.update(jax.grad(value)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 600))[0][0]

    learned = dataclasses.replace(start, params=train(start.params))
    uniform, variational = (
        jd.bits_per_dim(
            jax.random.key(2),
            denoiser,
            images,
            1,
            LEVELS,
            400,
            trace=Exact(),
            budget=0,
            dequantizer=dequantizer,
        )
        for dequantizer in (Uniform(), learned)
    )
    assert variational.kind == "variational dequantisation"
    assert variational.bits_per_dim > truth - 4 * variational.standard_error
    assert variational.bits_per_dim - truth < 0.1 * (uniform.bits_per_dim - truth)
    several = jd.bits_per_dim(
        jax.random.key(3), denoiser, images, 8, LEVELS, 400, trace=Exact(), budget=0, dequantizer=learned
    )
    assert several.kind == "importance-weighted bound of variational dequantisation, K = 8"
    noise = np.std(several.per_example.reshape(100, LEVELS), axis=0).mean() / np.sqrt(len(images))
    assert -4 * noise < several.bits_per_dim - truth < (variational.bits_per_dim - truth) / 2 + 4 * noise


@pytest.mark.parametrize("bits", [1, 8, 16, 20])
def test_noise_is_uniform_in_the_cell_whatever_the_number_of_levels(bits):
    """Its mean and variance are those of U(0, 1) within standard errors, less what places of 2^(bits - 23) lack."""
    levels, n = 2**bits, 40_000
    for image in (0, levels // 2, levels - 1):
        images = np.full((n, 1), image)
        x = np.asarray(jd.dequantize(jax.random.key(image), images, levels), np.float64)
        u = (x + 1) / 2 * levels - image
        assert u.min() >= 0
        assert u.max() < 1
        assert abs(u.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / n)
        missing = 4.0 ** (bits - 23)
        assert abs(u.var() - (1 - missing) / 12) < 4 * np.sqrt(1 / 180 / n)
        np.testing.assert_array_equal(jd.quantize(jnp.asarray(x, jnp.float32), levels), images)


@pytest.mark.parametrize("levels", [2**20 + 1, 2**23, 2**24, 2**31])
def test_levels_that_leave_no_room_for_noise_are_refused(levels):
    images, denoiser = np.zeros((2, 2), int), jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2))
    for call in (
        lambda: jd.dequantize(jax.random.key(0), images, levels),
        lambda: jd.quantize(jnp.zeros((2, 2)), levels),
        lambda: jd.bits_per_dim(jax.random.key(0), denoiser, images, levels=levels),
        lambda: jd.variational_bound(jax.random.key(0), denoiser, images, levels=levels),
        lambda: DequantizationLoss(denoiser, levels),
    ):
        with pytest.raises(ValueError, match=f"levels = {levels}: float32 .* at most 1048576, or float64 by"):
            call()


def test_in_float64_they_have_it(x64):
    levels, n = 2**24, 40_000
    x = np.asarray(jd.dequantize(jax.random.key(0), np.full((n, 1), levels - 1), levels))
    assert x.dtype == np.float64
    u = (x + 1) / 2 * levels - (levels - 1)
    assert abs(u.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    assert jd.dequantize(jax.random.key(0), np.zeros((2, 2), int), 256).dtype == np.float32


def test_no_integer_is_taken_for_another():
    """Whatever its type: bytes in the other order, more bits than JAX has, none of whose values is in range."""
    key, swapped = jax.random.key(0), np.array([[1, 2]]).astype(">i4")
    np.testing.assert_array_equal(jd.quantize(jd.dequantize(key, swapped)), swapped)
    for images in (np.array([[2**32 + 5, 0]]), np.array([[-1, 0]]), np.array([[2**63]], np.uint64)):
        with pytest.raises(ValueError, match="images hold values"):
            jd.dequantize(key, images)


def test_a_value_on_no_level_is_refused_or_minus_one():
    x = jnp.array([[0.0, jnp.nan]])
    with pytest.raises(ValueError, match="x holds a NaN, which is on no level"):
        jd.quantize(x)
    np.testing.assert_array_equal(jax.jit(jd.quantize)(x), [[128, -1]])


def test_malformed_input_is_refused():
    key, images = jax.random.key(0), np.zeros((2, 2), int)
    echo = jd.Denoiser(lambda params, x, c, cond: x, None, jd.VP())
    own = lambda u, log_q: lambda keys, images, levels: (u, log_q)
    bits = lambda dequantizer: jd.bits_per_dim(key, echo, images, budget=0, dequantizer=dequantizer)
    zeros = jnp.zeros((2, 2))
    for call, error, message in (
        (lambda: jd.dequantize(0, images), TypeError, "typed key"),
        (lambda: jd.dequantize(key, images[0]), ValueError, r"images have shape \(2,\)"),
        (lambda: jd.dequantize(key, images[:0]), ValueError, "the data set is empty"),
        (lambda: jd.dequantize(key, [[1], [2, 3]]), TypeError, "expected integers in 0..255"),
        (lambda: jd.dequantize(key, "cat"), TypeError, "expected integers in 0..255"),
        (lambda: jd.dequantize(key, None), TypeError, "expected integers in 0..255"),
        (lambda: jd.dequantize(key, images, 256.0), TypeError, "levels = 256.0"),
        (lambda: jd.quantize(images), TypeError, "x has dtype int.*expected floating"),
        (lambda: jd.quantize(zeros, -3), ValueError, "levels = -3"),
        (lambda: Variational(None, {}), TypeError, "network = None"),
        (lambda: DequantizationLoss(None), TypeError, "denoiser = None"),
        (lambda: bits(own(zeros[:, :1], zeros[:, 0])), ValueError, r"dequantizer returned shape \(2, 1\)"),
        (lambda: bits(own(zeros, zeros)), ValueError, r"dequantizer returned shape \(2, 2\).*expected \(2,\)"),
        (lambda: bits(lambda keys, images, levels: zeros), TypeError, "dequantizer returned"),
        (lambda: bits(Variational(lambda p, noise, x: noise, {})), TypeError, "network returned"),
        (lambda: bits(None), TypeError, "dequantizer = None"),
    ):
        with pytest.raises(error, match=message):
            call()
