"""A number and its label, known whole: the components of a mixture of Gaussians, as one joint denoiser."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[0.5, -0.2], [-0.4, 0.3], [0.0, 0.6]])
STD = np.array([[0.1, 0.15], [0.15, 0.1], [0.2, 0.1]])
PROCESS = jd.Product({"number": jd.VP(), "label": jd.Absorbing(3)})


def mixture():
    return jd.exact.Mixture(jd.VP(), WEIGHTS, MEANS, np.stack([np.diag(std**2) for std in STD]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    """E[number | x_t, label], label p(label | x_t): each part at its own time, the label masked or seen."""

    mixture: Any
    process: jd.Product = PROCESS

    def __call__(self, x, t, cond=None):
        x, t = self.process.at(x, t)
        number, label = x["number"], x["label"]
        hidden = label == 3
        free = self.mixture(number, t["number"])
        given = self.mixture(number, t["number"], jnp.where(hidden, 0, label))
        pick = lambda a, b: jnp.where(hidden[:, None], a, b)
        logits = self.mixture.log_responsibilities(number, t["number"])
        evidence = jnp.where(hidden[:, None] | (jnp.arange(3) == label[:, None]), 0.0, -jnp.inf)
        data = jd.Prediction(pick(free.data, given.data), pick(free.noise, given.noise))
        return {"number": data, "label": jd.Categorical(logits, evidence)}


def joint():
    return Pair(mixture())


def data(n):
    """Draws of the pair."""
    rng = np.random.default_rng(1)
    label = rng.choice(3, n, p=WEIGHTS)
    number = MEANS[label] + STD[label] * rng.standard_normal((n, 2))
    return {"number": number.astype(np.float32), "label": label}


def assert_moments(x):
    """Frequencies, and the mean and variance of each class, within 4 standard errors."""
    label, number = np.asarray(x["label"]), np.asarray(x["number"], np.float64)
    for k in range(3):
        ours = label == k
        error = np.sqrt(WEIGHTS[k] * (1 - WEIGHTS[k]) / len(label))
        assert abs(ours.mean() - WEIGHTS[k]) < 4 * error, (k, ours.mean())
        error = STD[k] / np.sqrt(ours.sum())
        np.testing.assert_array_less(np.abs(number[ours].mean(0) - MEANS[k]), 4 * error)
        np.testing.assert_array_less(np.abs(number[ours].var(0) / STD[k] ** 2 - 1), 4 * np.sqrt(2 / ours.sum()))
