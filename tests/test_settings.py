"""Settings given one an example: along the batch, whatever the event's size, or refused with the way that works.

Every size is three: three examples, events of three values or three channels. What is broadcast along the event then
raises nothing, and is wrong. The truth is a loop over the examples.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few, few_names
from tables import GUIDANCE, KINDS, LOSSES, given

import jaxdiff as jd
from jaxdiff.arrays import rebuilt
from jaxdiff.denoisers import guidance
from jaxdiff.samplers import DDIM, ProbabilityFlow, ReverseSDE

KEYS = jax.random.split(jax.random.key(0), 3)
POINTS = jax.random.normal(jax.random.key(1), (3, 3))
IMAGES = jax.random.normal(jax.random.key(2), (3, 2, 2, 3))
COND = np.array([0, 1, 1])
ONE, TWO, FEW = np.array([0.5, 1.0, 3.0]), np.array([0.2, 0.9, 0.5]), np.array([0.4, 1.2, 1.5])
FACTORS = np.array([0.5, 1.0, 1.6])


def network(params, x, c_noise, cond):
    shift = 0.0 if cond is None else cond.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.tanh(params * x + shift) * jnp.arange(1.0, 4.0)


def scaled(thing, factor):
    """`thing` with its own numbers times `factor`, and those of what it is set to; a grid is one for the batch."""
    changed = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, float):
            changed[field.name] = value * factor
        elif dataclasses.is_dataclass(value) and field.name not in ("denoiser", "weak", "grid"):
            changed[field.name] = scaled(value, factor)
    return rebuilt(thing, **changed)


def models(factor):
    """Denoisers whose every setting is times `factor`: a number, or one an example."""
    plain = jd.Denoiser(network, 0.3, jd.VP())
    bridge = jd.Bridge(lambda *inputs: (network(*inputs), -network(*inputs)), 0.4, sigma=1.5, data_std=0.8)
    bridge = dataclasses.replace(bridge, sigma=1.5 * factor, data_std=0.8 * factor)
    return {
        "data_std": jd.Denoiser(network, 0.7, jd.VP(), data_std=0.8 * factor),
        **{name: scaled(guide(denoiser=plain), factor) for name, guide in GUIDANCE.items()},
        "Bridge": bridge,
        "Swapped": jd.denoisers.Swapped(bridge),
        "ToData": jd.denoisers.ToData(bridge),
    }


ALL, EACH = models(FACTORS), [models(factor) for factor in FACTORS]


LIKE = {"ClassifierFree within an Interval", "ClassifierFreePP under a null", "StepClassifier", "TweedieClassifier"}
LIKE |= {"Observed by Isotropic", "Observed by Proximal", "Swapped", "ToData"}  # of which others have the like
ask = jax.jit(lambda model, x, t, cond: model(x, t, cond))


@pytest.mark.parametrize("x", few({"points": POINTS, "images": IMAGES}, "images"))
@pytest.mark.parametrize("name", few_names(ALL, *(ALL.keys() - LIKE)))
def test_a_denoiser_of_settings_one_an_example_is_a_loop_over_them(name, x):
    t = np.array([0.2, 0.4, 0.7])
    together = ask(ALL[name], x, t, COND)
    for i, each in enumerate(EACH):
        alone = ask(each[name], x[i : i + 1], t[i], COND[i : i + 1])
        np.testing.assert_allclose(together.data[i : i + 1], alone.data, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together.noise[i : i + 1], alone.noise, rtol=1e-5, atol=1e-6)


def composed(one, two, few):
    model = jd.Denoiser(network, 0.7, jd.VP(), data_std=one)
    guided = guidance.ClassifierFree(model, guidance.Interval(one, two, 10 * few))
    return guidance.DynamicThreshold(guided, two, few)


DRAWN = sorted(KINDS.keys() - {"ProbabilityFlow", "ReverseSDE"})


@pytest.mark.parametrize("name", few_names(DRAWN, "DDIM"))
def test_samples_of_settings_one_an_example_are_a_loop_over_them(name):
    sampler = KINDS[name]
    draw = lambda keys, model, cond: jd.sample(
        keys, model, (len(keys), 3), sampler, 3, given(sampler, (len(keys), 3), cond), t_start=0.9
    )
    together = draw(KEYS, composed(ONE, TWO, FEW), COND)
    for i in range(3):
        one = composed(*(jnp.asarray(setting[i : i + 1]) for setting in (ONE, TWO, FEW)))
        alone = draw(KEYS[i : i + 1], one, COND[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "run",
    [
        lambda model: jd.sample(KEYS, model, (3, 3), ProbabilityFlow(), 2, COND),
        lambda model: jd.sample(KEYS, model, (3, 3), ReverseSDE(), 2, COND),
        lambda model: jd.encode(model, POINTS, COND),
        lambda model: jd.decode(model, POINTS, COND),
        lambda model: jd.log_likelihood(KEYS, model, POINTS, cond=COND),
        lambda model: jd.samplers.draw(KEYS[0], model, (6, 3), 3, np.tile(COND, 2)),
        lambda model: jd.bits_per_dim(KEYS[0], model, np.zeros((6, 3), np.uint8), batch_size=3, cond=np.tile(COND, 2)),
        lambda model: jd.continuous_bound(KEYS[0], model, np.zeros((6, 3), np.uint8), 1, batch_size=3, cond=0),
    ],
    ids=["ProbabilityFlow", "ReverseSDE", "encode", "decode", "log_likelihood", "draw", "bits_per_dim", "bound"],
)
def test_what_takes_examples_one_by_one_or_in_batches_refuses_settings_one_an_example(run):
    for model in (ALL["ClassifierFree"], ALL["ClassifierFree within an Interval"]):
        with pytest.raises(ValueError, match=r"scale.* has shape \(3,\).*jax.vmap over keys, examples and numbers"):
            run(model)


def test_samplers_and_processes_of_numbers_one_an_example_run_under_vmap():
    def one(key, eta, beta_max):
        denoiser = jd.Denoiser(network, 0.7, jd.VP(0.1, beta_max))
        return jd.sample(key[None], denoiser, (1, 3), DDIM(eta), 3)[0]

    etas, betas = jnp.array([0.0, 0.5, 1.0]), jnp.array([15.0, 20.0, 25.0])
    together = jax.vmap(one)(KEYS, etas, betas)
    for i in range(3):
        np.testing.assert_allclose(together[i], one(KEYS[i], etas[i], betas[i]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"sampler.eta has shape \(3,\); expected one number.*jax.vmap"):
        jd.sample(KEYS, EACH[0]["data_std"], (3, 3), DDIM(etas))
    with pytest.raises(ValueError, match=r"process.beta_max has shape \(3,\); expected one number.*jax.vmap"):
        jd.sample(KEYS, dataclasses.replace(EACH[0]["data_std"], process=jd.VP(0.1, betas)), (3, 3))


def test_chains_of_step_sizes_of_their_own_are_a_loop_over_them():
    score = lambda x: -x
    together = jd.samplers.langevin(KEYS, score, POINTS, ONE / 3, 4)
    for i in range(3):
        alone = jd.samplers.langevin(KEYS, score, POINTS, ONE[i] / 3, 4)
        np.testing.assert_allclose(together[i], alone[i], rtol=1e-6)


def losses(factor):
    """Losses whose every number is times `factor`, with the model that each trains."""
    model = jd.Denoiser(network, 0.7, jd.VP(), "edm", data_std=0.8 * factor)
    learned = jd.Denoiser(lambda p, x, c, y: jnp.concatenate([p * x, x], -1), 0.7, jd.VP(), learned_variance=True)
    both = jd.denoisers.WithProcess(jd.Denoiser(network, 0.7, jd.LearnedVP()))
    trained = {"numbers": model, "variance": learned, "bridge": models(factor)["Bridge"], "process": both}
    return {name: (scaled(row.loss, factor), trained[row.of]) for name, row in LOSSES.items() if not row.shared}


@pytest.mark.parametrize("name", losses(1.0))
def test_a_loss_of_numbers_one_an_example_is_that_of_each_number(name):
    key = jax.random.key(3)
    loss, model = losses(FACTORS)[name]
    together = loss(model, key, IMAGES)
    for i in range(3):
        loss, model = losses(FACTORS[i])[name]
        np.testing.assert_allclose(together[i], loss(model, key, IMAGES)[i], rtol=1e-5)
