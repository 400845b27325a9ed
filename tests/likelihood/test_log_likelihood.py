import dataclasses
import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, draw_mixture, few, mixture, within
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.likelihood import Exact, Hutchinson


def model_log_prob(denoiser, x, t_min, tolerance=1e-12):
    """The flow carries p_0 into p_1, but the model starts from the prior: log p_0 + log prior(x_1) - log p_1(x_1)."""
    x_1 = jd.encode(denoiser, x, t_min=t_min, flow=within(tolerance))
    prior = norm.logpdf(x_1, scale=denoiser.process.prior_std).sum(1)
    return denoiser.log_prob(x, t_min) + prior - denoiser.log_prob(x_1, 1.0)


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_exact_divergence_reaches_the_closed_form(process, x64):
    x = jnp.asarray(draw_mixture(0, 6))
    denoiser = mixture(process)
    for t_min in (0.0, 1e-3):
        truth = model_log_prob(denoiser, x, t_min)
        got = jd.log_likelihood(jax.random.key(0), denoiser, x, trace=Exact(), flow=within(1e-10), t_min=t_min)
        assert got.converged.all()
        assert float(jnp.abs(got.log_prob - truth).max()) < 1e-8
        assert (got.standard_error == 0).all()


@pytest.mark.parametrize("process", few(PROCESSES))
def test_exact_divergence_in_float32(process):
    x = jnp.asarray(draw_mixture(0, 6), jnp.float32)
    denoiser = mixture(process)
    got = jd.log_likelihood(jax.random.key(0), denoiser, x, trace=Exact())
    assert got.log_prob.dtype == jnp.float32
    assert float(jnp.abs(got.log_prob - model_log_prob(denoiser, x, 1e-5, 1e-6)).max()) < 1e-3


def model_log_prob_of_a_gaussian(process, mean, covariance, x, t_min=0.0):
    """Its flow scales each eigen-direction of x - α m by √(S_1/S_0)."""
    values, basis = np.linalg.eigh(covariance)
    (a0, s0), (a1, s1) = ((float(c) for c in process.marginal(t)) for t in (t_min, 1.0))
    growth = np.sqrt((a1**2 * values + s1**2) / (a0**2 * values + s0**2))
    x_1 = ((x - a0 * mean) @ basis * growth) @ basis.T + a1 * mean
    return norm.logpdf(x_1, scale=process.prior_std).sum(-1) + np.log(growth).sum()


def test_in_float32_sixty_four_dimensions_are_within_a_thousandth_of_a_nat_at_tolerances_of_1e_6():
    """N(m, C) with variances from 1 to 0.02."""
    d, process, rng = 64, jd.VP(), np.random.default_rng(0)
    basis, variances, mean = np.linalg.qr(rng.standard_normal((d, d)))[0], 1 / np.arange(1, d + 1), rng.normal(size=d)
    covariance = basis * variances @ basis.T
    denoiser = jd.exact.Gaussian(process, mean, covariance)
    x = (mean + rng.standard_normal((8, d)) * np.sqrt(variances) @ basis.T).astype(np.float32)
    got = jd.log_likelihood(jax.random.key(0), denoiser, jnp.asarray(x), trace=Exact(), flow=within(1e-6), t_min=0.0)
    assert np.abs(got.log_prob - model_log_prob_of_a_gaussian(process, mean, covariance, x)).max() < 1e-3


