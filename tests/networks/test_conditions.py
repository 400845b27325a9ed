"""The parts of `cond` that a network reads, and all else that it refuses by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import Conditions, NoiseEmbedding, Sinusoidal, initialize

SHAPE = (2, 4, 6, 3)
RNG = np.random.default_rng(0)
floats = lambda *shape: RNG.standard_normal(shape).astype(np.float32)
TAKES = Conditions(classes=5, vector=4, image=3, level=True, tokens=6)
COND = {
    "label": np.array([0, 5]),
    "vector": floats(2, 4),
    "image": floats(2, 4, 6, 3),
    "level": floats(2),
    "tokens": floats(2, 7, 6),
    "token_mask": np.arange(14).reshape(2, 7) % 3 > 0,
}
less = lambda *names: {name: part for name, part in COND.items() if name not in names}


def test_a_dict_is_read_as_it_is_but_for_tokens_that_are_hidden():
    parts = TAKES.read(COND, SHAPE)
    assert parts.keys() == COND.keys()
    for name in ("label", "vector", "image", "level", "token_mask"):
        np.testing.assert_array_equal(parts[name], COND[name])
    seen = COND["token_mask"]
    np.testing.assert_array_equal(parts["tokens"][seen], COND["tokens"][seen])
    assert not parts["tokens"][~seen].any()
    hole = COND | {"tokens": np.where(seen[..., None], COND["tokens"], np.nan)}
    np.testing.assert_array_equal(TAKES.read(hole, SHAPE)["tokens"], parts["tokens"])


def test_without_a_mask_all_tokens_are_read_and_none_need_be():
    assert TAKES.read(less("token_mask"), SHAPE)["token_mask"].all()
    assert not TAKES.read(COND | {"token_mask": np.zeros((2, 7), bool)}, SHAPE)["token_mask"].any()


def test_none_is_no_label_and_no_tokens():
    parts = Conditions(classes=5, tokens=6).read(None, SHAPE)
    np.testing.assert_array_equal(parts["label"], [5, 5])
    assert parts["tokens"].shape == (2, 0, 6)
    assert parts["token_mask"].shape == (2, 0)
    assert Conditions().read(None, SHAPE) == {}


def test_a_label_or_a_vector_alone_may_come_bare_and_a_label_for_all():
    for takes, name in ((Conditions(classes=5), "label"), (Conditions(vector=4), "vector")):
        for cond in (COND[name], {name: COND[name]}):
            np.testing.assert_array_equal(takes.read(cond, SHAPE)[name], COND[name])
    np.testing.assert_array_equal(Conditions(classes=5).read({"label": 3}, SHAPE)["label"], [3, 3])


REFUSED = [  # the whole of cond, its error, and what it says
    (None, TypeError, "cond = None, but the network cannot do without vector; expected a dict of"),
    (less("label"), TypeError, "cond has no label; expected a dict of label: integer labels 0 to 4"),
    (less("level"), TypeError, r"cond has no level; .*level: floats \[batch\], one log-SNR per example"),
    (less("tokens"), TypeError, "cond has no tokens"),
    (COND | {"text": floats(2)}, TypeError, "cond has 'text', which this network does not take; expected a dict of"),
    ([COND["label"], COND["vector"]], TypeError, "cond = .*; expected a dict of label"),
    ((COND["label"],), TypeError, "expected a dict of label"),
    (COND["label"], TypeError, "cond has dtype int64; expected a dict of label"),
]
REFUSED += [  # one part
    ({name: value}, error, message)
    for name, value, error, message in [
        ("label", np.array([0, 6]), ValueError, "label 6 is out of range; expected 0 to 4, or 5"),
        ("label", floats(2), TypeError, r"cond\['label'\] has dtype float32; expected integer labels"),
        ("label", np.zeros((2, 1), int), ValueError, r"cond\['label'\] has shape \(2, 1\); expected a scalar or \[2\]"),
        ("vector", floats(2, 3), ValueError, r"cond\['vector'\] has shape \(2, 3\); expected floats \[batch, 4\]"),
        ("vector", floats(3, 4), ValueError, r"cond\['vector'\] has shape \(3, 4\); expected \[2, 4\]"),
        ("vector", [[0.0] * 4] * 2, TypeError, r"cond\['vector'\] .*; expected floats \[batch, 4\]"),
        ("image", floats(2, 4, 6, 1), ValueError, r"cond\['image'\] .*expected floats \[batch, \*sides of x, 3\]"),
        ("image", floats(2, 2, 3, 3), ValueError, r"cond\['image'\] .*expected \[2, 4, 6, 3\].*of the sides of x"),
        ("image", floats(2, 4, 3), ValueError, r"cond\['image'\] .*expected \[2, 4, 6, 3\]"),
        ("image", np.zeros((2, 4, 6, 3), np.uint8), TypeError, r"cond\['image'\] has dtype uint8; expected floats"),
        ("level", floats(2, 1), ValueError, r"cond\['level'\] has shape \(2, 1\); expected floats \[batch\]"),
        ("level", floats(3), ValueError, r"cond\['level'\] has shape \(3,\); expected \[2\]"),
        ("tokens", floats(2, 6), ValueError, r"cond\['tokens'\] has shape \(2, 6\); expected floats \[batch, length"),
        ("tokens", floats(2, 7, 5), ValueError, r"cond\['tokens'\] has shape \(2, 7, 5\); .* length, 6\]"),
        ("tokens", np.zeros((2, 7), int), TypeError, r"cond\['tokens'\] has dtype int64; expected floats"),
        ("tokens", None, TypeError, r"cond\['tokens'\] = None; expected floats"),
        ("token_mask", np.ones((2, 7)), TypeError, r"cond\['token_mask'\] has dtype float64; expected bool"),
        ("token_mask", np.ones((2, 6), bool), ValueError, r"token_mask'\] has shape \(2, 6\), for tokens of shape"),
        ("token_mask", np.ones(7, bool), ValueError, r"token_mask'\] has shape \(7,\); expected bool \[batch, length"),
    ]
]


@pytest.mark.parametrize(("cond", "error", "message"), REFUSED)
def test_what_a_network_was_not_built_to_take_is_refused_by_name(cond, error, message):
    with pytest.raises(error, match=message):
        TAKES.read(COND | cond if isinstance(cond, dict) and len(cond) == 1 else cond, SHAPE)


def test_a_network_that_takes_nothing_and_one_without_tokens_refuse_them():
    for cond in (COND["label"], {}, less("label")):
        with pytest.raises(ValueError, match="cond was given to a network without classes or other conditions"):
            Conditions().check(cond)
    with pytest.raises(TypeError, match="cond has 'token_mask', which this network does not take"):
        Conditions(classes=5).check({"label": COND["label"], "token_mask": COND["token_mask"]})


@pytest.fixture(scope="module")
def embedding():
    make = lambda rngs: NoiseEmbedding(8, Sinusoidal(4), 5, 4, 3, True, 6, rngs=rngs)
    network, params = initialize(jax.random.key(0), make)
    run = jax.jit(lambda params, cond: network(params, jnp.zeros(SHAPE), 0.3, cond))
    return lambda cond, params=params: run(params, cond), params


def test_every_part_but_an_image_reaches_the_embedding_of_its_own_example(embedding):
    run, _ = embedding
    before = run(COND)
    for name in ("label", "vector", "level", "tokens", "token_mask"):
        changed = np.array(COND[name])
        changed[1] = ~changed[1] if changed.dtype == bool else changed[1] - 1
        moved = np.abs(run(COND | {name: changed}) - before).max(1)
        assert moved[0] == 0, name
        assert moved[1] > 1e-3, name
    np.testing.assert_array_equal(run(COND | {"image": 0 * COND["image"]}), before)


def test_tokens_count_by_the_mean_of_those_that_are_read(embedding):
    run, params = embedding
    none = COND | {"token_mask": np.zeros((2, 7), bool)}
    one = COND | {"token_mask": np.arange(7) == np.array([[3], [5]])}
    alone = less("token_mask") | {"tokens": COND["tokens"][[0, 1], [3, 5]][:, None]}
    np.testing.assert_allclose(run(one), run(alone), rtol=1e-5, atol=1e-6)
    without = params | {"tokens": jax.tree.map(jnp.zeros_like, params["tokens"])}
    np.testing.assert_allclose(run(none), run(COND, without), rtol=1e-5, atol=1e-6)
    order = np.array([4, 2, 0, 6, 1, 3, 5])
    shuffled = {name: COND[name][:, order] for name in ("tokens", "token_mask")}
    np.testing.assert_allclose(run(COND | shuffled), run(COND), rtol=1e-5, atol=1e-6)


def test_a_level_is_read_as_the_noise_level_is(embedding):
    """Alone, and with the weights of the noise level; it may be infinite, which is held as c_noise is."""
    run, params = embedding
    zero = lambda *names: {name: jax.tree.map(jnp.zeros_like, params[name]) for name in names}
    moved = {"level": {name: params[name] for name in ("dense_in", "dense_out")}}
    alone = params | zero("label", "vector", "tokens", "dense_in", "dense_out") | moved
    found = run(COND | {"level": np.array([4.0, np.inf], np.float32)}, alone)
    network, own = initialize(jax.random.key(0), lambda rngs: NoiseEmbedding(8, Sinusoidal(4), rngs=rngs))
    own |= {name: params[name] for name in ("dense_in", "dense_out")}
    np.testing.assert_allclose(found, network(own, jnp.zeros((2, 1)), jnp.array([-0.5, -3.0])), rtol=1e-5, atol=1e-6)
