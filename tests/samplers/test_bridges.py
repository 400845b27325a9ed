"""Bridges against the Gaussian Schrödinger bridge N(-0.1, I) to N(0.1, I), known in closed form at every t."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_pairs, schrodinger_covariance
from test_moments import check_moments

import jaxdiff as jd
from jaxdiff.denoisers import Swapped, ToData
from jaxdiff.losses import BridgeMatching
from jaxdiff.losses.couplings import Entropic, Independent, Paired
from jaxdiff.samplers import DDIM, DPMSolverPP, Heun, ProbabilityFlow


def variance(sigma, t):
    return (1 - t) ** 2 + t**2 + t * (1 - t) * np.sqrt(4 + sigma**4)


def schrodinger(sigma, d=1):
    return gaussian_pairs(sigma, schrodinger_covariance(sigma), d=d)


def random_bridge(scale=0.7, sigma=0.8):
    network = lambda params, x, c, cond: (jnp.tanh(params * x) + c[:, None], jnp.sin(x * c[:, None]))
    return jd.Bridge(network, scale, sigma)


def test_brownian_motion_between_two_ends(x64):
    """`posterior` of the reference: x_t of a pair, and the step back to the data, as they are written for bridges."""
    t, s, sigma = 0.7, 0.2, 1.3
    process = jd.Brownian(sigma)
    np.testing.assert_allclose(jd.posterior(process, t, 1.0), [t, 1 - t, sigma * np.sqrt(t * (1 - t))], rtol=1e-12)
    np.testing.assert_allclose(
        jd.posterior(process, s, t), [s / t, 1 - s / t, sigma * np.sqrt(s * (t - s) / t)], rtol=1e-12
    )


def test_both_drifts_make_the_flow_and_the_score(x64):
    """u = (b + b̄)/2 and σ² s = b - b̄ with b = (E[x_1|x] - x)/(1 - t) and b̄ = (x - E[x_0|x])/t."""
    bridge, t = random_bridge(), jnp.array([0.1, 0.5, 0.9])
    x = jax.random.normal(jax.random.key(0), (3, 2))
    to_data = (x - ToData(bridge)(x, t).data) / t[:, None]
    to_source = (ToData(Swapped(bridge))(x, 1 - t).data - x) / (1 - t[:, None])
    flow = bridge(x, t)
    np.testing.assert_allclose(flow.noise - flow.data, (to_data + to_source) / 2, rtol=1e-9)
    np.testing.assert_allclose(bridge.predict(x, t).score, (to_source - to_data) / 0.8**2, atol=1e-9)
    back = Swapped(bridge)(x, 1 - t)
    np.testing.assert_allclose(back.noise - back.data, flow.data - flow.noise, rtol=1e-9)
    for model in (bridge, ToData(bridge)):  # and x is what its parts say, the ends included
        ends = jnp.array([0.0, 0.5, 1.0])
        alpha, std = (c[:, None] for c in model.process.marginal(ends))
        data, noise = model(x, ends)
        np.testing.assert_allclose(alpha * data + std * noise, x, rtol=1e-9)


def test_flow_has_its_order_and_the_marginals(x64):
    """Between Gaussians on the line the flow keeps (x - m_t)/√V_t, V_t the bridge's variance."""
    sigma = 1.0
    bridge, source = schrodinger(sigma), jnp.array([[-1.5], [0.0], [2.0]])
    at = lambda t: 0.2 * t - 0.1 + (source - 0.1) * np.sqrt(variance(sigma, t))

    def error(sampler, steps, t_end=0.3):
        grid = np.linspace(1.0, t_end, steps + 1)
        x = jd.sample(jax.random.key(0), bridge, (3, 1), sampler, x_start=source, grid=grid)
        return float(jnp.abs(x - at(t_end)).max())

    for sampler, order in ((DDIM(), 1), (Heun(), 2)):
        assert abs(np.log2(error(sampler, 40) / error(sampler, 80)) - order) < 0.1, sampler
    tight = ProbabilityFlow(rtol=1e-10, atol=1e-10)
    path = jd.sample(
        jax.random.key(0), bridge, (3, 1), tight, 4, x_start=source, grid=jd.grids.Time(), t_end=0.0, trajectory=True
    )
    for t, x in zip((1.0, 0.75, 0.5, 0.25, 0.0), path):
        np.testing.assert_allclose(x, at(t), atol=1e-8)


