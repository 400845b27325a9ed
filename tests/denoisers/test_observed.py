"""Guidance by a measurement: each row's closed form, what is exact, what an example knows, and what compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import within
from scipy.stats import chi2, multivariate_normal

import jaxdiff as jd
from jaxdiff import guidance
from jaxdiff.denoisers.guidance import Observed, operators

RNG = np.random.default_rng(0)
N, NOISE, WIDTH, WEIGHT = 3, 0.3, 0.7, 0.6
PROCESSES = {"VP": jd.VP(), "VE": jd.VE(), "Flow": jd.Flow()}
predict = jax.jit(lambda denoiser, x, t, cond: denoiser(x, t, cond))


def times(matrix, x0):
    return matrix @ x0


def measured_by(matrix):
    """x0 -> matrix x0, the matrix a leaf."""
    return jax.tree_util.Partial(times, matrix)


def mixture_of(d, k, seed=1):
    """Weights, means and covariances of k Gaussians of d numbers."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d)) / np.sqrt(d)
    return rng.dirichlet(np.ones(k)), rng.normal(size=(k, d)), roots @ roots.swapaxes(1, 2) + 0.05 * np.eye(d)


def moments(mixture, alpha, sigma, x):
    """(log p(x_t), E[x_0 | x_t], Cov[x_0 | x_t]) of a mixture for one x, by Bayes' rule with matrices."""
    d = len(x)
    logs, means, covariances = [], [], []
    for weight, mean, covariance in zip(*mixture):
        total = alpha**2 * covariance + sigma**2 * np.eye(d)
        gain = alpha * covariance @ np.linalg.inv(total)
        logs.append(np.log(weight) + multivariate_normal(alpha * mean, total).logpdf(x))
        means.append(mean + gain @ (x - alpha * mean))
        covariances.append(covariance - alpha * gain @ covariance)
    share = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    mean = share @ np.array(means)
    away = np.array(means) - mean
    spread = np.einsum("k,kij->ij", share, covariances) + np.einsum("k,ki,kj->ij", share, away, away)
    return np.logaddexp.reduce(logs), mean, spread


def posterior(mixture, matrix, noise_std, y):
    """The mixture given y = matrix x_0 + noise_std n."""
    logs, means, covariances = [], [], []
    for weight, mean, covariance in zip(*mixture):
        total = matrix @ covariance @ matrix.T + noise_std**2 * np.eye(len(y))
        gain = covariance @ matrix.T @ np.linalg.inv(total)
        logs.append(np.log(weight) + multivariate_normal(matrix @ mean, total).logpdf(y))
        means.append(mean + gain @ (y - matrix @ mean))
        covariances.append(covariance - gain @ matrix @ covariance)
    return np.exp(np.array(logs) - np.logaddexp.reduce(logs)), np.array(means), np.array(covariances)


def rows(covariance, alpha, sigma, spread, matrix):
    """{name: (spread, W, H U Hᵀ)} of the docstring's table, for V = `spread` and C = `covariance`."""
    d, (m, _) = len(covariance), matrix.shape
    seen = lambda u: matrix @ u @ matrix.T
    isotropic = sigma**2 * WIDTH**2 / (sigma**2 + WIDTH**2 * alpha**2) * np.eye(d)
    proximal = sigma**2 / (alpha**2 * WEIGHT) * np.eye(d) if alpha else None
    prior = np.linalg.inv(np.linalg.inv(covariance) + (alpha / sigma) ** 2 * np.eye(d))
    return {
        "Point": (guidance.Point(), spread, np.zeros((m, m))),
        "Isotropic": (guidance.Isotropic(WIDTH), spread, seen(isotropic)),
        "RowSums": (guidance.RowSums(), spread, np.diag(seen(spread) @ np.ones(m))),
        "Moment": (guidance.Moment(), spread, seen(spread)),
        "Proximal": (guidance.Proximal(WEIGHT), proximal, None if proximal is None else seen(proximal)),
        "Prior": (guidance.Prior(covariance), prior, seen(prior)),
    }


ONE, THREE = mixture_of(2, 1), mixture_of(2, 3)
WIDE_ONE, WIDE_THREE = mixture_of(16, 1), mixture_of(16, 3)
thrice = lambda mixture: tuple(np.concatenate([part] * 3) for part in mixture)  # one Gaussian, in the same program
SETS = {  # mixtures, and the operator's matrix
    "two numbers": ((thrice(ONE), THREE), RNG.normal(size=(2, 2))),
    "sixteen numbers": ((thrice(WIDE_ONE), WIDE_THREE), RNG.normal(size=(7, 16))),
}


