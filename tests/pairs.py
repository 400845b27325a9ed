"""A number and its label, known whole: the components of a mixture of Gaussians, as one joint denoiser."""

import dataclasses
import math
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
    """E[number | x_t] and p(label | x_t), each part at its own time, the label under any process of categories."""

    mixture: Any
    process: jd.Product = PROCESS

    def __call__(self, x, t, cond=None):
        x, t = self.process.at(x, t)
        number, label = x["number"], x["label"]
        logits = self.mixture.log_responsibilities(number, t["number"])
        answer = jd.Categorical(logits, self.process.parts["label"].evidence(label, t["label"]))
        p = jnp.exp(answer.log_probabilities())
        each = [self.mixture(number, t["number"], jnp.full(len(p), k)) for k in range(3)]
        mean = lambda of: sum(p[:, k, None] * getattr(part, of) for k, part in enumerate(each))
        return {"number": jd.Prediction(mean("data"), mean("noise")), "label": answer}


def joint(label=None):
    """The pair, its label under another process of three categories than the masks."""
    return Pair(mixture(), PROCESS if label is None else jd.Product(PROCESS.parts | {"label": label}))


def data(n):
    """Draws of the pair."""
    rng = np.random.default_rng(1)
    label = rng.choice(3, n, p=WEIGHTS)
    number = MEANS[label] + STD[label] * rng.standard_normal((n, 2))
    return {"number": number.astype(np.float32), "label": label}


def nats(x, levels):
    """-log of w p(number | label) times the width of the cells."""
    number, label = 2 * (x["number"] + 0.5) / levels - 1, x["label"]
    z = (number - MEANS[label]) / STD[label]
    log_density = (-(z**2) / 2 - np.log(STD[label]) - math.log(2 * math.pi) / 2 + math.log(2 / levels)).sum(1)
    return -np.log(WEIGHTS[label]) - log_density


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
