r"""Test bits/dim of models without a network on the digits.

    python experiments/digits_baselines.py        half a minute on two cores

Expect (± the standard error over the 447 test images):

    one Gaussian           2.964 ± 0.020
    ten Gaussians          2.731 ± 0.024      2.98 with a ridge on the diagonals instead of shrinkage
    autoregressive ridge   2.140 ± 0.009

An image is 64 integers k in 0..16; train is the first 1,000, validation the next 350, test the rest. Bits/dim
is -log2 P(k) / 64. A density p of k + u, u uniform on [0, 1)^64, bounds the probability,

    log P(k) >= E_u log p(k + u),

the same as E_u log p(y) - 64 log 17 for y = (k + u)/17 on the unit cube. Settings are chosen on validation.
"""

import itertools

import numpy as np
from scipy.special import expit, logsumexp
from sklearn.mixture import GaussianMixture

from jaxdiff.data import load_digits

DIM, HIGHEST = 64, 16


def gaussian(train):
    """A full covariance by moments: those of k + u are mean + 1/2 and covariance + I/12. E_u is exact."""
    mean, covariance = train.mean(0) + 0.5, np.cov(train.T) + np.eye(DIM) / 12
    spread = np.trace(np.linalg.inv(covariance)) / 12
    return lambda k: spread / 2 - log_normal(k + 0.5, mean, covariance)


def ten_gaussians(train, shrinkage, draws=8):
    """Ten components by EM; `shrinkage` moves each covariance towards their average. E_u is a mean over `draws`."""
    rng = np.random.default_rng(0)
    em = GaussianMixture(10, reg_covar=1.0, random_state=0).fit(train + rng.random(train.shape))
    share = em.predict_proba(train + 0.5)
    weights, means = share.mean(0), share.T @ train / share.sum(0)[:, None]
    own = np.stack([(p * (train - m).T) @ (train - m) / p.sum() for p, m in zip(share.T, means)])
    covariances = (1 - shrinkage) * own + shrinkage * np.tensordot(weights, own, 1) + np.eye(DIM) / 12

    def log_density(y):
        parts = [np.log(w) + log_normal(y, m + 0.5, c) for w, m, c in zip(weights, means, covariances)]
        return logsumexp(parts, axis=0)

    return lambda k: -np.mean([log_density(k + rng.random(k.shape)) for _ in range(draws)], axis=0)


def autoregressive_ridge(train, penalty, groups):
    """P(k) = Π_i P(k_i | k_<i), row by row: a discretised logistic around a ridge regression on k_<i.

    Each of `groups` ranges of the prediction has its own scale, the most likely one for its leave-one-out errors.
    """
    scales = np.geomspace(0.05, 8, 40)
    pixels = []
    for i in range(DIM):
        x, y = before(train, i), train[:, i]
        solve = np.linalg.solve(x.T @ x + penalty * np.diag([1e-9] + [1.0] * i), x.T)
        leverage = np.sum(x * solve.T, axis=1)
        predicted = (x @ solve @ y - leverage * y) / (1 - leverage)  # each from all others
        edges = np.unique(np.quantile(predicted, np.arange(1, groups) / groups))
        group = np.digitize(predicted, edges)
        nats = np.stack([logistic_nats(y, predicted, scale) for scale in scales])
        best = [scales[nats[:, group == g].sum(1).argmin()] for g in range(len(edges) + 1)]
        pixels.append((solve @ y, edges, np.array(best)))

    def nats_of(k):
        total = np.zeros(len(k))
        for i, (weights, edges, best) in enumerate(pixels):
            predicted = before(k, i) @ weights
            total += logistic_nats(k[:, i], predicted, best[np.digitize(predicted, edges)])
        return total

    return nats_of


def log_normal(x, mean, covariance):
    """log N(x; mean, covariance) of each row."""
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, (x - mean).T)
    return -0.5 * (whitened**2).sum(0) - np.log(np.diag(root)).sum() - DIM / 2 * np.log(2 * np.pi)


def logistic_nats(k, mean, scale):
    """-log of a logistic's mass on [k - 1/2, k + 1/2]; the lowest and the highest level include the tails."""
    low = np.where(k == 0, -np.inf, (k - 0.5 - mean) / scale)
    high = np.where(k == HIGHEST, np.inf, (k + 0.5 - mean) / scale)
    upper = low > 0  # there expit rounds to 1: take the mirrored interval
    low, high = np.where(upper, -high, low), np.where(upper, -low, high)
    return -np.log(np.maximum(expit(high) - expit(low), 1e-300))


def before(k, i):
    """The regressors of pixel i: a constant and the pixels before it."""
    return np.column_stack([np.ones(len(k)), k[:, :i]])


def main():
    """Fit the three models, choose their settings on the validation images, and print their test bits/dim."""
    train, validation, test = (
        load_digits(split).image.reshape(-1, DIM).astype(float) for split in ("train", "validation", "test")
    )
    candidates = {
        "one Gaussian": [(gaussian, ())],
        "ten Gaussians": [(ten_gaussians, (shrinkage,)) for shrinkage in (0.1, 0.2, 0.3, 0.5)],
        "autoregressive ridge": [
            (autoregressive_ridge, setting) for setting in itertools.product((10.0, 100.0, 1000.0), (1, 3, 5))
        ],
    }
    for name, choices in candidates.items():
        models = [(fit(train, *setting), setting) for fit, setting in choices]
        model, setting = min(models, key=lambda model: model[0](validation).mean())
        bits = model(test) / np.log(2) / DIM
        error = bits.std(ddof=1) / np.sqrt(len(bits))
        print(f"{name:22s}{bits.mean():.3f} ± {error:.3f} bits/dim    {setting}")


if __name__ == "__main__":
    main()