SLOW = pytest.mark.slow
QUICK = ("VP", "two numbers"), ("Flow", "sixteen numbers")
CASES = [
    pytest.param(PROCESSES[process], name, id=f"{process}, {name}", marks=[SLOW] * ((process, name) not in QUICK))
    for process in PROCESSES
    for name in SETS
]


@pytest.mark.parametrize(("process", "name"), CASES)
def test_each_row_is_its_closed_form(process, name, x64):
    """x̂_0 and V are of Bayes' rule written out; of a Gaussian Moment and Prior are E[x_0 | x_t, y] itself."""
    mixtures, matrix = SETS[name]
    rng = np.random.default_rng(3)
    t = np.repeat([0.02, 0.5, 0.95], N)
    alpha, sigma = (np.asarray(c) for c in process.marginal(t))
    for mixture in mixtures:
        weights, means, covariances = mixture
        model = jd.exact.Mixture(process, weights, means, covariances)
        x0 = np.stack([rng.multivariate_normal(means[0], covariances[0]) for _ in t])
        y = x0 @ matrix.T + NOISE * rng.normal(size=(len(t), len(matrix)))
        x = alpha[:, None] * x0 + sigma[:, None] * rng.normal(size=x0.shape)
        known = [moments(mixture, *of_one) for of_one in zip(alpha, sigma, x)]
        exact = [
            moments(posterior(mixture, matrix, NOISE, of_y), *of_one)[1] for of_y, *of_one in zip(y, alpha, sigma, x)
        ]
        table = [rows(covariances[0], a, s, spread, matrix) for a, s, (_, _, spread) in zip(alpha, sigma, known)]
        far = {}
        for row in table[0]:
            expected = []
            for i, (_, mean, _) in enumerate(known):
                spread, move, seen = table[i][row]
                gain = move @ matrix.T @ np.linalg.inv(NOISE**2 * np.eye(len(matrix)) + seen)
                expected.append(mean + gain @ (y[i] - matrix @ mean))
            found = predict(Observed(model, measured_by(matrix), NOISE, spread), x, t, y)
            size = 1 + np.abs(expected).max()
            np.testing.assert_allclose(found.data, expected, rtol=0, atol=1e-6 * size, err_msg=row)
            again = alpha[:, None] * found.data + sigma[:, None] * found.noise
            np.testing.assert_allclose(again, x, rtol=1e-9, atol=1e-9 * size)
            far[row] = np.sqrt(np.mean((found.data - np.array(exact)) ** 2))
        if mixture is mixtures[0]:
            assert max(far["Moment"], far["Prior"]) < 1e-6
            assert min(far[row] for row in ("Point", "Isotropic", "RowSums", "Proximal")) > 1e-3
        else:  # p(x_0 | x_t) is no Gaussian, and Moment the nearest of the rows
            assert far["Moment"] == min(far.values())


MEAN, COVARIANCE = ONE[1][0], ONE[2][0]
MATRIX = np.array([[0.9, -0.6]])
ROWS = {
    "Point": guidance.Point(),
    "Isotropic": guidance.Isotropic(WIDTH),
    "RowSums": guidance.RowSums(),
    "Moment": guidance.Moment(),
    "Proximal": guidance.Proximal(WEIGHT),
    "Prior": guidance.Prior(COVARIANCE),
}


def gaussian(process=PROCESSES["VP"]):
    return jd.exact.Gaussian(process, MEAN, COVARIANCE)


def given(y, matrix=MATRIX, noise_std=NOISE):
    """Mean and covariance of the Gaussian prior's posterior."""
    _, means, covariances = posterior(ONE, matrix, noise_std, y)
    return means[0], covariances[0]