def gaussian_in_five(process, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((5, 5)) / 2
    return jd.exact.Gaussian(
        process, rng.standard_normal(5), root @ root.T + 0.05 * np.eye(5)
    ), root @ root.T + 0.05 * np.eye(5)


def closed_form_variance(process, covariance, t_min):
    """Of one probe's integral. For N(m, C) the flow scales every eigen-direction of z by √(S_1/S_0)/(q_1/q_0),
    S = α² c + σ²; its log is the diagonal of the symmetric ∫A in the eigenbasis, and
    Var eᵀ∫A e = 2 Σ_{i≠j} (∫A)_ij²."""
    values, basis = np.linalg.eigh(covariance)
    (a0, s0), (a1, s1) = process.marginal(t_min), process.marginal(1.0)
    growth = 0.5 * np.log((a1**2 * values + s1**2) / (a0**2 * values + s0**2)) - np.log(
        process.scale(1.0) / process.scale(t_min)
    )
    matrix = basis @ np.diag(growth) @ basis.T
    return 2 * ((matrix**2).sum() - (np.diag(matrix) ** 2).sum())


@pytest.mark.slow
@pytest.mark.parametrize("process", [jd.VP(), jd.EDM(), jd.Flow()], ids=["VP", "EDM", "Flow"])
def test_hutchinson_is_unbiased_with_the_known_variance_and_an_honest_error(process):
    denoiser, covariance = gaussian_in_five(process)
    n, probes = 3000, 4
    x = jnp.tile(jnp.array([[0.3, -0.2, 0.5, 0.1, 0.9]]), (n, 1))
    exact = model_log_prob_of_a_gaussian(process, denoiser.means[0], covariance, x[0])
    single = jd.log_likelihood(jax.random.key(1), denoiser, x, t_min=0.0, flow=within(1e-4))
    variance = closed_form_variance(process, covariance, 0.0)
    got = np.asarray(single.log_prob, np.float64)
    assert abs(got.mean() - exact) < 4 * np.sqrt(variance / n)
    squares = (got - got.mean()) ** 2
    assert abs(squares.mean() - variance) < 4 * squares.std() / np.sqrt(n)
    assert np.isnan(single.standard_error).all()

    several = jd.log_likelihood(jax.random.key(2), denoiser, x, None, within(1e-4), Hutchinson(probes), 0.0)
    spread = np.var(np.asarray(several.log_prob, np.float64))
    claimed = np.asarray(several.standard_error, np.float64) ** 2
    for estimate in (spread, claimed.mean()):  # both estimate variance / probes
        error = max(claimed.std() / np.sqrt(n), np.sqrt(2 / n) * spread)
        assert abs(estimate - variance / probes) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("process", [jd.VE(), jd.Flow()], ids=["VE", "Flow"])
def test_an_isotropic_gaussian_needs_no_luck(process):
    """A multiple of I has the trace kD under every Rademacher probe: one probe is exact."""
    denoiser = jd.exact.Gaussian(process, np.ones(7), 0.3 * np.eye(7))
    x = jax.random.normal(jax.random.key(0), (4, 7))
    one = jd.log_likelihood(jax.random.key(1), denoiser, x, flow=within(1e-6))
    exact = jd.log_likelihood(jax.random.key(1), denoiser, x, trace=Exact(), flow=within(1e-6))
    np.testing.assert_allclose(one.log_prob, exact.log_prob, atol=2e-4)


class Counted:
    """A linear network that counts how often it is run and how often it is traced."""

    def __init__(self):
        self.runs = self.traces = 0

    def __call__(self, params, x, c_noise, cond):
        self.traces += 1

        def count(_):
            self.runs += 1

        jax.debug.callback(count, c_noise[0])
        return params * jnp.tanh(x)


@pytest.mark.slow
def test_evaluations_are_counted():
    import diffrax

    for solver in (None, diffrax.Heun(), diffrax.Dopri8(scan_kind="lax")):
        network = Counted()
        denoiser = jd.Denoiser(network, 0.3, jd.VP(), "v")
        got = jd.log_likelihood(jax.random.key(0), denoiser, jnp.ones((1, 3)), flow=within(1e-3, solver=solver))
        jax.block_until_ready(got)
        jax.effects_barrier()
        assert network.runs == int(got.evaluations[0])


def test_new_numbers_compile_nothing():
    network = Counted()
    x = jnp.ones((2, 3))
    for k in (0.3, 0.2):
        denoiser = jd.Denoiser(network, k, jd.VP(beta_min=k), "v", data_std=k)
        guided = jd.guidance.ClassifierFree(denoiser, 1 + k)
        call = functools.partial(jd.log_likelihood, flow=within(k * 1e-2), t_min=k * 1e-3, cond=0)
        jax.eval_shape(call, jax.random.key(0), guided, k * x)
        if k == 0.3:
            traces = network.traces
    assert network.traces == traces > 0


def test_an_example_depends_on_its_key_and_index_alone():
    denoiser, x = mixture(jd.VP()), jnp.asarray(draw_mixture(3, 5), jnp.float32)
    key = jax.random.key(4)
    many = jd.log_likelihood(key, denoiser, x)
    few = jd.log_likelihood(key, denoiser, x[:2])
    np.testing.assert_allclose(few.log_prob, many.log_prob[:2], rtol=1e-5)
    np.testing.assert_array_equal(few.evaluations, many.evaluations[:2])
    other = jd.log_likelihood(jax.random.key(5), denoiser, x)
    assert float(jnp.abs(other.log_prob - many.log_prob).max()) > 1e-3


def test_a_solver_that_gives_up_is_flagged_and_not_raised():
    def network(params, x, c_noise, cond):
        poisoned = jnp.where(c_noise > 0, jnp.nan, 0.0)  # a field that breaks half way along the flow
        return x * jnp.where(cond > 0, poisoned, 0.0)[:, None]

    denoiser = jd.Denoiser(network, None, jd.VP(), "v")
    got = jd.log_likelihood(jax.random.key(0), denoiser, jnp.ones((3, 2)), cond=jnp.array([0, 1, 0]))
    np.testing.assert_array_equal(got.converged, [True, False, True])
    assert got.evaluations[1] < 2000


@pytest.mark.parametrize(
    "way",
    few(
        {
            "checkpoints": (jax.grad, None),
            "two checkpoints": (jax.grad, diffrax.RecursiveCheckpointAdjoint(2)),
            "forward": (jax.jacfwd, diffrax.ForwardMode()),
        },
        "checkpoints",
    ),
)
def test_derivatives_reach_the_parameters(way, x64):
    """d log p / d mean of an exact Gaussian by autodiff through the solve, against its closed form."""
    (derivative, adjoint), x = way, jnp.array([[0.4, -0.3]])
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(2), 0.5 * np.eye(2))

    def value(mean):
        moved = dataclasses.replace(denoiser, means=mean[None])
        settings = {"flow": within(1e-8, adjoint=adjoint), "trace": Exact(), "t_min": 0.0}
        return jd.log_likelihood(jax.random.key(0), moved, x, **settings).log_prob[0]

    gradient = derivative(value)(jnp.zeros(2))
    alpha, sigma = jd.VP().marginal(1.0)  # x_1 = α m + √(S_1/S_0) (x - m) under the standard normal prior
    ratio = jnp.sqrt((alpha**2 * 0.5 + sigma**2) / 0.5)
    truth = -(ratio * x[0]) * (alpha - ratio)
    np.testing.assert_allclose(gradient, truth, rtol=1e-5)


def test_what_has_no_likelihood_is_refused_with_the_value():
    key, denoiser, x = jax.random.key(0), mixture(jd.VP()), jnp.zeros((2, 2))
    echo = jd.Denoiser(lambda params, x, c, cond: x, None, jd.Flow(), "score")
    for call, message in (
        (lambda: Hutchinson(probes=0), "probes = 0"),
        (lambda: jd.log_likelihood(key, denoiser, x, t_min=2.0), "t_min = 2.0 is outside"),
        (lambda: jd.log_likelihood(key, denoiser, x.at[1, 0].set(jnp.nan)), r"x0\[1\] holds a NaN"),
        (lambda: jd.log_likelihood(key, denoiser, jnp.zeros((2, 3))), "events of 3 values"),
        (lambda: jd.log_likelihood(key, echo, x), r"alpha\(1.0\) = 0 for Flow"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"trace = 'exact'; expected an instance such as jaxdiff.likelihood.Hutch"):
        jd.log_likelihood(key, denoiser, x, trace="exact")
    with pytest.raises(TypeError, match="uint8.*dequantize"):
        jd.log_likelihood(key, denoiser, np.zeros((2, 2), np.uint8))
