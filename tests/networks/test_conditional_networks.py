"""Networks that read every part of `cond`: U-Nets over one, two and three axes, half a U-Net, transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from flax import nnx

from jaxdiff.networks import Classifier, DiT, UNet, initialize
from jaxdiff.networks.blocks import ResidualBlock, dropped
from jaxdiff.networks.classifier import AttentionPool
from jaxdiff.networks.positions import positions

RNG = np.random.default_rng(0)
floats = lambda *shape: RNG.standard_normal(shape).astype(np.float32)
C_NOISE = jnp.array([-2.0, 0.3])


def randomised(params):
    """Parameters without the zeros that a network begins with."""
    return jax.tree.map(lambda p: p + 0.2 * floats(*p.shape), params)


def conditions(*sides):
    return {
        "label": np.array([0, 3]),
        "vector": floats(2, 4),
        "image": floats(2, *sides, 2),
        "level": floats(2),
        "tokens": floats(2, 5, 6),
        "token_mask": np.array([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0]], bool),
    }


ALL = {"classes": 3, "vector": 4, "image": 2, "level": True, "tokens": 6}
NETWORKS = {
    "UNet": lambda rngs: UNet(1, (4, 4), 1, (), 2, **ALL, cross_attention=(1,), dropout=0.2, rngs=rngs),
    "DiT": lambda rngs: DiT(1, 2, 8, 2, 2, **ALL, rngs=rngs),
    "DiT joint": lambda rngs: DiT(1, 2, 8, 2, 2, **ALL, joint=True, rngs=rngs),
}


@functools.cache
def built(name):
    network, params = initialize(jax.random.key(0), NETWORKS[name])
    return jax.jit(network), randomised(params)


@pytest.fixture(params=few_names(NETWORKS, "DiT joint"))
def case(request):
    return *built(request.param), floats(2, 4, 4, 1), conditions(4, 4)


def test_hidden_tokens_change_nothing_and_all_others_do(case):
    """Their content and order not a bit; more of them 1e-6, since another length is another program."""
    network, params, x, cond = case
    out = network(params, x, C_NOISE, cond)
    hidden = ~cond["token_mask"]
    for tokens in (np.where(hidden[..., None], np.nan, cond["tokens"]), cond["tokens"][:, [0, 3, 2, 1, 4]]):
        tokens = np.where(hidden[..., None], tokens, cond["tokens"])
        np.testing.assert_array_equal(network(params, x, C_NOISE, cond | {"tokens": tokens}), out)
    for i in np.argwhere(~hidden):
        tokens = cond["tokens"].copy()
        tokens[*i] += 1
        moved = np.abs(network(params, x, C_NOISE, cond | {"tokens": tokens}) - out).max((1, 2, 3))
        assert moved[1 - i[0]] == 0
        assert moved[i[0]] > 1e-4
    longer = {
        "tokens": np.concatenate([cond["tokens"], floats(2, 3, 6)], 1),
        "token_mask": np.pad(cond["token_mask"], ((0, 0), (0, 3))),
    }
    np.testing.assert_allclose(network(params, x, C_NOISE, cond | longer), out, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_no_tokens_are_those_that_are_all_hidden(case):
    network, params, x, cond = case
    none = cond | {"token_mask": np.zeros((2, 5), bool)}
    empty = cond | {"tokens": cond["tokens"][:, :0], "token_mask": cond["token_mask"][:, :0]}
    out = network(params, x, C_NOISE, none)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(network(params, x, C_NOISE, empty), out, rtol=1e-5, atol=1e-5)


def test_every_part_of_a_condition_reaches_its_own_example_and_no_other(case):
    network, params, x, cond = case
    out = network(params, x, C_NOISE, cond)
    for name, part in cond.items():
        changed = part.copy()
        changed[1] = ~part[1] if part.dtype == bool else part[1] - 1
        moved = np.abs(network(params, x, C_NOISE, cond | {name: changed}) - out).max((1, 2, 3))
        assert moved[0] == 0, name
        assert moved[1] > 1e-4, name


def thicker(leaf, axes):
    """The weights of a network over one axis more: a kernel of `axes` is 0 but in the middle of the new one."""
    kernel = leaf.ndim == axes + 2 and leaf.shape[:axes] == (3,) * axes
    return jnp.pad(leaf[..., None, :, :], [(0, 0)] * axes + [(1, 1), (0, 0), (0, 0)]) if kernel else leaf


@pytest.mark.slow
@pytest.mark.parametrize("fewer", [(1,), (1, 2)], ids=["one", "one and two"])
def test_a_network_of_fewer_axes_is_one_of_more_where_nothing_changes_along_the_others(fewer):
    """A kernel that is 0 but in the middle of an axis keeps an input constant along it, at the edges too."""
    of = lambda axes: initialize(
        jax.random.key(0), lambda rngs: UNet(1, (4, 4), 1, (1,), 2, image=2, space=axes, rngs=rngs)
    )
    network, params = of(1)
    params, x, image = randomised(params), floats(2, 4, 1), floats(2, 4, 2)
    out = jax.jit(network)(params, x, C_NOISE, {"image": image})
    for axes in fewer:
        params = jax.tree.map(lambda leaf, axes=axes: thicker(leaf, axes), params)
        x, image = (np.repeat(a[..., None, :], 2, -2) for a in (x, image))
        more = jax.jit(of(axes + 1)[0])(params, x, C_NOISE, {"image": image})
        np.testing.assert_allclose(more, np.repeat(out[..., None, :], 2, -2), rtol=1e-4, atol=1e-4)
        out = more


@pytest.mark.slow
def test_dropout_leaves_the_mean_of_a_block_and_each_example_its_own_key():
    """The block is linear in what is dropped: its mean over keys is what it is without."""
    block = ResidualBlock(4, 4, 3, dropout=0.3, rngs=nnx.Rngs(0))
    block.conv_out.kernel[...] = floats(3, 3, 4, 4)
    x, embedding, n = floats(1, 2, 2, 4), floats(1, 3), 4000
    every = jax.jit(lambda keys: block([jnp.repeat(x, n, 0)], jnp.repeat(embedding, n, 0), keys))
    keys = jax.random.split(jax.random.key(1), n)
    drawn = np.asarray(every(keys))
    error = drawn.std(0) / np.sqrt(n)
    assert (np.abs(drawn.mean(0) - block([x], embedding)[0]) < 4.5 * error).all()
    np.testing.assert_allclose(block([x], embedding, keys[7:8])[0], drawn[7], rtol=1e-5, atol=1e-5)
    values = np.asarray(dropped(jnp.ones((n, 5)), keys, 0.3))
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.7], rtol=1e-6)
    assert abs((values == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / values.size)


@pytest.mark.slow
def test_blocks_of_a_network_drop_other_values_and_none_without_keys():
    network, params = built("UNet")
    x, cond, keys = floats(2, 4, 4, 1), conditions(4, 4), jax.random.split(jax.random.key(0), 2)
    out, with_keys = network(params, x, C_NOISE, cond), network(params, x, C_NOISE, cond, keys)
    assert (np.abs(with_keys - out).max((1, 2, 3)) > 1e-2).all()
    again = network(params, x, C_NOISE, cond, keys.at[1].set(keys[0]))
    np.testing.assert_array_equal(again[0], with_keys[0])
    assert np.abs(again[1] - with_keys[1]).max() > 1e-2
    blocks = jax.random.split(jax.random.key(3), 1)
    masks = [dropped(jnp.ones((1, 99)), jax.vmap(jax.random.fold_in, (0, None))(blocks, i), 0.5) for i in range(2)]
    assert not np.array_equal(*masks)


def test_an_embedding_that_is_added_at_every_place_is_a_bias_of_the_first_convolution():
    block = ResidualBlock(4, 8, 3, modulation="add", rngs=nnx.Rngs(0))
    block.conv_out.kernel[...] = floats(3, 3, 8, 8)
    x, embedding = floats(1, 4, 6, 4), floats(1, 3)
    run = nnx.jit(lambda block, x, embedding: block([x], embedding))
    out = run(block, x, embedding)
    block.conv_in.bias[...] += block.modulate(embedding)[0] - block.modulate.bias[...]
    np.testing.assert_allclose(run(block, x, 0 * embedding), out, rtol=1e-5, atol=1e-5)


def test_cross_attention_needs_tokens_to_read():
    with pytest.raises(ValueError, match=r"cross_attention = \(0,\), but tokens = 0; give the width of the tokens"):
        UNet(1, (8,), 1, cross_attention=(0,), rngs=nnx.Rngs(0))


def test_a_place_is_told_by_waves_whose_products_depend_on_the_distance_alone():
    for sides in ((7,), (3, 5), (2, 3, 4)):
        p = np.asarray(positions(sides, 26), np.float64)
        places = np.indices(sides).reshape(len(sides), -1).T
        away = places[:, None] - places[None]
        products = p @ p.T
        for gap in np.unique(away.reshape(-1, len(sides)), axis=0):
            np.testing.assert_allclose(np.ptp(products[(away == gap).all(-1)]), 0, atol=1e-5)
        others = products[~np.eye(len(p), dtype=bool)]
        assert others.max() < np.diag(products).min() - 0.1


def test_pooling_that_attends_to_all_alike_is_the_mean():
    pool = AttentionPool(8, 2, 3, rngs=nnx.Rngs(0))
    pool.q.kernel[...] *= 0
    pool.out.kernel[...] = floats(8, 3)
    x = floats(2, 3, 5, 8)
    values = lambda inputs: inputs @ pool.kv.kernel[...][:, 8:]
    mean = x.mean((1, 2)) + 15 / 16 * positions((3, 5), 8).mean(0)  # of 15 places and the mean, which has no place
    np.testing.assert_allclose(
        nnx.jit(lambda pool, x: pool(x))(pool, x), values(mean) @ pool.out.kernel[...], rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_a_classifier_begins_undecided_and_all_of_it_can_learn():
    make = lambda rngs, space: Classifier(2, 3, (4, 4), 1, (1,), 2, space=space, rngs=rngs)
    for sides in ((8,), (2, 2, 4)):
        of = lambda x, n=len(sides): make(nnx.Rngs(0), n)(x, C_NOISE)
        assert jax.eval_shape(of, floats(2, *sides, 2)).shape == (2, 3)
    network, params = initialize(jax.random.key(0), lambda rngs: make(rngs, 2))
    x = floats(2, 4, 6, 2)

    def of(params):
        logits = network(params, x, C_NOISE)
        return jnp.sum(logits**2), (logits, network.features(params, x, C_NOISE))

    squared = jax.jit(jax.value_and_grad(of, has_aux=True))
    assert squared(params)[0][0] == 0
    (_, (logits, read)), gradients = squared(drawn := randomised(params))
    last = drawn["pool"]["out"]
    np.testing.assert_allclose(read @ last["kernel"] + last["bias"], logits, rtol=1e-4, atol=1e-5)
    flat, _ = jax.tree_util.tree_flatten_with_path(gradients)
    assert [jax.tree_util.keystr(path) for path, g in flat if not np.any(np.abs(g) > 0)] == []