@pytest.mark.parametrize("to", ["data", pytest.param("source", marks=pytest.mark.slow)])
def test_the_sde_has_the_bridges_marginals(to):
    n, steps, sigma = 20_000, 100, 1.0
    start = jax.random.normal(jax.random.key(0), (n, 2)) + (0.1 if to == "data" else -0.1)
    path = jd.cross(jax.random.key(1), schrodinger(sigma, 2), start, to, steps, grid=jd.grids.Time(), trajectory=True)
    for step in (25, 50, 75, 100):
        t = 1 - step / steps if to == "data" else step / steps
        check_moments(path[step], np.full(2, 0.2 * t - 0.1), variance(sigma, t) * np.eye(2))
    plan = np.mean((path[0] - path[0].mean(0)) * (path[-1] - path[-1].mean(0)), axis=0)
    c = schrodinger_covariance(sigma)
    assert (np.abs(plan - c) < 4 * np.sqrt((1 + c**2) / n)).all()


def test_without_noise_it_is_optimal_transport(x64):
    """σ -> 0: x_t on the straight line of a translation, at the rate of the closed form, σ⁴/4."""
    source, sigma = jnp.array([[-1.5], [2.0]]), 0.1
    middle = jd.sample(
        jax.random.key(0), schrodinger(sigma), (2, 1), Heun(), 200, x_start=source, t_end=0.5, grid=jd.grids.Time()
    )
    off = (source - 0.1) * (np.sqrt(variance(sigma, 0.5)) - 1)
    np.testing.assert_allclose(middle - (source - 0.1), off, atol=1e-8)
    assert np.abs(off).max() < 1e-4
    still = gaussian_pairs(0.0, 1 - 1e-12)
    one_step = jd.sample(jax.random.key(0), still, (2, 1), DPMSolverPP(), 1, x_start=source)
    np.testing.assert_allclose(one_step, source - 0.2, atol=1e-9)


FEATURES = 6


def linear(params, x, c_noise, cond):
    """w and -n s, each affine in x (as it was before c_in, at σ = data_std = 1) by Chebyshev polynomials in t."""
    t = jax.nn.sigmoid(4 * c_noise)[:, None]
    x = x * jnp.sqrt(1 - t * (1 - t))
    polynomials = jnp.cos(jnp.arange(FEATURES) * jnp.arccos(1 - 2 * t))
    slope, shift = jnp.moveaxis(jnp.einsum("bk,koc->boc", polynomials, params), -1, 0)
    out = slope[..., None] * x[:, None] + shift[..., None]
    return out[:, 0], out[:, 1]


@pytest.mark.slow
def test_a_trained_bridge_is_the_schrodinger_bridge(x64):
    """The loss is quadratic in a linear network's parameters: one Newton step on 2^16 entropic pairs is its minimum."""
    n, batch = 10_000, 1024
    source = lambda key, n: 0.1 + jax.random.normal(key, (n, 1))
    loss = BridgeMatching(Entropic(1.0, Independent(source), sweeps=1))

    def total(params, key):
        data_key, key = jax.random.split(key)
        x0 = jax.random.normal(data_key, (batch, 1)) - 0.1
        return loss(jd.Bridge(linear, params, 1.0, 1.0), key, x0).mean()

    @jax.jit
    def newton(keys):
        zero = jnp.zeros((FEATURES, 2, 2))
        twice = lambda gradient: (gradient, gradient)
        both = lambda key: jax.jacfwd(lambda params: twice(jax.grad(total)(params, key)), has_aux=True)(zero)
        hessian, gradient = jax.tree.map(lambda s: s.mean(0), jax.lax.map(both, keys))
        size = zero.size
        return -jnp.linalg.lstsq(hessian.reshape(size, size), gradient.ravel())[0].reshape(zero.shape)

    bridge = jd.Bridge(linear, newton(jax.random.split(jax.random.key(0), 64)), 1.0, 1.0)
    start = jax.random.normal(jax.random.key(1), (n, 1)) + 0.1
    path = jd.cross(jax.random.key(2), bridge, start, grid=jd.grids.Time(), trajectory=True)
    for step in (25, 50):
        t = 1 - step / 50
        check_moments(path[step], np.array([0.2 * t - 0.1]), variance(1.0, t) * np.eye(1))
    plan = float(jnp.cov(path[0, :, 0], path[-1, :, 0])[0, 1])
    c = schrodinger_covariance(1.0)
    assert abs(plan - c) < 4 * np.sqrt((1 + c**2) / n)


