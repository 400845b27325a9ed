"""RePaint against the recursion that it is on a Gaussian: means and covariances, sub-step by sub-step."""

import re

import jax
import numpy as np
import pytest
from conftest import mixture

import jaxdiff as jd
from jaxdiff.samplers import Heun, PredictorCorrector, RePaint, Switch, draw, repaint

KEY = jax.random.key(0)
MEAN, COVARIANCE = np.array([0.3, -0.2]), np.array([[1.0, 0.9], [0.9, 1.0]])
KNOWN, MASK = np.array([1.5, np.nan]), np.array([True, False])


def recursion(levels, start_std, mean, covariance, known, mask, repeats, jump):
    """(mean, covariance) of what RePaint gives on N(mean, covariance); levels are (α, σ) from noise to data.

    By the paper's algorithm 1, its line 5 with the root and its line 10 with β_t; a jump goes back by single steps, as
    its schedule does. A value that is not known is 0.
    """
    eye = np.eye(len(mean))
    keep, paint = np.diag(1.0 * mask), np.diag(1.0 - mask)

    def answer(alpha, sigma):
        gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        return gain, mean - alpha * gain @ mean

    def one_minus_beta(above, below):
        root = above[0] / below[0]
        return root, above[1] ** 2 - root**2 * below[1] ** 2

    def down(m, c, above, below):
        root, beta = one_minus_beta(above, below)
        gain, shift = answer(*above)
        step = (root * below[1] ** 2 * eye + below[0] * beta * gain) / above[1] ** 2
        m, c = step @ m + below[0] * beta / above[1] ** 2 * shift, step @ c @ step.T
        c = c + beta * (below[1] / above[1]) ** 2 * eye
        return below[0] * keep @ known + paint @ m, below[1] ** 2 * keep + paint @ c @ paint

    def back(m, c, above, below):
        root, beta = one_minus_beta(above, below)
        return root * m, root**2 * c + beta * eye

    m, c = 0 * mean, start_std**2 * eye
    for i, (above, below) in enumerate(zip(levels, levels[1:])):
        m, c = down(m, c, above, below)
        block = range(i - jump + 1, i + 1) if (i + 1) % jump == 0 else ()
        for _ in range(repeats - 1):
            for k in reversed(block):
                m, c = back(m, c, levels[k], levels[k + 1])
            for k in block:
                m, c = down(m, c, levels[k], levels[k + 1])
    gain, shift = answer(*levels[-1])
    return keep @ known + paint @ (gain @ m + shift), paint @ gain @ c @ gain.T @ paint


def levels_of(process, steps):
    return list(zip(*(np.asarray(curve, float) for curve in process.marginal(jd.grids.Angle()(process, steps)))))


PROCESSES = {"VP": jd.VP(), "VE": jd.VE(), "Flow": jd.Flow()}
SETTINGS = ((1, 1), (3, 1), (3, 2))
QUICK = {("Flow", 3, 2)}
CASES = [(name, *setting) for name in PROCESSES for setting in SETTINGS]


@pytest.mark.parametrize(
    ("name", "repeats", "jump"), [pytest.param(*c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_its_moments_on_a_gaussian_are_those_of_the_recursion(name, repeats, jump):
    """12 steps, so that by twos one step and the answer are left over."""
    process, n = PROCESSES[name], 40_000
    denoiser, sampler = jd.exact.Gaussian(process, MEAN, COVARIANCE), RePaint(repeats=repeats, jump=jump)
    cond = {"known": np.tile(KNOWN, (n, 1)), "mask": MASK}
    x = np.asarray(jd.sample(KEY, denoiser, (n, 2), sampler, 12, cond), float)
    known = np.where(MASK, KNOWN, 0)
    levels = levels_of(process, 12)
    mean, covariance = recursion(levels, float(process.prior_std), MEAN, COVARIANCE, known, MASK, repeats, jump)
    np.testing.assert_array_equal(x[:, 0], 1.5)
    variance = covariance[1, 1]
    assert abs(x[:, 1].mean() - mean[1]) < 4 * np.sqrt(variance / n)
    assert abs(x[:, 1].var() - variance) < 4 * variance * np.sqrt(2 / n)


TABLE = re.findall(r"^ +(\d+) +(\d+) +(\d\.\d+) +(\d\.\d+)$", repaint.__doc__, re.MULTILINE)


@pytest.mark.parametrize("row", [pytest.param(row, marks=[pytest.mark.slow] * (row[0] == "1000")) for row in TABLE])
def test_the_figures_of_its_module_are_those_of_the_recursion(row):
    steps, repeats, *figures = map(float, row)
    known = np.array([1.5, 0])
    m, c = recursion(levels_of(jd.VP(), int(steps)), 1.0, 0 * MEAN, COVARIANCE, known, MASK, int(repeats), 1)
    np.testing.assert_allclose([m[1], c[1, 1]], figures, atol=5.1e-4)


@pytest.mark.slow
def test_without_repeats_or_anything_known_it_is_its_sampler():
    sampler = Switch(PredictorCorrector(), Heun(1.0))
    cond = {"known": np.full((3, 2), np.nan, np.float32), "mask": False}
    plain, ours = (
        jd.sample(KEY, mixture(jd.VP()), (3, 2), *with_cond)
        for with_cond in ((sampler, 4), (RePaint(sampler, repeats=1), 4, cond))
    )
    np.testing.assert_array_equal(ours, plain)


def test_what_the_denoiser_takes_is_handed_on_and_batches_are_one_run():
    """Also the mask: of one example or of all, and what is not known is not read."""
    n, labels = 4, np.array([0, 1, 1, 0])
    known, mask = np.arange(8, dtype=np.float32).reshape(n, 2) / 7, np.arange(8).reshape(n, 2) % 3 == 0
    cond = {"known": known, "mask": mask, "cond": labels}
    sampler, denoiser = RePaint(repeats=2, jump=2), mixture(jd.VP())
    whole = jd.sample(KEY, denoiser, (n, 2), sampler, 4, cond)
    np.testing.assert_array_equal(whole[mask], known[mask])
    holes = cond | {"known": np.where(mask, known, np.nan)}
    batches = draw(KEY, denoiser, (n, 2), 2, holes, sampler=sampler, steps=4)
    np.testing.assert_allclose(batches, whole, rtol=2e-5, atol=2e-6)
    others = jd.sample(KEY, denoiser, (n, 2), sampler, 4, cond | {"cond": 1 - labels})
    assert (np.abs(others - whole) > 1e-2)[~mask].mean() > 0.8
    one = jd.sample(KEY, denoiser, (n, 2), sampler, 4, cond | {"mask": np.array([True, False])})
    same = jd.sample(KEY, denoiser, (n, 2), sampler, 4, cond | {"mask": np.tile([True, False], (n, 1))})
    np.testing.assert_array_equal(one, same)


@pytest.mark.slow
def test_switched_repaints_take_one_condition():
    cond = {"known": np.full((3, 2), 0.5, np.float32), "mask": MASK}
    x = jd.sample(KEY, mixture(jd.VP()), (3, 2), Switch(RePaint(repeats=2), RePaint(repeats=1)), 4, cond)
    np.testing.assert_array_equal(x[:, 0], 0.5)
    assert np.isfinite(x).all()
