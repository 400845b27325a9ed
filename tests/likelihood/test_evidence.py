"""The evidence of measurements, and their noise, against closed forms on Gaussians."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import within
from scipy import optimize, stats

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Moment, Observed
from jaxdiff.likelihood import Exact, log_evidence
from jaxdiff.samplers import estimate_noise

KEY = jax.random.key(0)
MEAN, COVARIANCE = np.array([0.3, -0.2]), np.array([[1.0, 0.9], [0.9, 1.0]])
MATRIX, NOISE = np.array([[0.8, 0.1], [0.0, 0.5], [1.0, -1.0]]), 0.3


def measured(seed, n):
    """y [n, 3] of Gaussian data."""
    rng = np.random.default_rng(seed)
    x0 = rng.multivariate_normal(MEAN, COVARIANCE, n)
    return x0 @ MATRIX.T + NOISE * rng.standard_normal((n, 3))


def exact(noise_std=NOISE, process=jd.VP()):
    operator = jax.tree_util.Partial(jnp.matmul, jnp.asarray(MATRIX, float))
    return Observed(jd.exact.Gaussian(process, MEAN, COVARIANCE), operator, noise_std)


def evidence_of(y, noise_std):
    return stats.multivariate_normal(MATRIX @ MEAN, MATRIX @ COVARIANCE @ MATRIX.T + noise_std**2 * np.eye(3)).logpdf(y)


def test_the_evidence_of_gaussian_data_is_the_closed_form_at_any_x0(x64):
    """Under Flow, whose x at t = 1 holds nothing of the data."""
    y = measured(0, 3)
    at = jnp.asarray([[0.3, -0.2], [2.0, -1.5], [0.0, 1.0]])
    found = log_evidence(KEY, exact(process=jd.Flow()), at, y, within(1e-9), Exact(), t_min=0.0)
    np.testing.assert_allclose(found.log_prob, evidence_of(y, NOISE), atol=1e-5)
    assert found.converged.all()


@pytest.mark.slow
def test_random_probes_are_off_by_their_standard_error():
    y = np.repeat(measured(0, 1), 64, 0).astype(np.float32)
    at = jnp.asarray(np.tile(MEAN, (64, 1)), jnp.float32)
    found = log_evidence(KEY, exact(), at, y, within(1e-4), jd.likelihood.Hutchinson(8))
    error = (found.log_prob - evidence_of(y, NOISE)) / found.standard_error
    assert 0.7 < float(jnp.sqrt(jnp.mean(error**2))) < 1.5


def test_the_noise_found_is_the_maximum_of_the_evidence_and_the_truth_within_its_error():
    n = 1500
    y = measured(1, n)
    found = estimate_noise(KEY, exact(0.8), (n, 2), y.astype(np.float32), rounds=18, steps=20)
    best = optimize.minimize_scalar(lambda s: -evidence_of(y, s).sum(), bounds=(0.05, 2), method="bounded").x
    assert found.converged
    assert abs(found.noise_std - best) < 4 * found.standard_error
    assert abs(found.noise_std - NOISE) < 4 * found.standard_error
    assert 0.5 < found.standard_error / (NOISE / math.sqrt(2 * 3 * n)) < 5
    assert found.rounds[0] == pytest.approx(0.8)
    assert len(found.rounds) == 19


def test_rounds_compile_nothing():
    traced = []

    def network(params, x, c_noise, cond):
        traced.append(1)
        return params * x

    observed = Observed(jd.Denoiser(network, 0.3, jd.VP()), jnp.sum, 0.5, Moment(2))
    estimate_noise(KEY, observed, (4, 2), np.ones(4, np.float32), 1, steps=2)
    counts = len(traced)
    estimate_noise(KEY, dataclasses.replace(observed, noise_std=0.3), (4, 2), np.zeros(4, np.float32), 2, steps=2)
    assert len(traced) == counts > 0