def test_where_x_holds_nothing_of_the_data_the_prediction_is_that_of_y(x64):
    """At t = 1 of Flow: Prior is E[x_0 | y]; rows with V are there to the 0.001 of the level that they answer for."""
    model, x, y = gaussian(jd.Flow()), RNG.normal(size=(N, 2)), RNG.normal(size=(N, 1))
    expected = [given(one)[0] for one in y]
    found = {
        name: predict(Observed(model, measured_by(MATRIX), NOISE, ROWS[name]), x, 1.0, y)
        for name in ("Isotropic", "Moment", "Proximal", "Prior")
    }
    for name, tolerance in {"Prior": 1e-10, "Moment": 5e-3}.items():
        np.testing.assert_allclose(found[name].data, expected, rtol=0, atol=tolerance)
    nearest = MEAN + (y - MATRIX @ MEAN) @ np.linalg.pinv(MATRIX).T
    np.testing.assert_allclose(found["Proximal"].data, nearest, rtol=1e-10)
    for answer in found.values():
        np.testing.assert_allclose(answer.noise, x, rtol=1e-12)
    spread = WIDTH**2 * MATRIX @ MATRIX.T + NOISE**2
    isotropic = MEAN + (y - MATRIX @ MEAN) @ np.linalg.inv(spread) @ MATRIX @ COVARIANCE
    np.testing.assert_allclose(found["Isotropic"].data, isotropic, rtol=0, atol=5e-3)


def test_at_the_data_nothing_moves_and_a_scale_of_zero_or_outside_its_interval_is_no_guidance():
    model, x, y = gaussian(), jnp.asarray(RNG.normal(size=(N, 2)), jnp.float32), jnp.ones((N, 1))
    for name in ("Moment", "Proximal"):
        guided = Observed(model, measured_by(MATRIX), NOISE, ROWS[name])
        clean = predict(guided, x, 0.0, y)
        np.testing.assert_allclose(clean.data, x, rtol=1e-6)
        assert np.isfinite(clean.noise).all()
        for scale in (0.0, guidance.Interval(1.0, 5.0, 9.0)):
            off = predict(dataclasses.replace(guided, scale=scale), x, 0.4, y)
            np.testing.assert_allclose(off.data, predict(model, x, 0.4, None).data, rtol=1e-6)
        moves = [predict(dataclasses.replace(guided, scale=scale), x, 0.4, y).data for scale in (0.0, 0.5, 2.0)]
        np.testing.assert_allclose(4 * (moves[1] - moves[0]), moves[2] - moves[0], rtol=1e-4, atol=1e-5)


def test_point_is_the_tweedie_classifier_of_the_measurements_likelihood(x64):
    operator, y = lambda x0: jnp.sin(MATRIX @ x0), RNG.normal(size=(N, 1))
    likelihood = lambda x0, y: -jnp.sum((y - jax.vmap(operator)(x0)) ** 2, 1) / (2 * NOISE**2)
    model, x = jd.exact.Mixture(PROCESSES["VP"], *THREE), RNG.normal(size=(N, 2))
    for t in (0.1, 0.6, 1.0):
        found = predict(Observed(model, operator, NOISE, guidance.Point(), 0.8), x, t, y)
        expected = predict(guidance.TweedieClassifier(model, likelihood, 0.8), x, t, y)
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-9)
        np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-9)


def test_derivatives_go_through_forward_and_backward(x64):
    """∂E[x_0 | x_t, y]/∂x = α/σ² Cov[x_0 | x_t, y], under vmap as flows ask, and in one batch."""
    process, t, y = PROCESSES["VP"], 0.5, RNG.normal(size=(N, 1))
    alpha, sigma = map(float, process.marginal(t))
    guided, x = Observed(gaussian(), measured_by(MATRIX), NOISE), RNG.normal(size=(N, 2))
    one = lambda x, y: guided(x[None], t, y[None]).data[0]
    expected = [alpha / sigma**2 * moments(posterior(ONE, MATRIX, NOISE, b), alpha, sigma, a)[2] for a, b in zip(x, y)]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacfwd(one)))(x, y), expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacrev(one)))(x, y), expected, rtol=1e-8)


@pytest.mark.slow
def test_the_likelihood_of_the_guided_flow_is_the_posteriors(x64):
    """log p(x_0 | y); the flow starts from the prior where p_1 is N(α m, S), and is affine from x_0 to x_1."""
    process, y, x0 = PROCESSES["VP"], np.array([[0.4], [-1.0]]), RNG.normal(size=(2, 2))
    alpha, sigma = map(float, process.marginal(1.0))
    truth = []
    for point, of_y in zip(x0, y):
        mean, covariance = given(of_y)
        values, basis = np.linalg.eigh(covariance)
        x1 = alpha * mean + basis @ (np.sqrt((alpha**2 * values + sigma**2) / values) * (basis.T @ (point - mean)))
        start = multivariate_normal(alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(2))
        clean = multivariate_normal(mean, covariance)
        truth.append(clean.logpdf(point) + multivariate_normal(np.zeros(2)).logpdf(x1) - start.logpdf(x1))
    guided = Observed(gaussian(), measured_by(MATRIX), NOISE)
    settings = {"trace": jd.likelihood.Exact(), "flow": within(1e-9), "t_min": 0.0}
    found = jd.log_likelihood(jax.random.key(0), guided, x0, y, **settings)
    np.testing.assert_allclose(found.log_prob, truth, atol=1e-6)


