"""Classifier guidance by steps: Dhariwal and Nichol's algorithm 1, and whoever cannot take it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import THREE_PROCESSES, few, mixture
from tables import GUIDANCE, KINDS, LOSSES, given, kinds

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Auto, Classifier, ClassifierFree, ClassifierFreePP, Interval, StepClassifier

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0])


def log_posterior(model, x, t, cond):
    cond = jnp.zeros(len(x), int) if cond is None else cond
    return jnp.take_along_axis(model.log_responsibilities(x, t), cond[:, None], 1)[:, 0]


def guided(kind, process, scale=1.0):
    model = mixture(process)
    return kind(model, jax.tree_util.Partial(log_posterior, model), scale)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_a_step_is_that_of_algorithm_1(variance, x64):
    """x_s ~ N(μ + s Σ ∇ log p(y | x_t), Σ) on a DDPM table, in Dhariwal and Nichol's own symbols."""
    beta, scale, share = np.linspace(1e-4, 0.02, 100), 1.7, 0.3
    bar = np.cumprod(1 - beta)
    process, step = jd.from_betas(beta), 60  # counted from 1
    w = np.array([0.4, -0.2])

    def network(params, x, c_noise, cond):
        return jnp.concatenate([0.7 * x, jnp.full_like(x, 2 * share - 1)], -1)

    model = jd.Denoiser(network, None, process, "data", learned_variance=True)
    tilted = StepClassifier(model, lambda x, t, cond: 0.5 * (x @ w) ** 2, scale)(jnp.asarray(X, float), step / 100)
    mean, std = process.step_back(tilted.with_variance(variance), jnp.asarray(X, float), step / 100, (step - 1) / 100)
    now, before, beta = bar[step - 1], bar[step - 2], beta[step - 1]
    small = (1 - before) / (1 - now) * beta
    sigma = {"small": small, "large": beta, "learned": np.exp(share * np.log(beta) + (1 - share) * np.log(small))}
    x0 = 0.7 * X / np.sqrt(now * 0.25 + 1 - now)  # as the network sees x, of data_std 0.5
    mu = np.sqrt(before) * beta / (1 - now) * x0 + np.sqrt(1 - beta) * (1 - before) / (1 - now) * X
    np.testing.assert_allclose(std**2, np.broadcast_to(sigma[variance], X.shape), rtol=1e-6)
    np.testing.assert_allclose(mean, mu + scale * sigma[variance] * (X @ w)[:, None] * w, rtol=1e-6)


@pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP", "EDM"))
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_it_is_the_step_under_classifier_to_first_order(process, share, x64):
    """Of the length h of a step, both move by h and differ by h²: by a quarter as much in half a step."""
    x, centre = jnp.asarray(X, float), process.time_at_log_snr(0.3)
    moved = []
    for h in (0.02, 0.01):
        s = process.time_at_log_snr(0.3 + h)
        means = []
        for kind in (Classifier, StepClassifier):
            prediction = guided(kind, process, 2.0)(x, centre, LABELS)
            means.append(process.step_back(prediction.with_variance("large" if share else "small"), x, centre, s)[0])
        moved.append([float(jnp.abs(a - b).max()) for a, b in ((means[0], means[1]), (means[1], x))])
    (apart, whole), (less, half) = moved
    if share and isinstance(process, jd.EDM):  # α is 1 throughout, and Σ the same
        return np.testing.assert_allclose(apart, 0, atol=1e-14)
    assert 3.8 < apart / less < 4.2
    assert 1.9 < whole / half < 2.1
    assert apart < 0.05 * whole


@pytest.mark.slow
def test_it_guides_samples_and_an_interval_and_leaves_the_denoiser_at_scale_zero():
    draw = lambda model: jd.sample(KEY, model, (4, 2), jd.samplers.Ancestral("large"), 5, cond=LABELS)
    process = jd.VP()
    free = jd.sample(KEY, mixture(process), (4, 2), jd.samplers.Ancestral("large"), 5)
    np.testing.assert_array_equal(draw(guided(StepClassifier, process, 0.0)), free)
    np.testing.assert_array_equal(draw(guided(StepClassifier, process, Interval(3.0, 1e3))), free)
    assert float(jnp.abs(draw(guided(StepClassifier, process, 3.0)) - free).max()) > 0.1
    twice = StepClassifier(guided(StepClassifier, process), guided(StepClassifier, process).log_likelihood, 2.0, True)
    np.testing.assert_allclose(draw(twice), draw(guided(StepClassifier, process, 3.0)), rtol=1e-4, atol=1e-5)
    within = ClassifierFree(mixture(process), 2.0)
    inside = StepClassifier(within, lambda x, t, cond: x.sum(1), 1.0, conditional=True)(X, 0.5, LABELS)
    np.testing.assert_array_equal(inside.data, within(X, 0.5, LABELS).data)


TILTED = guided(StepClassifier, jd.VP())
AROUND = {name: guide for name, guide in kinds(GUIDANCE).items() if name != "StepClassifier"}
DRAWN = KINDS | {"Switch": jd.samplers.Switch(jd.samplers.Ancestral(), jd.samplers.DDIM())}
TRAINED = {name: row.loss for name, row in kinds(LOSSES).items() if row.of == "numbers" and name != "ConditionDropout"}
ASKED = {
    **{
        f"sampler {name}": lambda s=s: jd.sample(KEY, TILTED, (2, 2), s, 2, given(s, (2, 2), 1), t_start=0.9)
        for name, s in DRAWN.items()
        if name != "Ancestral"
    },
    **{f"loss {name}": lambda loss=loss: loss(TILTED, KEY, X, LABELS) for name, loss in TRAINED.items()},
    **{
        f"around it {name}": lambda guide=guide: guide(denoiser=TILTED)(X, 0.5, LABELS)
        for name, guide in AROUND.items()
    },
    "weak": lambda: Auto(mixture(jd.VP()), TILTED)(X, 0.5, LABELS),
    "free": lambda: ClassifierFreePP(mixture(jd.VP()), 0.5, 0, TILTED)(X, 0.5, LABELS),
    "OnProcess": lambda: jd.OnProcess(TILTED, jd.VE())(X, 0.5, LABELS),
    "score": lambda: jd.score(TILTED, X, 0.5, LABELS),
    "log_likelihood": lambda: jd.log_likelihood(KEY, TILTED, X, LABELS),
    "encode": lambda: jd.encode(TILTED, X, LABELS),
    "decode": lambda: jd.decode(TILTED, X, LABELS),
    "invert": lambda: jd.invert(TILTED, X, cond=LABELS),
    "variational_bound": lambda: jd.variational_bound(KEY, TILTED, np.zeros((4, 2), np.uint8), 2, cond=LABELS),
    "continuous_bound": lambda: jd.continuous_bound(KEY, TILTED, np.zeros((4, 2), np.uint8), 2, cond=LABELS),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_would_leave_the_tilt_out_refuses_it(name):
    with pytest.raises(ValueError, match=r"from StepClassifier, which only the steps of samplers.Ancestral add"):
        jax.eval_shape(ASKED[name])
