"""A learned dequantisation against the probability of the integers themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.likelihood import DequantizationLoss, Uniform, Variational
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
            jax.random.key(2), denoiser, images, 1, LEVELS, 400, divergence="exact", budget=0, dequantizer=dequantizer
        )
        for dequantizer in (Uniform(), learned)
    )
    assert variational.kind == "variational dequantisation"
    assert variational.bits_per_dim > truth - 4 * variational.standard_error
    assert variational.bits_per_dim - truth < 0.1 * (uniform.bits_per_dim - truth)
    several = jd.bits_per_dim(
        jax.random.key(3), denoiser, images, 8, LEVELS, 400, divergence="exact", budget=0, dequantizer=learned
    )
    assert several.kind == "importance-weighted bound of variational dequantisation, K = 8"
    noise = np.std(several.per_example.reshape(100, LEVELS), axis=0).mean() / np.sqrt(len(images))
    assert -4 * noise < several.bits_per_dim - truth < (variational.bits_per_dim - truth) / 2 + 4 * noise
