"""From labels dropped in training to guided samples, held against the guidance of Bayes' exact classifier."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

KEY = jax.random.key(0)
MEANS, STD = np.array([[1, 0], [-0.5, 0.9], [-0.5, -0.9]], np.float32), 0.3
PER_CLASS = 200


def mixture(means):
    return jd.exact.Mixture(jd.VP(), np.ones(3), means, np.stack([STD**2 * np.eye(2)] * 3))


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Learned:
    """The mixture whose means are learned, apart for labelled examples ("given") and for those without ("free")."""

    params: Any
    condition_dropout: float | None = dataclasses.field(default=None, metadata={"static": True})
    process = jd.VP()

    def no_label(self):
        return 3

    def __call__(self, x, t, cond=None):
        cond = jnp.full(len(x), 3) if cond is None else cond
        given = mixture(self.params["given"])(x, t, jnp.minimum(cond, 2))
        free = mixture(self.params["free"])(x, t)
        where = lambda a, b: jnp.where((cond == 3)[:, None], a, b)
        return jd.Prediction(where(free.data, given.data), where(free.noise, given.noise))


@pytest.mark.slow
def test_a_model_trained_with_dropping_is_guided_as_bayes_rule_guides(tmp_path):
    """The score of p(x) p(y | x)^3, its classifier that of the mixture the data are drawn from."""
    label = np.random.default_rng(0).integers(0, 3, 30_000)
    x = MEANS[label] + STD * np.random.default_rng(1).standard_normal((30_000, 2)).astype(np.float32)
    start = jnp.asarray(MEANS + np.array([[-0.4, 0.3], [0.3, -0.2], [0.2, 0.4]], np.float32))
    model = Learned({"given": start, "free": start})
    batches = jd.data.batches({"x": x, "label": label}, 2048, seed=0)
    train = {"steps": 200, "ema_decay": 0.95, "progress": False, "log_every": 200}
    optimizer = lambda ends: jd.training.clipped_adam(ends, 3e-2)
    loss = jd.losses.ConditionDropout(jd.losses.Denoising(jd.losses.weightings.MinSNR()), rate=0.5)
    trained = jd.training.train(KEY, tmp_path, model, loss, batches, optimizer=optimizer, **train)
    assert trained.condition_dropout == 0.5

    cond = np.arange(3 * PER_CLASS) % 3
    bayes = lambda x, t, cond: mixture(MEANS).log_responsibilities(x, t)[jnp.arange(len(x)), cond]
    draw = lambda guided: np.asarray(jd.sample(KEY, guided, (len(cond), 2), steps=20, cond=cond), np.float64)
    ours = draw(jd.guidance.ClassifierFree(trained, 3.0))
    exact = draw(jd.guidance.Classifier(mixture(MEANS), bayes, 3.0))
    for k in range(3):
        one, other = ours[cond == k], exact[cond == k]
        error = other.std(0) / np.sqrt(PER_CLASS)
        assert (np.abs(one.mean(0) - other.mean(0)) < 4 * error).all()
        assert np.linalg.norm(other.mean(0)) > np.linalg.norm(MEANS[k]) + 0.2  # guidance moves the mean at all
