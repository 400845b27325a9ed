"""A function with a program for CPUs and another for the rest, and the convolutions and attention that are such."""

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import an_h100, within

import jaxdiff as jd
from jaxdiff.networks import UNet, initialize
from jaxdiff.networks.platforms import platform_dependent

X = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))


@pytest.fixture(scope="module")
def unet():
    return initialize(jax.random.key(0), lambda rngs: UNet(1, (8, 16), 1, (1,), rngs=rngs))


def loss_gradient(unet):
    network, params = unet
    loss = lambda params, key: jd.losses.Denoising()(jd.Denoiser(network, params, jd.VP()), key, X).mean()
    return jax.jit(jax.grad(loss)), params


def likelihood(unet):
    network, params = unet
    of = lambda params, key: jd.log_likelihood(key, jd.Denoiser(network, params, jd.VP()), X, flow=within(0.1))
    return jax.jit(lambda params, key: of(params, key).log_prob), params


def bilinear(x, y):
    return jnp.einsum("ij,jk->ik", x, jnp.sin(y))


def negated_twice(x, y):
    """The same function, and another program."""
    return -bilinear(-x, y)


def here(x, y):
    return platform_dependent(x, y, cpu=bilinear, default=negated_twice)


TRANSFORMED = {
    "value": lambda f, x, y: f(x, y),
    "product forward": lambda f, x, y: jax.jvp(f, (x, y), (y, x)),
    "product forward in one": lambda f, x, y: jax.jvp(lambda y: f(x, y), (y,), (x,)),
    "gradient": lambda f, x, y: jax.grad(lambda *a: jnp.cos(f(*a)).sum(), (0, 1))(x, y),
    "linear transpose": lambda f, x, y: jax.linear_transpose(lambda x: f(x, y), x)(x),
    "its transpose": lambda f, x, y: jax.linear_transpose(jax.linear_transpose(lambda x: f(x, y), x), y)((x,)),
    "Hessian": lambda f, x, y: jax.hessian(lambda y: jnp.cos(f(x, y)).sum())(y),
    "gradient of a gradient": lambda f, x, y: jax.grad(lambda x: jax.grad(lambda y: f(x, y).sum())(y).sum())(x),
    "a map": lambda f, x, y: jax.vmap(f, (None, 1))(x, jnp.stack([x, y], 1)),
    "gradients of each": lambda f, x, y: jax.vmap(jax.grad(lambda y, x: f(x, y).sum()), (0, None))(y[None], x),
    "gradient of a map": lambda f, x, y: jax.grad(lambda y: jnp.cos(jax.vmap(f, (None, 0))(x, y)).sum())(y[None]),
    "recomputed": lambda f, x, y: jax.grad(lambda y: jax.checkpoint(f)(x, y).sum())(y),
    "in a loop": lambda f, x, y: jax.grad(lambda y: jax.lax.scan(lambda x, _: (f(x, y), None), x, None, 3)[0].sum())(y),
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_transformations_are_those_of_the_function(x64, transform):
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 3))
    found, expected = (jax.jit(lambda x, y, f=f: transform(f, x, y))(x, y) for f in (here, bilinear))
    chex.assert_trees_all_close(found, expected, rtol=1e-12)


def test_each_platform_has_its_own_program_and_no_other():
    traced = jax.jit(jax.value_and_grad(lambda x, y: here(x, y).sum())).trace(jnp.ones((2, 3)), jnp.ones((3, 4)))
    lowered = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    negations = {platform: text.count("stablehlo.negate") for platform, text in lowered.items()}
    assert negations["cpu"] == 0 < negations["cuda"] == negations["tpu"]


def test_products_are_as_exact_as_where_the_function_was_called():
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(here).trace(jnp.ones((2, 3)), jnp.ones((3, 4)))
    assert traced.lower().as_text().count("precision = [HIGHEST, HIGHEST]") == 1


@pytest.mark.parametrize("make", [loss_gradient, likelihood])
@pytest.mark.slow
def test_accelerators_get_convolutions_and_a_cpu_gets_matrix_products(unet, make):
    function, params = make(unet)
    with an_h100():
        traced = function.trace(params, jax.random.key(0))
        lowered = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "tpu", "cpu")}
    convolutions = {platform: text.count("stablehlo.convolution") for platform, text in lowered.items()}
    assert convolutions["cuda"] > 0
    assert convolutions["tpu"] > 0
    assert convolutions["cpu"] == 0


@pytest.mark.slow
def test_a_program_that_is_exported_on_a_cpu_for_all_platforms_is_right_there(unet):
    gradient, params = loss_gradient(unet)
    program = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(params, jax.random.key(0))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert "stablehlo.convolution" in program.mlir_module()
    found = program.call(params, jax.random.key(0))
    expected = gradient(params, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * (1 + np.abs(b).max())), found, expected)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
