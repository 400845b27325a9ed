"""Keys for dropout inside of networks: every loss hands them out, and nothing else does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from flax import nnx

import jaxdiff as jd
from jaxdiff.denoisers import with_key
from jaxdiff.losses import couplings, times, weightings
from jaxdiff.networks import Cast, initialize

N, D, RATE, SLOPE = 20_000, 2, 0.4, 0.7


class Dropped:
    """out = slope x, of which an example keeps all or nothing under its key; `copy` and `plain` as it is behind it."""

    def __init__(self, copies=0, pair=False):
        self.copies, self.pair = copies, pair

    def takes_key(self, params):
        return True

    def __call__(self, params, x, c_noise, cond, keys=None):
        kept = jnp.ones(len(x))
        if keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - RATE))(keys) / (1 - RATE)
        out = kept[:, None] * params["slope"] * x
        return (out, 0 * x) if self.pair else jnp.concatenate([out] + [0 * x] * self.copies, axis=-1)


PARAMS = {"slope": jnp.array(SLOPE)}
PLAIN = jd.Denoiser(Dropped(), PARAMS, jd.VP(), data_std=1.0)
NOISE = jd.Denoiser(Dropped(), PARAMS, jd.VP(), "noise", data_std=1.0)
AWAY = times.Uniform(0.01)  # from where a score is infinite
ROWS = {
    "Denoising": (jd.losses.Denoising(), PLAIN),
    "FlowMatching": (jd.losses.FlowMatching(), jd.Denoiser(Dropped(), PARAMS, jd.Flow(), "velocity", data_std=1.0)),
    "Hybrid": (jd.losses.Hybrid(0.0, 10), jd.Denoiser(Dropped(1), PARAMS, jd.VP(), None, 1.0, True)),
    "ScoreMatching": (jd.losses.ScoreMatching(AWAY), NOISE),
    "SlicedScoreMatching": (jd.losses.SlicedScoreMatching(AWAY), NOISE),
    "BridgeMatching": (
        jd.losses.BridgeMatching(couplings.Independent()),
        jd.Bridge(Dropped(pair=True), PARAMS, data_std=1.0),
    ),
    "LeastVariance": (
        jd.losses.LeastVariance(jd.losses.Denoising(weightings.Simple())),
        jd.denoisers.WithProcess(jd.Denoiser(Dropped(), PARAMS, jd.LearnedVP(), data_std=1.0)),
    ),
}


def test_the_table_has_every_loss():
    others = {"Loss", "ConditionDropout", "Classification"}  # a protocol, a wrapper of these, and no loss of denoisers
    others |= {"Bound", "Steps", "AnyOrder", "Sum"}  # of any process, and tried on its own: test_bound.py
    assert {*ROWS} == {name for name in jd.losses.__all__ if name[0].isupper()} - others


@pytest.mark.parametrize("name", few_names(ROWS, "Denoising"))
def test_dropout_adds_its_variance_to_every_loss(name):
    """The error of slope m x, E m = 1, is that of slope x and slope² Var m |x|²; the network's x has unit variance."""
    loss, denoiser = ROWS[name]
    x0 = jax.random.normal(jax.random.key(1), (N, D))
    key = jax.random.key(2)
    without = jax.jit(lambda key, x0: loss(denoiser_without_keys(denoiser), key, x0))(key, x0)
    added = np.asarray(jax.jit(loss)(denoiser, key, x0) - without)
    expected = SLOPE**2 * RATE / (1 - RATE)
    assert abs(added.mean() - expected) < 4 * added.std() / np.sqrt(N)
    assert added.std() / np.sqrt(N) < expected / 20


def denoiser_without_keys(denoiser):
    whole = lambda network: lambda params, x, c_noise, cond: network(params, x, c_noise, cond)
    change = lambda part: jd.arrays.rebuilt(part, network=whole(part.network)) if hasattr(part, "network") else None
    return jd.arrays.replaced(denoiser, change)


def test_samples_and_likelihoods_hand_out_no_keys():
    """By tracing alone: the network is called, and never by five arguments."""
    seen = []

    def network(params, x, c_noise, cond, *keys):
        seen.append(len(keys))
        return params["slope"] * x

    network.takes_key = lambda params: True
    denoiser, key, x = jd.Denoiser(network, PARAMS, jd.VP()), jax.random.key(0), jnp.ones((4, D))
    jax.eval_shape(lambda: jd.sample(key, denoiser, (4, D), steps=3))
    jax.eval_shape(lambda: jd.log_likelihood(key, denoiser, x).log_prob)
    jax.eval_shape(lambda: jd.score(denoiser, x, 0.5))
    assert {*seen} == {0}
    jax.eval_shape(lambda: jd.losses.Denoising()(denoiser, key, x))
    assert seen[-1] == 1


class Module(nnx.Module):
    """Which key an example has, as the numbers that it answers with."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def takes_key(self):
        return True

    def __call__(self, x, c_noise, cond=None, keys=None):
        drawn = jnp.zeros(x.shape) if keys is None else jax.vmap(lambda key: jax.random.normal(key, (D,)))(keys)
        return self.scale[...] * drawn


def test_keys_go_through_what_is_around_a_network():
    """Each example has one of its own, the same through a cast, a wrapper and the gradient of a potential."""
    network, params = initialize(jax.random.key(0), lambda rngs: Module(rngs))
    denoiser = with_key(jd.Denoiser(network, params, jd.VP(), "data"), jax.random.key(5))
    x = jnp.ones((3, D))
    drawn = denoiser(x, 0.5).data
    assert len(np.unique(drawn)) == 3 * D
    wrapped = jd.OnProcess(jd.Denoiser(Cast(network, jnp.float32), params, jd.VP(), "data"), jd.VP())
    np.testing.assert_allclose(with_key(wrapped, jax.random.key(5))(x, 0.5).data, drawn, rtol=1e-6)
    potential = jd.denoisers.Gradient(jd.denoisers.InnerProduct(network))  # <x, out>, out free of x
    energy = with_key(jd.Denoiser(potential, params, jd.VP(), "data"), jax.random.key(5))
    np.testing.assert_allclose(energy(x, 0.5).data, drawn, rtol=1e-6)


def test_a_key_that_nothing_takes_is_refused():
    network = lambda params, x, c_noise, cond: x
    with pytest.raises(ValueError, match="the network takes no key"):
        jd.Denoiser(network, None, jd.VP(), key=jax.random.key(0))
    with pytest.raises(ValueError, match="the network takes no key"):
        jd.Bridge(network, None, key=jax.random.key(0))
    with pytest.raises(TypeError, match="no typed key|not a typed key"):
        jd.Denoiser(Dropped(), PARAMS, jd.VP(), key=3)
    assert with_key(jd.Denoiser(network, None, jd.VP()), jax.random.key(0)).key is None
