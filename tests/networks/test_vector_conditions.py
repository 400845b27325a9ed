"""Vectors as conditions of an MLP: what the network makes of them, and p(x | y) of a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.training import train

X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
COND = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)


def network(key=0, **settings):
    made, params = initialize(jax.random.key(key), lambda rngs: MLP(2, (8,), rngs=rngs, **settings))
    params["out"]["kernel"] = jnp.ones_like(params["out"]["kernel"])
    return made, params


@pytest.fixture(scope="module")
def denoiser():
    return jd.Denoiser(*network(vector=4), jd.VP())


def test_without_its_map_it_is_the_network_without_vectors(denoiser):
    params = jax.tree.map(lambda leaf: leaf, denoiser.params)
    params["embed"]["vector"]["map"]["kernel"] = jnp.zeros((4, 8))
    plain = {**params, "embed": {name: part for name, part in params["embed"].items() if name != "vector"}}
    np.testing.assert_array_equal(denoiser.network(params, X, 0.1, COND), network()[0](plain, X, 0.1))


def test_every_number_of_its_vector_and_no_other_reaches_an_example(denoiser):
    slopes = jax.jacobian(lambda cond: denoiser.network(denoiser.params, X, 0.1, cond).sum(-1))(COND)
    own = slopes[np.arange(3), np.arange(3)]
    assert (np.abs(own) > 1e-3).all()
    assert not np.delete(slopes.reshape(9, 4), [0, 4, 8], 0).any()


@pytest.mark.parametrize(
    ("cond", "error", "message"),
    [
        (None, TypeError, r"cond = None, but .* without vector; expected floats \[batch, 4\], one vector per example"),
        (COND[0], ValueError, r"cond has shape \(4,\); expected (floats \[batch, 4\]|one entry each for 3 examples)"),
        (COND[:, :3], ValueError, r"cond has shape \(3, 3\); expected floats \[batch, 4\]"),
        (COND[:2], ValueError, r"expected (one entry each for 3 examples|\[3, 4\])"),
        (COND.astype(int), TypeError, r"cond has dtype int64; expected floats"),
        ({"y": COND}, TypeError, r"expected floats \[batch, 4\]"),
    ],
)
def test_any_other_condition_is_refused(denoiser, cond, error, message):
    for use in (
        lambda: denoiser.network(denoiser.params, X, 0.1, cond),
        lambda: jd.sample(jax.random.key(0), denoiser, (3, 2), cond=cond),
        lambda: jd.log_likelihood(jax.random.key(0), denoiser, X, cond=cond),
    ):
        with pytest.raises(error, match=message):
            use()


def test_a_label_and_a_vector_together_add_what_each_of_them_adds():
    (both, params), labels = network(classes=3, vector=4), np.array([0, 2, 1])
    with_both = lambda label, vector: both(params, X, 0.1, {"label": label, "vector": vector})
    embed = lambda *names: {**params, "embed": {n: p for n, p in params["embed"].items() if n not in names}}
    of_labels, of_vectors = network(classes=3)[0], network(vector=4)[0]
    params["embed"]["label"]["table"]["embedding"] *= np.array([1, 1, 1, 0])[:, None]  # of no label
    np.testing.assert_allclose(with_both(labels, 0 * COND), of_labels(embed("vector"), X, 0.1, labels), rtol=1e-6)
    np.testing.assert_allclose(with_both(3, COND), of_vectors(embed("label"), X, 0.1, COND), rtol=1e-6)


def test_vectors_are_never_dropped(denoiser, tmp_path):
    assert denoiser.no_label() is None
    loss = jd.losses.ConditionDropout(jd.losses.Denoising())
    with pytest.raises(ValueError, match="label for none, but what is dropped is vector; give null"):
        train(jax.random.key(0), tmp_path, denoiser, loss, [{"x": X, "cond": COND}], steps=1)


def test_guidance_away_from_no_vector_is_refused(denoiser):
    with pytest.raises(TypeError, match="which this denoiser does not have .*; leave ClassifierFree out"):
        jd.guidance.ClassifierFree(denoiser, 2.0).check_cond(np.zeros((3, 2), np.float32))


@pytest.mark.slow
def test_samples_and_likelihoods_are_those_of_their_own_vectors(denoiser):
    """Examples in another order are the same in that order."""
    keys, order = jax.random.split(jax.random.key(0), 3), np.array([2, 0, 1])
    drawn = lambda i: jd.sample(keys[i], denoiser, (3, 2), steps=2, cond=COND[i])
    np.testing.assert_allclose(drawn(order), drawn(np.arange(3))[order], rtol=1e-5)
    assert np.abs(jd.sample(keys, denoiser, (3, 2), steps=2, cond=COND[order]) - drawn(np.arange(3))).max() > 1e-3
    flow, trace = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3), jd.likelihood.Exact()
    nats = lambda i: jd.log_likelihood(keys[i], denoiser, X[i], COND[i], flow, trace).log_prob
    np.testing.assert_allclose(nats(order), nats(np.arange(3))[order], rtol=1e-4)


def test_a_batch_has_its_vectors_as_cond_and_other_ones_are_named(denoiser, tmp_path):
    settings = {"steps": 1, "progress": False}
    batch = {"x": X, "cond": COND}
    trained = train(jax.random.key(0), tmp_path / "a", denoiser, jd.losses.Denoising(), [batch], **settings)
    moved = trained.params["embed"]["vector"]["map"]["kernel"] != denoiser.params["embed"]["vector"]["map"]["kernel"]
    assert moved.all()
    for wrong, error in ((COND[:, :2], ValueError), (np.zeros(3, int), TypeError)):
        batch = {"x": X, "cond": wrong}
        with pytest.raises(error, match=r"expected floats \[batch, 4\]"):
            train(jax.random.key(0), tmp_path / "b", denoiser, jd.losses.Denoising(), [batch], **settings)


@pytest.mark.slow
def test_a_trained_table_has_the_conditional_of_its_joint_gaussian(tmp_path):
    """p(x, y | z), (x, y, z) a Gaussian whose columns have scales 1e-3, 1e5 and 1: means, spreads and nats."""
    covariance = np.array([[1.0, 0.3, 0.6], [0.3, 1.0, -0.4], [0.6, -0.4, 1.0]])
    mean, units = np.array([5.0, -3e5, 2.0]), np.array([1e-3, 1e5, 1.0])
    rows = mean + units * np.random.default_rng(2).multivariate_normal(np.zeros(3), covariance, 20_000)
    jd.data.write_rows(tmp_path / "rows.csv", ("x", "y", "z"), rows)
    table = jd.data.Table(tmp_path / "rows.csv", "train", condition=("z",))
    held_out = jd.data.Table(tmp_path / "rows.csv", "test", condition=("z",)).values[:500]
    columns = table.columns
    made = initialize(jax.random.key(0), lambda rngs: MLP(2, (64, 64), vector=1, rngs=rngs))
    denoiser = jd.Denoiser(*made, jd.VP(), data_std=1.0)
    batches = jd.data.batches(table.examples, 256, 0)
    trained = train(
        jax.random.key(1), tmp_path / "run", denoiser, jd.losses.Denoising(), batches, steps=4000, progress=False
    )

    slope, rest = covariance[:2, 2], covariance[:2, :2] - np.outer(covariance[:2, 2], covariance[:2, 2])
    truth = jd.exact.Gaussian(jd.VP(), np.zeros(2), rest)
    z = (held_out - mean) / units
    expected = np.asarray(truth.log_prob(z[:, :2] - z[:, 2:] * slope)) - np.log(units[:2]).sum()
    x, cond = columns.standardised(held_out)
    flow, trace = jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4), jd.likelihood.Exact()
    nats = jd.log_likelihood(jax.random.key(2), trained, x, cond, flow, trace).log_prob - columns.log_scale
    # 40 weights' worth of error in 18,000 rows costs 1e-3 nats; a model that is not told z is 0.65 nats below
    assert abs(np.mean(nats - expected)) < 0.03

    for value in (0.5, 3.0):
        cond = np.tile(columns.conditions({"z": value}), (4000, 1))
        drawn = columns.restored(jd.sample(jax.random.key(3), trained, (4000, 2), cond=cond))
        spread = units[:2] * np.sqrt(np.diag(rest))
        away = (drawn.mean(0) - mean[:2] - units[:2] * slope * (value - 2.0)) / spread
        np.testing.assert_allclose(away, 0, atol=4 / np.sqrt(4000) + 0.03)
        np.testing.assert_allclose(drawn.std(0) / spread, 1, atol=4 / np.sqrt(8000) + 0.03)