def test_two_measurements_one_around_the_other_are_one_of_both(x64):
    """And the model inside takes a cond of its own: a component of a mixture, by guidance at scale 1."""
    weights, means, covariances = THREE
    inner = guidance.ClassifierFree(jd.exact.Mixture(PROCESSES["VP"], *THREE), 1.0)
    first, second = np.array([[1.0, 0.3]]), np.array([[-0.4, 0.8]])
    around = Observed(Observed(inner, measured_by(first), 0.2), measured_by(second), 0.5)
    x, y, label = RNG.normal(size=(N, 2)), RNG.normal(size=(N, 2)), np.array([0, 2, 1])
    cond = {"y": y[:, 1:], "cond": {"y": y[:, :1], "cond": label}}
    around.check_cond(cond)
    found = predict(around, x, 0.5, cond)
    both = np.concatenate([first / 0.2, second / 0.5])
    alpha, sigma = map(float, PROCESSES["VP"].marginal(0.5))
    for i, k in enumerate(label):
        component = weights[k : k + 1], means[k : k + 1], covariances[k : k + 1]
        _, expected, _ = moments(posterior(component, both, 1.0, y[i] / [0.2, 0.5]), alpha, sigma, x[i])
        np.testing.assert_allclose(found.data[i], expected, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        around.check_cond({**cond, "cond": {"y": y[:, :1], "cond": label + 1}})


def test_a_clean_measurement_is_reproduced_and_what_the_mask_hides_says_nothing(x64):
    """Inpainting at s = 0, of each example by its own mask: the regression of the hidden number on the seen."""
    process, t, masks = PROCESSES["VP"], 0.5, np.array([[True, False], [False, True], [True, True]])
    alpha, sigma = map(float, process.marginal(t))
    x, y = RNG.normal(size=(N, 2)), RNG.normal(size=(N, 2))
    for name in ("Moment", "Prior", "Isotropic", "Proximal", "RowSums"):
        guided = Observed(gaussian(), operators.masked, 0.0, ROWS[name])
        found = predict(guided, x, t, {"y": y, "operator": masks}).data
        nothing = predict(guided, x, t, {"y": y * masks, "operator": masks}).data
        np.testing.assert_allclose(found, nothing, rtol=1e-9, atol=1e-9)
        assert np.isfinite(found).all()
        if name in ("Moment", "Prior"):
            np.testing.assert_allclose(np.asarray(found)[masks], y[masks], rtol=0, atol=1e-9)
            exact = [
                moments(posterior(ONE, np.eye(2)[mask], 1e-9, one[mask]), alpha, sigma, at)[1]
                for mask, one, at in zip(masks, y, x)
            ]
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    too_many = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # three numbers seen of two, which contradict each other
    y = RNG.normal(size=(N, 3))
    found = predict(Observed(gaussian(), measured_by(too_many), 0.0, guidance.Prior(np.eye(2))), x, t, y)
    np.testing.assert_allclose(found.data, y @ np.linalg.pinv(too_many).T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["Moment", "Prior", "Proximal"])
def test_an_operator_that_is_not_linear_is_linearised_at_the_prediction(name, x64):
    """Magnitudes of a spectrum, by finite differences: x̂_0 + W Hᵀ (s² I + H U Hᵀ)⁻¹ (y - A(x̂_0))."""
    operator = lambda x0: operators.phase_retrieval()(x0.reshape(2, 1))
    process, t, x = PROCESSES["VP"], 0.5, RNG.normal(size=(N, 2))
    alpha, sigma = map(float, process.marginal(t))
    y = RNG.uniform(0.5, 1.0, (N, 4, 1))
    found = predict(Observed(gaussian(), operator, NOISE, ROWS[name]), x, t, y).data
    for i in range(N):
        _, mean, spread = moments(ONE, alpha, sigma, x[i])
        see = lambda x0: np.asarray(operator(x0)).ravel()
        slope = np.stack([(see(mean + h) - see(mean - h)) / 2e-6 for h in 1e-6 * np.eye(2)], 1)
        _, move, seen = rows(COVARIANCE, alpha, sigma, spread, slope)[name]
        gain = move @ slope.T @ np.linalg.inv(NOISE**2 * np.eye(4) + seen)
        np.testing.assert_allclose(found[i], mean + gain @ (y[i].ravel() - see(mean)), rtol=0, atol=1e-7)


def test_examples_of_a_batch_do_not_affect_each_other():
    """Whatever lies beside it, a NaN or a measurement that is fitted at once, its bits stay."""
    model = jd.exact.Mixture(PROCESSES["VP"], *WIDE_THREE)
    matrix = SETS["sixteen numbers"][1]
    x, y = (np.asarray(RNG.normal(size=shape), np.float32) for shape in ((N, 16), (N, 7)))
    for name in ("Moment", "Isotropic"):
        guided = Observed(model, measured_by(matrix), NOISE, ROWS[name])
        alone = predict(guided, x, 0.4, y)
        other_x, other_y = x.copy(), y.copy()
        other_x[1], other_y[2] = 1e3, np.nan
        beside = predict(guided, other_x, 0.4, other_y)
        np.testing.assert_array_equal(alone.data[0], beside.data[0])
        np.testing.assert_array_equal(alone.noise[0], beside.noise[0])
        assert np.isnan(beside.data[2]).all()


def test_fewer_iterations_fit_the_measurement_less_well_and_never_worse_than_none(x64):
    mixture, matrix = WIDE_ONE, SETS["sixteen numbers"][1]
    model, x, y = jd.exact.Mixture(PROCESSES["VP"], *mixture), RNG.normal(size=(N, 16)), RNG.normal(size=(N, 7))
    alpha, sigma = map(float, PROCESSES["VP"].marginal(0.5))
    exact = np.array([moments(posterior(mixture, matrix, NOISE, b), alpha, sigma, a)[1] for a, b in zip(x, y)])
    far = []
    for iterations in (1, 2, 4, 7, 64):
        found = predict(Observed(model, measured_by(matrix), NOISE, guidance.Moment(iterations)), x, 0.5, y).data
        far.append(np.linalg.norm(found - exact))
    assert far[-1] < 1e-9
    assert (np.diff(far) < 0).all()


def test_other_numbers_compile_nothing():
    """Another y, scale, noise, operator, mask, parameters, iterations, width, weight or covariance."""
    asked = []

    def network(params, x, c_noise, cond):
        asked.append(0)
        return params * jnp.tanh(x)

    def call(k):
        model = jd.Denoiser(network, k, jd.VP())
        widths = (
            guidance.Isotropic(k),
            guidance.Moment(int(10 * k)),
            guidance.Proximal(k),
            guidance.Prior(k * np.eye(2)),
        )
        for row in widths:
            jax.eval_shape(predict, Observed(model, measured_by(k * MATRIX), k, row, k), k * x, k, k * y)
        hidden = Observed(model, operators.mask(np.array([True, k > 0.3])), k)
        jax.eval_shape(lambda: jd.sample(jax.random.key(0), hidden, (2, 2), steps=2, cond=k * x))
        jax.eval_shape(predict, Observed(model, scaled, k), x, k, {"y": k * x, "operator": k * y[:, 0]})
        return len(asked)

    x, y, scaled = np.ones((2, 2), np.float32), np.ones((2, 1), np.float32), lambda x0, a: a * x0
    assert call(0.5) == call(0.25) > 0


@SLOW
@pytest.mark.parametrize("name", ["Moment", "Prior"])
def test_the_truth_is_ranked_uniformly_among_samples_of_its_posterior(name):
    """χ² of 2,000 ranks in 20 cells, whose 99.99 % quantile is 51; under Point, samples are too narrow."""
    truths, others = 2_000, 19
    rng = np.random.default_rng(5)
    x0 = rng.multivariate_normal(MEAN, COVARIANCE, truths)
    y = np.repeat(x0 @ MATRIX.T + NOISE * rng.normal(size=(truths, 1)), others, 0).astype(np.float32)

    def far(row):
        guided = Observed(gaussian(), measured_by(MATRIX), NOISE, row)
        sampler = jd.samplers.DPMSolverPP(sde=True)
        samples = jd.sample(jax.random.key(1), guided, (truths * others, 2), sampler, 40, cond=y)
        ranks = np.sum((samples @ MATRIX.T).reshape(truths, others) < x0 @ MATRIX.T, 1)
        counts, share = np.bincount(ranks, minlength=others + 1), truths / (others + 1)
        return np.sum((counts - share) ** 2) / share

    limit = chi2.ppf(1 - 1e-4, others)
    assert far(ROWS[name]) < limit
    assert far(ROWS["Point"]) > limit
