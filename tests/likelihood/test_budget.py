"""The report against what is known of Gaussians, and what becomes of a run that is interrupted."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names, within
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import jaxdiff as jd
from jaxdiff.likelihood import Exact, Hutchinson, XTrace
from jaxdiff.likelihood.dequantization import check_images

LEVELS = 16
BATCH = 4  # of most tests here, which so have one program


def covariance(d=5, seed=0):
    root = np.random.default_rng(seed).standard_normal((d, d)) / 2
    return root @ root.T + 0.05 * np.eye(d)


def correlated(d=5, seed=0):
    return jd.exact.Gaussian(jd.VP(), np.zeros(d), covariance(d, seed))


def isotropic(d, std=1.0):
    return jd.exact.Gaussian(jd.VP(), np.zeros(d), std**2 * np.eye(d))


def cell_variance(k, std):
    """The variance of log2 p(x(u)) over the cell of k, u uniform, for N(0, std²), by a fine grid."""
    x = 2 * (k + (np.arange(20_000) + 0.5) / 20_000) / LEVELS - 1
    return norm.logpdf(x, scale=std).var() / np.log(2) ** 2


@pytest.mark.slow
def test_dequantisation_is_the_spread_within_a_cell():
    """An isotropic model has no trace noise, and images that are all alike have no spread of their own."""
    d, n, std = 5, 600, 0.4
    image = np.array([1, 5, 9, 14, 3])
    report = jd.bits_per_dim(
        jax.random.key(0),
        isotropic(d, std),
        np.tile(image, (n, 1)),
        1,
        LEVELS,
        n,
        budget=n,
        flow=within(1e-4),
        trace=Hutchinson(3),  # its programs are those of the next test
    )
    variance = sum(cell_variance(k, std) for k in image) / d**2
    budget = report.budget
    assert budget.trace < 1e-4 * budget.dequantisation + 1e-5
    # a variance from n differences is known to √(2/n) of itself for a normal, here a little more or less
    assert budget.dequantisation**2 * n == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    # and so to within a few standard errors of √(2/n) each, the bound to two
    assert 1 < budget.dequantisation_most**2 / budget.dequantisation**2 < 1 + 4 * np.sqrt(2 / n)
    assert report.standard_error**2 * n == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    assert budget.images**2 < 5 * np.sqrt(3 / n) * report.standard_error**2


@pytest.mark.parametrize("probes", few_names([1, 3], 3))
def test_trace_is_the_known_variance_of_the_probes(probes):
    """The symmetric ∫J of a Gaussian is diagonal in its eigenbasis: log of the growth of each direction."""
    d, n = 5, 600
    denoiser = correlated(d)
    values, basis = np.linalg.eigh(covariance(d))
    alpha, sigma = (float(c) for c in jd.VP().marginal(1.0))
    growth = basis @ np.diag(0.5 * np.log((alpha**2 * values + sigma**2) / values)) @ basis.T
    variance = 2 * ((growth**2).sum() - (np.diag(growth) ** 2).sum()) / (d * np.log(2)) ** 2 / probes
    images = np.tile([3, 8, 8, 7, 9], (n, 1))
    report = jd.bits_per_dim(
        jax.random.key(0), denoiser, images, 1, LEVELS, n, budget=n, trace=Hutchinson(probes), flow=within(1e-3)
    )
    budget = report.budget
    assert budget.trace**2 * n == pytest.approx(variance, rel=5 * np.sqrt(8 / n))
    parts = budget.images**2 + budget.dequantisation**2 + budget.trace**2
    assert parts == pytest.approx(report.standard_error**2, rel=0.3)


@pytest.mark.slow
def test_samples_that_share_their_probes_share_the_error_of_these():
    """The probes of a Gaussian's flow err by the same for every x: K samples are off together, not one by one."""
    d, samples, n, probes = 15, 8, 200, 2
    denoiser, image = correlated(d), np.random.default_rng(2).integers(5, 11, d)
    values, basis = np.linalg.eigh(covariance(d))
    alpha, sigma = (float(c) for c in jd.VP().marginal(1.0))
    growth = basis @ np.diag(0.5 * np.log((alpha**2 * values + sigma**2) / values)) @ basis.T
    trace = 2 * ((growth**2).sum() - (np.diag(growth) ** 2).sum()) / (d * np.log(2)) ** 2 / probes
    report = jd.bits_per_dim(
        jax.random.key(0),
        denoiser,
        np.tile(image, (n, 1)),
        samples,
        LEVELS,
        n,
        budget=n,
        trace=Hutchinson(probes),
        flow=within(1e-3),
    )
    # the variance of two probes' spread is twice its square, of a normal error
    assert report.budget.trace**2 * n == pytest.approx(trace, rel=5 * np.sqrt(2 / n))

    # and what is left is the spread of log mean p(x_k) over the samples of a cell, by Monte Carlo
    u = np.random.default_rng(3).random((20_000, samples, d))
    x = 2 * (image + u) / LEVELS - 1
    log_p = multivariate_normal.logpdf(x, np.zeros(d), covariance(d))
    left = logsumexp(log_p, axis=1).var() / (d * np.log(2)) ** 2
    total = trace + left
    assert report.standard_error**2 * n == pytest.approx(total, rel=5 * np.sqrt(3 / n))
    assert report.budget.dequantisation**2 * n == pytest.approx(left, abs=5 * np.sqrt(3 / n) * total)
    assert left < report.budget.dequantisation_most**2 * n < left + 10 * np.sqrt(3 / n) * total