@pytest.mark.slow
def test_iterative_markovian_fitting_finds_the_plan():
    """DSBM from pairs that run against each other: match, cross from either end in turn, pair anew.

    Between Gaussians matching is regression, so that a correlation is all there is to learn.
    """
    n, sigma, correlation = 8_000, 1.0, -0.9
    x0, x1 = (jax.random.normal(jax.random.key(end), (n, 1)) + 0.2 * end - 0.1 for end in (0, 1))
    seen = []
    for k in range(6):
        bridge, key = gaussian_pairs(sigma, correlation), jax.random.key(2 + k)
        if k % 2:
            pairs = jnp.stack([jd.cross(key, bridge, x1), x1], axis=1)
        else:
            pairs = jnp.stack([x0, jd.cross(key, bridge, x0, to="source")], axis=1)
        data, source = (side[:, 0] for side in Paired()(key, pairs))
        correlation = float(jnp.corrcoef(data, source)[0, 1])
        seen.append(correlation)
    c = schrodinger_covariance(sigma)
    standard_error = (1 - c**2) / np.sqrt(n)
    assert abs(seen[0] - c) > 20 * standard_error
    assert abs(seen[-1] - c) < 4 * standard_error


def test_an_example_depends_on_its_key_and_index_alone():
    start = jax.random.normal(jax.random.key(0), (5, 2))
    many, few = (jd.cross(jax.random.key(1), random_bridge(), x, steps=4) for x in (start, start[:2]))
    np.testing.assert_allclose(few, many[:2], rtol=1e-5)


def test_new_numbers_compile_nothing():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(key, bridge, x):
        bridge = jd.Bridge(random_bridge().network, bridge.params, bridge.sigma, bridge.data_std)
        return jd.cross(key, bridge, x, steps=3), BridgeMatching()(bridge, key, x)

    fixed = random_bridge()
    for k in (0.5, 1.5):
        run(jax.random.key(0), jd.Bridge(fixed.network, k, k, k), jnp.ones((2, 2)))


def test_ends_sigmas_and_networks_that_make_no_bridge_are_refused():
    key, x = jax.random.key(0), jnp.ones((2, 2))
    single = jd.Bridge(lambda params, x, c, cond: x, None)
    for call, message in (
        (lambda: jd.cross(key, random_bridge(), x, to="noise"), """to = 'noise'; expected "data" or "source\""""),
        (lambda: jd.cross(key, random_bridge(sigma=0.0), x), "sigma = 0.0; expected a number above 0"),
        (lambda: jd.cross(key, random_bridge(), x, steps=0), "steps = 0"),
        (lambda: jd.cross(key, random_bridge(), x.at[1, 0].set(jnp.nan)), r"x\[1\] holds a NaN"),
        (lambda: jd.Bridge(single.network, None, -1.0), "sigma = -1.0"),
        (lambda: single(x, 0.5), r"shapes \[\(2,\), \(2,\)\] for x \(2, 2\); expected two of that shape"),
        (lambda: random_bridge()(x, 1.5), r"outside \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
