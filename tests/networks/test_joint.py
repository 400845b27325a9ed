"""The transformer of a joint model: its tokens, what it is told of noise, and what it learns of a known pair."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from pairs import MEANS, PROCESS, STD, WEIGHTS, data, joint

import jaxdiff as jd
from jaxdiff.losses import Denoising, times
from jaxdiff.networks import Cast, Categories, Joint, Numbers, Patches, initialize
from jaxdiff.networks.functional import shapes

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
ENDS = {"image": Patches(1), "row": Numbers(3), "text": Categories(5), "label": Categories(10, noise=False)}
X = {
    "image": RNG.standard_normal((3, 4, 6, 1)).astype(np.float32),
    "row": RNG.standard_normal((3, 3)).astype(np.float32),
    "text": np.array([[0, 5, 1, 2], [4, 4, 0, 3], [5, 5, 5, 5]]),
    "label": np.array([0, 10, 3]),
}
LEVELS = {name: np.array([-1.0, 0.0, 2.0], np.float32) for name in ENDS}


def small(rngs, ends=ENDS, **options):
    return Joint(ends, **{"width": 8, "depth": 1, "heads": 2, **options}, rngs=rngs)


@pytest.fixture(scope="module")
def model():
    """(run, initial parameters, the same moved): run(params, x, levels) is compiled once."""
    network, params = initialize(KEY, small)
    moved = jax.tree.map(lambda p: p + 0.3 * RNG.standard_normal(p.shape).astype(np.float32), params)
    return jax.jit(lambda params, x, levels: network(params, x, levels, None)), params, moved


def farthest(one, other):
    return {name: float(np.abs(np.asarray(one[name]) - other[name]).max()) for name in ENDS}


def test_every_part_begins_at_zero_in_the_shape_of_its_output(model):
    run, params, _ = model
    out = run(params, X, LEVELS)
    shapes = {"image": (3, 4, 6, 1), "row": (3, 3), "text": (3, 4, 5), "label": (3, 10)}
    assert {name: leaf.shape for name, leaf in out.items()} == shapes
    assert all((leaf == 0).all() for leaf in out.values())


def test_categories_begin_as_large_as_numbers():
    """Both of unit variance, of 51 x 64 and 1,000 x 64 numbers."""
    rngs = nnx.Rngs(0)
    of_category = Categories(50).reader(64, rngs)(jnp.arange(51))
    of_number = Numbers(4).reader(64, rngs)(jnp.asarray(RNG.standard_normal((1000, 4)), jnp.float32))
    assert float(of_category.std()) == pytest.approx(1, abs=0.1)
    assert float(of_number.std()) == pytest.approx(1, abs=0.2)  # of 4 x 64 weights


def test_a_block_begins_as_the_identity_so_that_no_part_reads_another(model):
    run, params, moved = model
    params = params | {"writers": moved["writers"]}
    far = farthest(run(params, X, LEVELS), run(params, X | {"row": X["row"] + 1}, LEVELS))
    assert far.pop("row") > 0.01
    assert set(far.values()) == {0.0}


def test_every_part_reads_every_part_and_the_levels_of_those_that_are_told(model):
    run, _, params = model
    out = run(params, X, LEVELS)
    changed = {name: X[name] + 1 for name in ("image", "row")}
    changed |= {"text": (X["text"] + 1) % 6, "label": (X["label"] + 1) % 11}
    for name in ENDS:
        assert min(farthest(out, run(params, X | {name: changed[name]}, LEVELS)).values()) > 1e-4, name
        told = farthest(out, run(params, X, LEVELS | {name: LEVELS[name] + 0.5}))
        assert {far > 1e-4 for far in told.values()} == {name != "label"}, name
    alone = run(params, *jax.tree.map(lambda leaf: leaf[[0, 1, 1]], (X, LEVELS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-5), out, alone)
    beyond = run(params, X | {"label": np.array([0, 11, 3])}, LEVELS)
    assert [bool(np.isnan(beyond["row"][i]).any()) for i in range(3)] == [False, True, False]


def test_the_order_of_the_ends_means_nothing():
    structure = lambda ends: nnx.split(nnx.eval_shape(lambda: small(nnx.Rngs(0), ends)))[0]
    assert structure(dict(reversed(ENDS.items()))) == structure(ENDS)


@pytest.mark.slow
def test_remat_changes_no_number(model):
    _, _, params = model
    networks = [initialize(KEY, functools.partial(small, remat=remat))[0] for remat in (False, True)]
    mean = lambda network: jax.jit(jax.grad(lambda p: sum(map(jnp.mean, network(p, X, LEVELS, None).values()))))
    ours, theirs = (mean(network)(params) for network in networks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


PARTS = {"image": jd.VP(), "row": jd.Flow(), "text": jd.Absorbing(5), "label": jd.Absorbing(10)}


def test_it_is_the_network_of_a_denoiser_of_a_product_with_parts_given():
    network, params = shapes(KEY, small)
    shape = {"row": (3, 3), "text": (3, 4)}
    each = jd.samplers.Each({"row": jd.samplers.DDIM(), "text": jd.samplers.Ancestral()})

    def draw(params, cond, of=("image", "label")):
        joint = jd.Denoiser(network, params, jd.Product(PARTS))
        given = jd.Given(joint, of, event={"image": (4, 6, 1), "label": ()}) if of else joint
        return jd.sample(KEY, given, shape, each, 2, cond=cond)

    cond = {"image": X["image"], "label": np.array([0, 1, 3])}
    assert jax.tree.map(jnp.shape, jax.eval_shape(draw, params, cond)) == shape
    with pytest.raises(ValueError, match="cond was given to a network without classes or other conditions"):
        network.check_cond(params, cond)


@pytest.mark.parametrize("names", [tuple(ENDS), ("text", "label")], ids=["numbers", "tokens alone"])
def test_in_bfloat16_what_comes_out_has_the_dtype_of_the_numbers_in_x(names):
    parts = lambda tree: {name: tree[name] for name in names}
    (network, params), seen = shapes(KEY, lambda rngs: small(rngs, parts(ENDS))), []
    watched = lambda params, x, *inputs: seen.extend([*jax.tree.leaves((params, x))]) or network(params, x, *inputs)
    out = jax.eval_shape(Cast(watched, jnp.bfloat16), params, parts(X), parts(LEVELS), None)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(out)} == {"float32" if "row" in names else "bfloat16"}
    assert {leaf.dtype.name for leaf in seen} == {"bfloat16", "int32"}


REFUSED = {
    "a part is missing": ({"x": {"row": X["row"]}}, ValueError, "x = .*expected a dictionary of image, label, row"),
    "no dictionary": ({"x": X["row"]}, ValueError, "expected a dictionary of image, label, row, text"),
    "one level for all": ({"c_noise": 0.0}, ValueError, "c_noise = .*; expected a dictionary of image"),
    "levels of two": ({"c_noise": LEVELS | {"row": np.zeros(2)}}, ValueError, r"c_noise\['row'\] has shape \(2,\)"),
    "patches": ({"x": X | {"image": np.zeros((3, 4, 5, 1))}}, ValueError, "cannot be cut into patches"),
    "a row": ({"x": X | {"row": np.zeros((3, 2))}}, ValueError, r"x\['row'\] has shape \(3, 2\); expected \[batch, 3"),
    "floats": ({"x": X | {"text": np.zeros((3, 4))}}, TypeError, r"x\['text'\] has dtype float.*integer categories"),
}


@pytest.mark.parametrize(("given", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_none_of_its_parts_is_refused_by_name(given, error, message):
    network, params = shapes(KEY, small)
    with pytest.raises(error, match=message):
        jax.eval_shape(network, params, *({"x": X, "c_noise": LEVELS} | given).values(), None)


def test_each_part_is_given_hidden_or_at_the_one_time_of_its_example():
    """Given by u with probability ∫ u du = 1/2, two parts together ∫ u² du = 1/3, and hidden .25 of what is left."""
    n, process = 4000, jd.Product({"a": jd.VP(), "b": jd.Absorbing(3), "c": jd.Flow()})
    t, factor = times.Subsets(times.Uniform(0.1), hidden=0.25)(KEY, process, n)
    t, factor = (np.stack([tree[name] for name in "abc"]) for tree in (t, factor))
    given, hidden = t == 0, t == 1
    np.testing.assert_array_equal(factor, np.where(given, 0.0, 1.0))
    between = np.where(given | hidden, np.nan, t)
    assert np.nanmin(between) >= 0.1
    same = np.nanmax(between, 0, initial=-1) == np.nanmin(between, 0, initial=2)
    assert same[(~np.isnan(between)).any(0)].all()
    found = [given[0].mean(), (given[0] & given[1]).mean(), given.all(0).mean(), hidden[2].mean()]
    for value, p in zip(found, [1 / 2, 1 / 3, 1 / 4, 1 / 8], strict=True):
        assert abs(value - p) < 4 * np.sqrt(p * (1 - p) / n), (value, p)


@pytest.mark.slow
def test_nothing_is_paid_for_what_is_given_and_only_a_product_has_parts():
    """Of a pair that all know: both are noised of 1/3 of the examples, the label alone is given of 1/6, and the number
    alone of 1/6, where the cross-entropy is that of the label of a number, times rate and share of the masks, 1."""
    n, pairs = 4000, data(4000)
    likelihood = jd.losses.weightings.Likelihood()
    fixed = lambda a, b: {"number": times.Fixed(a), "label": times.Fixed(b)}
    laws = times.Subsets(times.Fixed(0.4), 0.0), fixed(0.4, 0.4), fixed(0.4, 0.0)
    run = jax.jit(lambda: [Denoising(likelihood, law)(joint(), KEY, pairs) for law in laws])
    ours, both, number = np.asarray(run(), np.float64)
    z = (pairs["number"][:, None] - MEANS) / STD
    density = WEIGHTS * np.prod(np.exp(-(z**2) / 2) / STD, -1)
    label = -np.log((density / density.sum(1, keepdims=True))[np.arange(n), pairs["label"]]) / 3
    error = math.sqrt(sum(part.var() for part in (ours, both, number, label)) / n)
    assert abs(ours.mean() - both.mean() / 3 - number.mean() / 6 - label.mean() / 6) < 4 * error
    with pytest.raises(ValueError, match="Subsets draws the times of the parts of a product, not of VP"):
        Denoising(times=times.Subsets())(jd.Given(joint(), "label"), KEY, pairs["number"], pairs["label"])


@pytest.mark.slow
def test_trained_on_a_known_pair_it_gives_either_part_of_the_other():
    """Beside the closed form: the label of a number, the mean of a noised number with its label and without."""
    ends = {"number": Numbers(2), "label": Categories(3, noise=False)}
    network, params = initialize(KEY, lambda rngs: Joint(ends, width=32, depth=2, heads=2, rngs=rngs))
    loss, examples = Denoising(times=times.Subsets()), data(20_000)
    steps, size = 2000, 128
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    @jax.jit
    def trained(params):
        def step(carry, key):
            params, state = carry
            index = jax.random.randint(jax.random.fold_in(key, 1), (size,), 0, 20_000)
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], examples)
            mean = lambda p: loss(jd.Denoiser(network, p, PROCESS), key, batch).mean()
            gradient = jax.grad(mean)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(KEY, steps))[0][0]

    ours, right = jd.Denoiser(network, trained(params), PROCESS), joint()
    test = data(2000)
    number, label, hidden = test["number"], test["label"], np.full(2000, 3)
    p = lambda model: np.exp(jd.Given(model, "number")(hidden, 1.0, number).log_probabilities())
    z = (number[:, None] - MEANS) / STD
    density = WEIGHTS * np.prod(np.exp(-(z**2) / 2) / STD, -1)
    assert np.abs(p(ours) - density / density.sum(1, keepdims=True)).mean() < 0.03
    for t in (0.05, 0.2):  # later what is guessed hardly differs from its mean
        x = np.asarray(jd.perturb(KEY, jd.VP(), number, t)[0])
        for cond in (label, None):
            found, expected = (jd.Given(model, "label")(x, t, cond).data for model in (ours, right))
            away = float(np.sqrt(np.mean((found - expected) ** 2)))
            spread = float(np.std(expected))
            assert away < 0.15 * spread, (t, cond is None, away, spread)
