"""A condition of named parts goes where a bare one goes, and reports name it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names, within
from scipy import stats

import jaxdiff as jd
from jaxdiff.likelihood.estimate import condition_of

KEY, N, STD = jax.random.key(0), 5, 0.3
RNG = np.random.default_rng(0)
COND = {
    "label": np.arange(N) % 3,
    "tokens": RNG.normal(size=(N, 2, 2)).astype(np.float32) / 4,
    "token_mask": RNG.integers(0, 2, (N, 2)).astype(bool),
}
TABLE = np.array([[0.5, -0.2], [-0.6, 0.1], [0.0, 0.4]], np.float32)
MEANS = TABLE[COND["label"]] + (COND["tokens"] * COND["token_mask"][..., None]).sum(1)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class About:
    """The exact denoiser of N(m, STD²), m what the condition adds up to."""

    process: jd.Gaussian

    def __call__(self, x, t, cond=None):
        mean = cond
        if isinstance(cond, dict):
            tokens = jnp.where(cond["token_mask"][..., None], cond["tokens"], 0.0)
            mean = jnp.asarray(TABLE)[cond["label"]] + tokens.sum(1)
        alpha, sigma = (jd.processes.expand_time(c, x) for c in self.process.marginal(t))
        away = (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        return jd.Prediction(mean + alpha * STD**2 * away, sigma * away)


VP, FLOW = About(jd.VP()), About(jd.Flow())
X = MEANS + STD * RNG.normal(size=(N, 2)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (N, 2)).astype(np.uint8)
WAYS = {
    "encode": lambda cond: jd.encode(VP, X, cond, within(1e-2)),
    "invert": lambda cond: jd.invert(VP, X, steps=2, cond=cond),
    "continuous_bound": lambda cond: jd.continuous_bound(KEY, VP, IMAGES, 2, batch_size=3, cond=cond).per_example,
    "loss": lambda cond: jd.losses.Denoising(jd.losses.weightings.MinSNR())(VP, KEY, X, cond),
}


@pytest.mark.parametrize("name", few_names(WAYS, "invert", "continuous_bound", "loss"))
def test_named_parts_say_what_they_add_up_to(name):
    """The parts of each example, and no other's: the same as under the means themselves."""
    np.testing.assert_allclose(WAYS[name](COND), WAYS[name](MEANS), rtol=1e-5, atol=1e-5)


def test_samples_in_batches_lie_about_their_own_means_and_are_kept(tmp_path):
    """Where α(1) = 0, x - α m moves without m: samples of one key under two conditions differ by their means."""
    draw = lambda cond, **more: jd.samplers.draw(KEY, FLOW, (N, 2), 2, cond, steps=3, **more)
    moved = draw(COND, keep=tmp_path) - draw(np.zeros((N, 2), np.float32))
    np.testing.assert_allclose(moved, MEANS, atol=1e-5)
    np.testing.assert_array_equal(draw(COND, keep=tmp_path), draw(COND))
    other = COND | {"token_mask": ~COND["token_mask"]}
    assert (np.abs(draw(other, keep=tmp_path) - draw(COND)).max(1) > 1e-3).any()


def test_likelihoods_are_those_of_their_own_means():
    """Of a process that ends in its prior."""
    found = jd.log_likelihood(KEY, FLOW, X, COND, within(1e-5), jd.likelihood.Exact(), t_min=0.0).log_prob
    np.testing.assert_allclose(found, stats.norm.logpdf(X, MEANS, STD).sum(1), atol=1e-3)


def test_reports_name_the_condition():
    assert jd.continuous_bound(KEY, VP, IMAGES, 2, batch_size=3, cond=COND).kind.endswith(", p(x | label, tokens)")
    network = lambda params, x, c_noise, cond: x
    dropped = jd.Denoiser(network, None, jd.VP(), condition_dropout=0.1)
    assert condition_of(dropped, MEANS) == ", p(x | vector)"
    assert condition_of(dropped, COND["label"]) == ", p(x | label)"
    assert condition_of(dropped, None) == ", p(x) of a conditional model: no cond was given"
    assert condition_of(jd.OnProcess(dropped, jd.Flow()), None) == condition_of(dropped, None)
    assert condition_of(jd.Denoiser(network, None, jd.VP()), None) == ""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": np.zeros(3, int)}, ValueError, r"cond\['label'\] has shape \(3,\); expected one entry each for 5"),
        ({"tokens": np.full((N, 2, 2), np.nan)}, ValueError, r"cond\['tokens'\] holds a NaN"),
        ({"tokens": ["a cat"] * N}, TypeError, r"cond\['tokens'\] .*expected arrays of numbers"),
    ],
)
def test_a_part_that_is_wrong_is_named(change, error, message):
    with pytest.raises(error, match=message):
        jd.sample(KEY, VP, (N, 2), steps=1, cond=COND | change)
