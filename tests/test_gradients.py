"""Derivatives of samples, likelihoods and losses against finite differences, in float64, to every number they know."""

import dataclasses
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names, within
from tables import LOSSES, given
from tables import SAMPLERS as TABLE

import jaxdiff as jd
from jaxdiff.likelihood import Exact

D, N = 2, 3
X = np.random.default_rng(0).normal(0, 0.7, (N, D))
KEY = jax.random.key(3)
BETAS = np.linspace(0.01, 0.5, 10)
PROCESSES = {
    "VP": jd.VP(0.2, 9.0),
    "SubVP": jd.SubVP(0.2, 9.0),
    "VE": jd.VE(0.05, 5.0),
    "Brownian": jd.Brownian(1.5),
    "BrownianVE": jd.BrownianVE(5.0),
    "EDM": jd.EDM(0.05, 5.0, 5.0),
    "Cosine": jd.Cosine(0.01),
    "Flow": jd.Flow(0.0),
    "Flow with noise": jd.Flow(0.05),
    "LearnedVP": jd.LearnedVP(8.0, -4.0, np.array([0.3, -0.2, 0.1])),
    "table": jd.from_betas(BETAS),
}
S = jd.samplers
FLOW = S.ProbabilityFlow(rtol=1e-7, atol=1e-7, adjoint=diffrax.DirectAdjoint())
SAMPLERS = {name: row.sampler for name, row in TABLE.items()} | {"ProbabilityFlow": FLOW}


def network(params, x, c_noise, cond):
    return jnp.tanh(x @ params["w"] + c_noise[:, None]) * params["scale"]


PARAMS = {"w": np.array([[0.4, -0.3], [0.2, 0.5]]), "scale": np.array(0.8)}


def denoiser(process, parameterization="v"):
    return jd.Denoiser(network, PARAMS, process, parameterization)


def check(function, *inputs, rtol=2e-5):
    """Both modes of `function` [...] along one direction in all of `inputs` at once, and reverse mode's each finite."""
    leaves, structure = jax.tree.flatten(inputs)
    numbers = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and np.isfinite(leaf).all() for leaf in leaves]
    moving = [index for index, number in enumerate(numbers) if number]
    rng = np.random.default_rng(1)
    values = [jnp.asarray(leaves[index], float) for index in moving]
    direction = [jnp.asarray(rng.uniform(0.5, 1.5, value.shape)) * (0.1 + jnp.abs(value)) for value in values]

    def of(values):
        full = list(leaves)
        for index, value in zip(moving, values):
            full[index] = value
        return jnp.ravel(function(*structure.unflatten(full)))

    step = 1e-5
    shifted = lambda h: [value + h * part for value, part in zip(values, direction)]
    apply = jax.jit(lambda values: jax.jvp(of, (values,), (direction,)))  # one program for both
    at, forward = apply(values)
    weights = jnp.asarray(rng.normal(size=at.shape))
    expected = np.asarray(apply(shifted(step))[0] - apply(shifted(-step))[0]) / (2 * step)
    gradient = jax.jit(jax.grad(lambda values: of(values) @ weights))(values)
    # Rounding of the differences: eps |f| / step.
    atol = 1e-15 / step * 100 * float(jnp.abs(at).max()) + 1e-7
    np.testing.assert_allclose(forward, expected, rtol=rtol, atol=rtol * np.abs(expected).max() + atol)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in gradient), gradient
    along = sum(float(jnp.vdot(leaf, part)) for leaf, part in zip(gradient, direction))
    scale = float(jnp.abs(weights) @ jnp.abs(expected))
    np.testing.assert_allclose(along, float(weights @ expected), atol=rtol * scale + atol * len(weights))


CORE = ("DDIM with noise", "DPMSolverPP of order 3", "Heun with churn", "UniPC of order 3")
PAIRS = [(process, name) for process in ("VP", "Flow") for name in SAMPLERS]
PAIRS += [(process, name) for process in PROCESSES for name in CORE if process not in ("VP", "Flow")]
QUICK = {("VP", CORE[0]), ("Flow", CORE[1])}
CASES = [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]


def loosened(process):
    """(numbers that may move, the process of them). At σ_min = 0 the grid of Flow is another one than just above."""
    if process == jd.Flow():
        return None, lambda _: process
    return (BETAS, jd.from_betas) if process == PROCESSES["table"] else (process, lambda process: process)


@pytest.mark.parametrize(("process", "name"), CASES)
def test_samples(process, name, x64):
    """To the weights, the process's numbers, the sampler's numbers, and the start."""
    numbers, made = loosened(PROCESSES[process])

    def draw(params, numbers, sampler, x):
        model = jd.Denoiser(network, params, made(numbers))
        start, cond = 0.9 if TABLE[name].below else 1.0, given(sampler, (N, D))
        return jd.sample(KEY, model, (N, D), sampler, 3, cond, t_start=start, x_start=x)

    check(draw, PARAMS, numbers, SAMPLERS[name], X)


