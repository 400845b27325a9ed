import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from conftest import few_names
from flax import nnx

from jaxdiff.networks import MLP, Cast, DiT, Fourier, Network, UNet, initialize


def small_unet(rngs, **options):
    return UNet(1, **{"channels": (4, 8), "blocks": 1, "attention": (0,), "heads": 2, **options}, rngs=rngs)


@jax.jit(static_argnums=0)
def run(network, params, x, c_noise, cond):
    return network(params, x, c_noise, cond)


@functools.cache
def built(make):
    return initialize(jax.random.key(0), make)


def randomised(params):
    """Parameters without the zeros that a network begins with."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda p: jnp.asarray(p + 0.2 * rng.normal(size=p.shape), jnp.float32), params)


CASES = {
    "mlp": (lambda rngs: MLP(3, hidden=(8, 8), classes=4, rngs=rngs), (3,)),
    "mlp-images": (
        lambda rngs: MLP((4, 4, 1), hidden=(8, 16), classes=4, waves=Fourier(), rngs=rngs),
        (4, 4, 1),
    ),
    "unet": (lambda rngs: small_unet(rngs, classes=4), (8, 4, 1)),
    "dit": (lambda rngs: DiT(1, 2, 8, 1, 2, classes=4, rngs=rngs), (4, 2, 1)),
}


@pytest.fixture(scope="module", params=few_names(CASES, "mlp", "unet"))
def case(request):
    make, event = CASES[request.param]
    network, params = built(make)
    x = jax.random.normal(jax.random.key(1), (3, *event))
    return network, randomised(params), x, jnp.array([-3.0, 0.1, 3.0]), jnp.array([0, 3, 4])


@pytest.mark.parametrize("name", few_names(CASES, "mlp", "unet"))
def test_the_output_has_the_shape_of_x_and_is_zero_at_the_start(name):
    make, event = CASES[name]
    network, params = built(make)
    x = jax.random.normal(jax.random.key(1), (3, *event))
    out = run(network, params, x, jnp.zeros(3), jnp.zeros(3, int))
    assert out.shape == x.shape
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, 0)


def test_every_parameter_matters(case):
    network, params, x, c_noise, cond = case
    grads = jax.jit(jax.grad(lambda p: jnp.sum(network(p, x, c_noise, cond) ** 2)))(params)
    flat, _ = jax.tree_util.tree_flatten_with_path(grads)
    assert [jax.tree_util.keystr(path) for path, g in flat if not np.any(np.abs(g) > 0)] == []


def test_an_example_depends_on_itself_alone(case):
    network, params, x, c_noise, cond = case
    whole = run(network, params, x, c_noise, cond)
    others = run(network, params, x.at[1:].set(9.0), c_noise.at[1:].set(0.0), cond.at[1:].set(1))
    np.testing.assert_allclose(others[0], whole[0], rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(others[1:] - whole[1:]).reshape(2, -1).max(1) > 1e-3)


@pytest.mark.parametrize("case", few_names(CASES, "mlp"), indirect=True)
def test_vmap_over_batches_of_one_is_the_batch(case):
    network, params, x, c_noise, cond = case

    @jax.jit
    def one_by_one(params, x, c_noise, cond):
        return jax.vmap(lambda x, c, y: network(params, x[None], c, y[None])[0])(x, c_noise, cond)

    whole = run(network, params, x, c_noise, cond)
    np.testing.assert_allclose(one_by_one(params, x, c_noise, cond), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", few_names(CASES, "mlp"), indirect=True)
def test_jvp_vjp_and_finite_differences_agree(case):
    network, params, x, c_noise, cond = case
    f = functools.partial(run, network, params, c_noise=c_noise, cond=cond)
    v = jax.random.normal(jax.random.key(2), x.shape)
    w = jax.random.normal(jax.random.key(3), x.shape)
    forward = jax.vmap(lambda x, v, c, y: jax.jvp(lambda x: network(params, x[None], c, y[None])[0], (x,), (v,))[1])
    pushed = jax.jit(forward)(x, v, c_noise, cond)
    (pulled,) = jax.jit(lambda x: jax.vjp(f, x)[1](w))(x)
    np.testing.assert_allclose(jnp.vdot(w, pushed), jnp.vdot(pulled, v), rtol=1e-3, atol=1e-3)
    h = 3e-3
    np.testing.assert_allclose(
        (f(x + h * v) - f(x - h * v)) / (2 * h), pushed, atol=0.02 * float(jnp.abs(pushed).max())
    )


@pytest.mark.parametrize("case", few_names(CASES, "mlp"), indirect=True)
def test_a_scalar_c_noise_and_label_stand_for_the_whole_batch(case):
    network, params, x, _, _ = case
    spread = run(network, params, x, jnp.full(3, 0.4), jnp.full(3, 2))
    np.testing.assert_allclose(run(network, params, x, 0.4, 2), spread, rtol=1e-5, atol=1e-5)


def test_equal_networks_share_one_trace():
    traces = []

    @jax.jit(static_argnums=0)
    def counted(network, params, x):
        traces.append(network)
        return network(params, x, 0.0)

    first, second = (initialize(jax.random.key(i), lambda rngs: MLP(2, hidden=(4,), rngs=rngs)) for i in (0, 1))
    other = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(4,), waves=Fourier(), rngs=rngs))
    for network, params in (first, second, other):
        counted(network, params, jnp.ones((2, 2)))
    assert traces == [first[0], other[0]]
    assert first[0] == second[0] != other[0]


@pytest.mark.slow
def test_equality_is_that_of_the_structure():
    def unet(**options):
        split = jax.eval_shape(lambda key: nnx.split(small_unet(nnx.Rngs(key), **options)), jax.random.key(0))
        return Network(split[0])

    assert unet() == unet()
    assert hash(unet()) == hash(unet())
    assert len({unet(), unet(), unet(attention=()), unet(heads=4), unet(classes=2)}) == 4


def test_parameters_are_plain_dicts_that_optax_walks_and_orbax_keeps(tmp_path):
    network, params = built(CASES["unet"][0])

    def plain(node):
        return all(map(plain, node.values())) if type(node) is dict else isinstance(node, jax.Array)

    assert plain(params)
    updates, _ = optax.sgd(1.0).update(params, optax.sgd(1.0).init(params))
    zeros = optax.apply_updates(params, updates)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "params", jax.eval_shape(lambda: params))
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    jax.eval_shape(network, restored, jnp.ones((1, 8, 8, 1)), 0.0)


def test_parameters_come_from_the_key():
    def wide(rngs):
        return MLP(400, hidden=(300,), rngs=rngs)

    a, b, c = (initialize(jax.random.key(seed), wide)[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    kernel = np.asarray(a["layers"][0]["kernel"])
    assert not np.array_equal(kernel, c["layers"][0]["kernel"])
    # LeCun's initialisation: a variance of one over the number of inputs
    np.testing.assert_allclose(kernel.var(), 1 / 400, rtol=5 * np.sqrt(2 / kernel.size))


def test_c_noise_of_another_shape_is_refused(case):
    network, params, x, _, _ = case
    with pytest.raises(ValueError, match=r"c_noise has shape \(3, 1\); expected a scalar or \(3,\)"):
        network(params, x, jnp.zeros((3, 1)))


@pytest.mark.slow
def test_cast_computes_in_bfloat16_over_float32_weights():
    network, params = built(CASES["unet"][0])
    params = randomised(params)
    cast = Cast(network, jnp.bfloat16)
    x, c_noise = jax.random.normal(jax.random.key(1), (16, 8, 4, 1)), jnp.linspace(-2.9, 2.9, 16)
    half, full = run(cast, params, x, c_noise, None), run(network, params, x, c_noise, None)
    assert half.dtype == jnp.float32
    error = np.sqrt(np.mean((half - full) ** 2) / np.mean(full**2))
    assert 2**-12 < error < 0.05  # eight bits, and some twenty roundings one after another: 20 x 2**-9

    loss = lambda params: jnp.square(cast(params, x, c_noise, None)).mean()
    grads = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    text = jax.jit(loss).lower(params).as_text()
    product = r"stablehlo.(?:convolution|dot_general).* : \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>"
    operands = collections.Counter(re.findall(product, text))
    assert operands.pop(("f32", "f32")) == 2  # of the noise level's embedding
    assert set(operands) == {("bf16", "bf16")}
    assert operands.total() > 8


def test_cast_does_not_round_the_noise_level():
    """One that sees c_noise alone keeps apart what bfloat16 does not."""
    level = lambda params, x, c_noise, cond: jnp.broadcast_to(c_noise[:, None] - 2.0, x.shape).astype(x.dtype)
    c_noise = jnp.array([2.001, 2.002])
    assert jnp.bfloat16(2.001) == jnp.bfloat16(2.002)
    out = Cast(level, jnp.bfloat16)({}, jnp.ones((2, 3)), c_noise, None)
    np.testing.assert_allclose(out[:, 0], [0.001, 0.002], rtol=2**-7)
