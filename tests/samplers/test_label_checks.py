"""One rule for labels: one that does not exist is refused where it can be read, NaN where it cannot, never another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import within

import jaxdiff as jd
from jaxdiff.networks import MLP, Cast, Gradient, InnerProduct, initialize

KEY = jax.random.key(0)
X = jnp.zeros((2, 2))
IMAGES = np.zeros((2, 2), np.uint8)
MIXTURE = jd.exact.Mixture(jd.VP(), np.ones(3) / 3, np.eye(3, 2), np.stack([np.eye(2)] * 3))


def mlp(classes):
    return initialize(KEY, lambda rngs: MLP(2, hidden=(4,), classes=classes, rngs=rngs))


def wrapped(denoiser):
    """A denoiser by itself and in everything that hands its cond on."""
    guidance = jd.guidance
    climb = lambda x, *_: x.sum(1)
    return {
        "itself": denoiser,
        "free": guidance.ClassifierFree(denoiser, 2.0),
        "free++": guidance.ClassifierFreePP(denoiser, 0.5),
        "auto": guidance.Auto(denoiser, denoiser, 2.0),
        "weak": guidance.Auto(jd.Denoiser(lambda params, x, c, cond: x, None, jd.VP()), denoiser, 2.0),
        "classifier": guidance.Classifier(denoiser, climb, conditional=True),
        "tweedie": guidance.TweedieClassifier(denoiser, climb, conditional=True),
        "threshold": guidance.DynamicThreshold(denoiser),
        "process": jd.OnProcess(denoiser, jd.Flow()),
    }


ENTRIES = {
    "sample": lambda d, cond: jd.sample(KEY, d, (2, 2), steps=2, cond=cond),
    "draw": lambda d, cond: jd.samplers.draw(KEY, d, (2, 2), cond=cond, steps=2),
    "invert": lambda d, cond: jd.invert(d, X, steps=2, cond=cond),
    "encode": lambda d, cond: jd.encode(d, X, cond, flow=within(1e-2)),
    "decode": lambda d, cond: jd.decode(d, X, cond, flow=within(1e-2)),
    "log_likelihood": lambda d, cond: jd.log_likelihood(KEY, d, X, flow=within(1e-2), cond=cond).log_prob,
    "bits_per_dim": lambda d, cond: jd.bits_per_dim(KEY, d, IMAGES, budget=0, cond=cond),
    "variational_bound": lambda d, cond: jd.variational_bound(KEY, d, IMAGES, steps=2, cond=cond),
    "continuous_bound": lambda d, cond: jd.continuous_bound(KEY, d, IMAGES, draws=2, cond=cond),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("label", [-1, 3, 2**32 + 1])
def test_a_label_that_does_not_exist_is_refused_by_every_entry(entry, label):
    with pytest.raises(ValueError, match=f"label {label} is out of range; expected 0 to 2"):
        ENTRIES[entry](MIXTURE, np.array([0, label]))


@pytest.mark.parametrize("name", wrapped(MIXTURE))
def test_every_wrapper_hands_the_label_to_the_check(name):
    with pytest.raises(ValueError, match="label 3 is out of range; expected 0 to 2"):
        ENTRIES["sample"](wrapped(MIXTURE)[name], np.array([0, 3]))


def test_every_network_knows_its_labels():
    network, params = mlp(3)
    for kind in (network, Cast(network, jnp.bfloat16), Gradient(InnerProduct(network))):
        denoiser = jd.Denoiser(kind, params, jd.VP())
        for label in (-1, 4):
            with pytest.raises(ValueError, match=f"label {label} is out of range; expected 0 to 2, or 3"):
                ENTRIES["sample"](denoiser, np.array([0, label]))
    pair = lambda params, *inputs: (network(params, *inputs),) * 2
    pair = type("Pair", (), {"__call__": staticmethod(pair), "check_cond": staticmethod(network.check_cond)})()
    bridge = jd.Bridge(pair, params)
    for to in ("data", "source"):
        with pytest.raises(ValueError, match="label 4 is out of range"):
            jd.cross(KEY, bridge, X, to, steps=2, cond=np.array([0, 4]))
    with pytest.raises(ValueError, match="label 4 is out of range"):
        jd.encode(bridge, X, np.array([0, 4]))


@pytest.mark.slow
def test_under_a_trace_it_is_nan_and_its_neighbours_are_not():
    network, params = mlp(3)
    for denoiser in (MIXTURE, jd.Denoiser(network, params, jd.VP())):
        drawn = jax.jit(lambda cond, denoiser=denoiser: jd.sample(KEY, denoiser, (3, 2), steps=2, cond=cond))
        x = drawn(np.array([1, -1, 5]))
        assert np.isfinite(x[0]).all()
        assert np.isnan(x[1:]).all()


def test_a_model_without_labels_refuses_them_before_it_is_traced():
    network, params = mlp(0)
    for denoiser in (jd.Denoiser(network, params, jd.VP()), jd.exact.Empirical(jd.VP(), jnp.eye(2))):
        for entry in ("sample", "log_likelihood", "bits_per_dim"):
            with pytest.raises(ValueError, match="cond was given to .* without classes|which has no classes"):
                ENTRIES[entry](denoiser, np.array([0, 1]))


UNLEARNED = r"cond = None, but .* never dropped in training .*unconditional prediction was not learned\. Give cond"


@pytest.mark.slow
def test_a_model_that_saw_labels_alone_warns_where_it_is_asked_without():
    network, params = mlp(3)
    model = jd.Denoiser(network, params, jd.VP(), condition_dropout=0)
    climb = lambda x, *_: x.sum(1)
    loss = jd.losses.Denoising()
    for ask in (
        ENTRIES["sample"],
        lambda d, cond: ENTRIES["sample"](jd.OnProcess(d, jd.Flow()), cond),
        lambda d, cond: ENTRIES["sample"](jd.guidance.Classifier(d, climb), 0),
        lambda d, cond: loss(d, KEY, X, cond),
    ):
        with pytest.warns(UserWarning, match=UNLEARNED):
            ask(model, None)
    for share in (0.1, None):
        dataclasses.replace(model, condition_dropout=share).check_cond(None)
    ENTRIES["sample"](model, 1)
    with pytest.warns(UserWarning, match="guidance away from it is arbitrary"):
        guided = jd.guidance.ClassifierFree(model, 2.0)
    ENTRIES["sample"](guided, 1)  # which has said so


def test_guidance_without_a_cond_is_refused():
    for name in ("free", "free++"):
        guided = wrapped(MIXTURE)[name]
        for call in (*ENTRIES.values(), lambda d, _: d(X, 0.5), lambda d, _: jax.jit(lambda: d(X, 0.5))()):
            with pytest.raises(ValueError, match="ClassifierFree(PP)? needs cond; give cond"):
                call(guided, None)
    with pytest.raises(ValueError, match="ClassifierFree needs cond"):
        ENTRIES["sample"](jd.guidance.DynamicThreshold(wrapped(MIXTURE)["free"]), None)


def test_samplers_that_would_see_no_guidance_refuse_it():
    guided, samplers = wrapped(MIXTURE)["free++"], jd.samplers
    draw = lambda model, sampler: jd.sample(KEY, model, (2, 2), sampler, 2, cond=0, t_start=0.9)
    for sampler in (
        samplers.EulerMaruyama(),
        samplers.PredictorCorrector(),
        samplers.AnnealedLangevin(1),
        samplers.PredictorCorrector(samplers.EulerMaruyama(), 0),
        samplers.Switch(samplers.DDIM(), samplers.EulerMaruyama(), 0.5),
    ):
        with pytest.raises(ValueError, match="ClassifierFreePP leaves unguided; take DDIM"):
            draw(guided, sampler)
    assert np.isfinite(draw(guided, samplers.DDIM())).all()
    assert np.isfinite(draw(wrapped(MIXTURE)["free"], samplers.EulerMaruyama())).all()


def test_settings_of_noise_without_noise_are_refused():
    for setting in ({"s_noise": 1.01}, {"s_min": 0.1}, {"s_max": 50.0}):
        jd.samplers.Heun(churn=0.1, **setting)
        with pytest.raises(ValueError, match="but churn = 0 adds no noise; give churn"):
            jd.samplers.Heun(**setting)


def test_a_start_beside_a_grid_that_begins_elsewhere_is_refused():
    grid = np.array([0.8, 0.4])
    draw = lambda **start: jd.sample(KEY, MIXTURE, (2, 2), jd.samplers.DDIM(), grid=grid, **start)
    np.testing.assert_array_equal(draw(t_start=0.8), draw())
    with pytest.raises(ValueError, match=r"t_start = 0.5, but the array as grid begins at 0.8"):
        draw(t_start=0.5)


def test_an_own_network_says_what_it_takes():
    class Embedded:
        def check_cond(self, params, cond):
            if cond is None or cond.shape[1:] != (5,):
                raise ValueError("expected embeddings [n, 5]")

        def __call__(self, params, x, c_noise, cond=None):
            return x * cond.mean()

    denoiser = jd.Denoiser(Embedded(), None, jd.VP())
    assert np.isfinite(ENTRIES["sample"](denoiser, np.ones((2, 5), np.float32))).all()
    for cond in (None, np.ones((2, 4), np.float32)):
        with pytest.raises(ValueError, match="expected embeddings"):
            ENTRIES["sample"](denoiser, cond)


@pytest.mark.parametrize(
    ("cond", "error", "message"),
    [
        (np.array([0.0, 1.0]), TypeError, "cond has dtype float64; expected integer labels"),
        (np.array([True, False]), TypeError, "cond has dtype bool; expected integer labels"),
        ((0, 1), TypeError, "cond = .*expected integer labels in one array"),
        (["one", "two"], TypeError, "expected arrays of numbers"),
        (np.array([0.0, np.nan]), ValueError, "cond holds a NaN"),
        (np.zeros(3, int), ValueError, r"cond has shape \(3,\)"),
    ],
)
def test_what_is_no_label_is_refused(cond, error, message):
    with pytest.raises(error, match=message):
        ENTRIES["sample"](MIXTURE, cond)