@pytest.mark.parametrize("name", few_names(PROCESSES, "VP", "EDM"))
def test_processes(name, x64):
    """Every curve at both ends and between, the inverses beyond both ends too."""

    def values(process):
        t = jnp.array([0.0, 0.3, 0.83, 1.0])
        inner = t[1:3]
        log_snr = jnp.array([-jnp.inf, -60.0, -1.0, 0.0, 1.5, 60.0, jnp.inf])
        ends = jnp.array([-1.0, 4.0])
        finite = [
            *process.marginal(t),
            process.scale(t),
            process.angle(t),
            process.time_at_log_snr(log_snr),
            process.time_at_angle(jnp.array([0.0, 0.4, 1.1, jnp.pi / 2])),
            process.log_snr(inner),
            *process.velocity(inner),
            *jd.forward_sde(process, inner),
            *jd.transition(process, inner[0], inner[1]),
            *jd.posterior(process, t[0], inner[1]),
            *jd.posterior(process, inner[0], t[3]),
            process.c_noise(t),
            jd.grids.LogSNR()(process, 4),
            jd.grids.Angle()(process, 4, 0.9, 0.1),
            jd.grids.Karras()(process, 4),
            jnp.asarray(process.prior_std, float) + 0 * ends,
        ]
        return jnp.concatenate([jnp.ravel(value) for value in finite])

    numbers, made = loosened(PROCESSES[name])
    check(lambda numbers, shift: values(made(numbers)) + 0 * shift, numbers, 0.5)


ALL = {name: row for name, row in LOSSES.items() if not row.held}
SIMPLEST = ("Denoising Simple Importance", "FlowMatching")
QUICKLY = {name: ALL[name] for name in SIMPLEST}


def pair(params, x, c_noise, cond):
    return network(params, x, c_noise, cond), network(params, x, -c_noise, cond)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("VP", QUICKLY)] + [pytest.param(name, ALL, marks=pytest.mark.slow) for name in ("VP", "EDM", "Flow with noise")],
    ids=["VP", "VP, all", "EDM, all", "Flow with noise"],
)
def test_losses(name, rows, x64):
    """To the numbers of laws of times and of weightings, paired, as well as to the process's and the data."""

    def values(models, losses, x):
        return jnp.stack(
            [dataclasses.replace(row, loss=loss)(models[row.of], KEY, x) for loss, row in zip(losses, rows.values())]
        )

    models = {"numbers": denoiser(PROCESSES[name]), "bridge": jd.Bridge(pair, PARAMS)}
    check(values, models, [row.loss for row in rows.values()], X)


TIGHT = {"flow": within(1e-8, adjoint=diffrax.DirectAdjoint()), "t_min": 0.01}
SOLVED = {
    "log_likelihood": lambda model, x: jd.log_likelihood(KEY, model, x, trace=Exact(), **TIGHT).log_prob,
    "encode": lambda model, x: jd.encode(model, x, **TIGHT),  # a part of the likelihood's solve
}


@pytest.mark.slow  # tests/likelihood/test_log_likelihood.py has a derivative in closed form
@pytest.mark.parametrize("call", SOLVED)
@pytest.mark.parametrize("name", ["VP", "VE"])
def test_likelihoods(name, call, x64):
    check(SOLVED[call], denoiser(PROCESSES[name]), X, rtol=1e-4)


def test_time_at_log_snr_in_the_end_of_beta(x64):
    """VP(.1, b).time_at_log_snr(0.): B(t) = log 2, so that dt/db = -t²/2 / (β_min + t (b - β_min))."""
    b = 20.0
    slope = b - 0.1
    t = (-0.1 + math.sqrt(0.01 + 2 * slope * math.log(2))) / slope
    expected = -(t**2) / 2 / (0.1 + t * slope)
    for derivative in (jax.grad, jax.jacfwd):
        found = derivative(lambda b: jd.VP(0.1, b).time_at_log_snr(0.0))(b)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", few_names(["likelihood", "encode", "sample"], "encode"))
def test_the_default_of_an_adaptive_solve_goes_backward_and_says_so(name, x64):
    model, x = denoiser(jd.VP()), jnp.asarray(X)
    calls = {
        "likelihood": lambda x: (
            jd.log_likelihood(KEY, model, x, flow=S.ProbabilityFlow(rtol=1e-3), trace=Exact()).log_prob
        ),
        "encode": lambda x: jd.encode(model, x, flow=S.ProbabilityFlow(rtol=1e-3)),
        "sample": lambda x: jd.sample(KEY, model, (N, D), S.ProbabilityFlow(rtol=1e-3), x_start=x),
    }
    with pytest.raises(TypeError, match=r"ForwardMode.*DirectAdjoint"):
        jax.jvp(calls[name], (x,), (x,))


@pytest.mark.slow
def test_a_hessian_of_a_likelihood(x64):
    """On a Gaussian it is -C⁻¹."""
    covariance = np.array([[0.5, 0.2], [0.2, 0.4]])
    model = jd.exact.Gaussian(jd.VP(), np.zeros(2), covariance)
    settings = {"flow": within(1e-8, adjoint=diffrax.DirectAdjoint()), "trace": Exact(), "t_min": 0.0}
    value = lambda x: jd.log_likelihood(KEY, model, x[None], **settings).log_prob[0]
    np.testing.assert_allclose(jax.hessian(value)(jnp.array([0.3, -0.2])), -np.linalg.inv(covariance), rtol=1e-5)


def test_exact_denoisers(x64):
    """To weights, means and covariances, two of whose eigenvalues are equal."""
    weights, means = np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-1.0, 0.5]])
    roots = np.array([np.eye(2), [[0.6, 0.0], [0.2, 0.5]]])

    def values(weights, means, roots):
        model = jd.exact.Mixture(jd.VP(), weights, means, jnp.einsum("kij,klj->kil", roots, roots))
        return jnp.concatenate([jnp.ravel(part) for part in (*model(X, 0.3), model.log_prob(X, 0.1))])

    check(values, weights, means, roots)
    known = jd.exact.Mixture(jd.VP(), weights, means, np.einsum("kij,klj->kil", roots, roots))
    expected = np.concatenate([np.ravel(part) for part in (*known(X, 0.3), known.log_prob(X, 0.1))])
    np.testing.assert_allclose(jax.jit(values)(weights, means, roots), expected, rtol=1e-9, atol=1e-12)
