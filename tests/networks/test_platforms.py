"""Which form of a convolution or of attention runs is chosen for the platform a program is lowered for."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import an_h100, within

import jaxdiff as jd
from jaxdiff.networks import UNet, initialize

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