@pytest.mark.slow
def test_shifts_are_what_refining_changes():
    d, n = 3, 40
    denoiser = correlated(d, 1)
    images = np.random.default_rng(1).integers(0, LEVELS, (n, d))
    settings = {"levels": LEVELS, "batch_size": n, "trace": Exact()}
    coarse = jd.bits_per_dim(jax.random.key(0), denoiser, images, **settings, flow=within(1e-2), t_min=1e-2)
    fine = {"flow": within(1e-6), "budget": 0}
    solved = jd.bits_per_dim(jax.random.key(0), denoiser, images, **settings, t_min=1e-2, **fine)
    solver = solved.bits_per_dim - coarse.bits_per_dim
    assert coarse.budget.solver.mean == pytest.approx(solver, abs=0.3 * abs(solver))
    assert coarse.budget.trace == 0
    assert (coarse.precision, coarse.budget.arithmetic) == ("float32", (0, 0))
    assert coarse.budget.flow == pytest.approx(coarse.bits_per_dim)
    x, flow = jd.dequantize(jax.random.key(9), images, LEVELS), {"flow": within(1e-2), "t_min": 1e-2}
    trip = jnp.abs(jd.decode(denoiser, jd.encode(denoiser, x, **flow), **flow) - x).max() * LEVELS / 2
    assert coarse.budget.round_trip == pytest.approx(trip, rel=0.5)  # of other draws from the same cells

    alpha, sigma = (float(c) for c in jd.VP().marginal(1.0))
    x0 = 2 * (images + 0.5) / LEVELS - 1
    prior = (sigma**2 - 1 - np.log(sigma**2) + alpha**2 * x0**2).mean() / 2 / np.log(2)
    assert coarse.budget.prior == pytest.approx(prior, rel=1e-2)
    assert coarse.budget.bound.bits_per_dim > coarse.bits_per_dim - 4 * coarse.budget.bound.standard_error
    for word in (
        "images",
        "dequantisation",
        "trace",
        "solver",
        "truncation",
        "arithmetic",
        "prior",
        "round trip",
        "bound",
    ):
        assert f"\n  {word}" in str(coarse)
    assert f"measured on {n} of the images" in str(coarse)


@pytest.mark.slow
@pytest.mark.parametrize(("process", "t_min"), [(jd.EDM(sigma_min=0.03), 1e-5), (jd.VP(), 3e-3)])
def test_truncation_is_the_shift_to_data_without_noise(process, t_min):
    """`EDM` has noise at t = 0, so that no t_min is small. The bits of a Gaussian with and without noise are known."""
    std, images = 0.3, np.arange(LEVELS)[:, None]
    denoiser = jd.exact.Gaussian(process, [0.0], [[std**2]])
    settings = {"levels": LEVELS, "batch_size": LEVELS, "trace": Exact(), "flow": within(1e-6), "t_min": t_min}
    found = jd.bits_per_dim(jax.random.key(0), denoiser, images, **settings, budget=LEVELS).budget.truncation

    alpha, sigma = (float(c) for c in process.marginal(t_min))
    x = 2 * (np.arange(LEVELS * 1000) + 0.5) / (LEVELS * 1000) - 1  # uniform in every cell
    bits = lambda scale: -norm.logpdf(x, scale=scale).mean() / np.log(2)
    shift = bits(std) - bits(np.hypot(alpha * std, sigma))
    assert found.mean == pytest.approx(shift, rel=0.1)  # O(s⁴), and one draw for each level


@pytest.mark.slow
def test_a_target_error_takes_as_many_images_as_it_needs():
    """Images from the model itself, whose spread is known to be that of |x|²/2: √(D/2) nats."""
    d, n = 8, 2000
    x = np.random.default_rng(3).normal(0, 0.3, (n, d))
    images = np.clip(np.floor((x + 1) / 2 * 256), 0, 255).astype(np.uint8)
    target = 0.03
    report = jd.bits_per_dim(
        jax.random.key(0), isotropic(d, 0.3), images, target_error=target, budget=0, flow=within(1e-3)
    )
    assert report.reached
    assert report.standard_error <= target
    expected = (np.sqrt(d / 2) / np.log(2) / d / target) ** 2
    assert expected / 2 < report.examples < 2 * expected + 64
    assert np.isfinite(report.per_example).sum() == report.examples
    assert f"; {report.examples} of {n} examples" in str(report)
    visited = np.flatnonzero(report.repeats)
    assert visited.max() > n / 2, "the images are looked at in a random order"


def test_repeats_shrink_noise_and_never_the_spread_of_images():
    d = 3
    denoiser = correlated(d)
    alike = np.tile([3, 8, 9], (20, 1))
    settings = {"levels": LEVELS, "batch_size": BATCH, "budget": 0, "flow": within(1e-3)}
    once = jd.bits_per_dim(jax.random.key(0), denoiser, alike, **settings)
    more = jd.bits_per_dim(jax.random.key(0), denoiser, alike, **settings, target_error=once.standard_error / 2)
    assert more.reached
    assert 3 <= more.repeats.max() <= 12
    assert abs(more.bits_per_dim - once.bits_per_dim) < 4 * once.standard_error

    different = np.random.default_rng(4).integers(0, LEVELS, (20, d))
    stuck = jd.bits_per_dim(jax.random.key(0), isotropic(d), different, **settings, target_error=1e-3)
    assert stuck.reached is False
    assert stuck.repeats.max() == 2
    assert "give more images" in str(stuck)


def interrupted(after):
    """A dequantizer that stops the run at its n-th batch."""

    class Stop(jd.likelihood.Uniform):
        calls = 0

        def __call__(self, keys, images, levels):
            type(self).calls += 1
            if type(self).calls == after:
                raise KeyboardInterrupt
            return super().__call__(keys, images, levels)

    return Stop()


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "digits.npz"
    images = np.random.default_rng(5).integers(0, LEVELS, (18, 3))
    settings = {"levels": LEVELS, "batch_size": BATCH, "budget": 0}
    call = lambda **more: jd.bits_per_dim(jax.random.key(0), correlated(3), images, **settings, **more)
    whole = call()
    jd.pytree(type(stop := interrupted(4)))
    with pytest.raises(KeyboardInterrupt):
        call(record=path, dequantizer=stop)
    with np.load(path, allow_pickle=False) as file:
        assert len(file["example"]) == 12
    type(stop).calls = 100
    rest = call(record=path, dequantizer=stop)
    assert type(stop).calls == 102, "two of five batches were left"
    np.testing.assert_array_equal(rest.per_example, whole.per_example)
    np.testing.assert_array_equal(call(record=path, dequantizer=stop).per_example, whole.per_example)
    assert type(stop).calls == 102, "nothing is left to do"
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file["example"]) == list(range(18))
        assert json.loads(str(file["settings"]))["levels"] == LEVELS


def test_records_of_something_else_are_refused(tmp_path):
    path = tmp_path / "r.npz"
    images = np.random.default_rng(6).integers(0, LEVELS, (4, 3))
    call = lambda **more: jd.bits_per_dim(
        jax.random.key(0),
        correlated(3),
        images,
        **{"levels": LEVELS, "batch_size": BATCH, "budget": 0, "record": path, **more},
    )
    call()
    for more, message in (
        ({"flow": jd.samplers.ProbabilityFlow(rtol=1e-3)}, "other settings.*flow.rtol: 1e-05, now 0.001"),
        ({"trace": Hutchinson(2)}, "other settings.*trace.probes: 1, now 2"),
        ({"trace": Exact()}, "other settings.*trace: Hutchinson .*, now Exact"),
        ({"levels": 17}, "levels: 16, now 17"),
        ({"record": tmp_path / "r.parquet"}, "ends in .npz"),
        ({"target_error": 0.0}, "target_error = 0.0"),
        ({"budget": -1}, "budget = -1"),
        ({"budget": 2, "source": lambda x: -(x**2).sum(1) / 2}, "budget = 2 with a source.*give budget=0"),
        ({"trace": XTrace(3)}, r"probes = 3 for events of 3 values; expected fewer, or trace = Exact\(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call(**more)
    with pytest.raises(ValueError, match="denoiser: "):
        jd.bits_per_dim(jax.random.key(0), correlated(3, 9), images, levels=LEVELS, budget=0, record=path)
    cast = jd.Denoiser(jd.networks.Cast(lambda p, x, c, cond: x, jnp.bfloat16), None, jd.VP())
    with pytest.raises(ValueError, match="precision: float32, now network in bfloat16"):
        jd.bits_per_dim(jax.random.key(0), cast, images, levels=LEVELS, budget=0, record=path)
    with pytest.raises(TypeError, match="tolerance"):
        call(tolerance=1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a record of likelihoods"):
        call()


def test_images_of_fewer_levels_are_warned_of():
    with pytest.warns(UserWarning, match="largest value of the images is 16, but levels = 256.*give levels=17"):
        check_images(np.array([[0, 16], [3, 4]]), 256, 1)
    for image, levels in (([0, 16], 17), ([0, 33], 256), ([0, 0], 256), ([0, 1], 2)):
        check_images(np.array([image]), levels, 1)


def test_nothing_is_hashed_for_a_record_that_nobody_asked_for(tmp_path, monkeypatch):
    module = importlib.import_module("jaxdiff.likelihood.bits_per_dim")
    hashed = []
    monkeypatch.setattr(module, "fingerprint", lambda tree: hashed.append(tree) or "")
    call = lambda **more: jd.bits_per_dim(
        jax.random.key(0), correlated(3), np.zeros((4, 3), int), levels=LEVELS, batch_size=BATCH, budget=0, **more
    )
    call()
    assert not hashed
    call(record=tmp_path / "r.npz")
    assert hashed
