import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import draw_mixture, mixture, within
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.denoisers import Gradient, InnerProduct

NAMES = ("data", "noise", "score", "v", "velocity", "edm")
VP, EDM, FLOW = jd.VP(), jd.EDM(), jd.Flow()
CASES = [(VP, name) for name in NAMES] + [(EDM, "edm"), (EDM, "score"), (FLOW, "velocity"), (FLOW, "v")]


def bumps(params, x, c_noise, cond):
    """Some smooth function of x, of the noise level and of the label."""
    label = 0.0 if cond is None else 0.3 * cond
    return jnp.sum(jnp.tanh(x @ params + c_noise[:, None]) * jnp.sin(x.sum(1) + label)[:, None], 1)


PARAMS = np.random.default_rng(0).standard_normal((2, 3))


@pytest.mark.parametrize(("process", "name"), CASES, ids=lambda c: c if isinstance(c, str) else type(c).__name__)
def test_the_score_is_minus_the_gradient_of_the_energy(process, name, x64):
    x, labels = jnp.asarray(draw_mixture(0, 4)), jnp.arange(4)
    denoiser = jd.Denoiser(Gradient(bumps), PARAMS, process, name, data_std=0.7)
    both = jax.jit(
        lambda x, t: (
            jax.grad(lambda x: jd.energy(denoiser, x, t, labels).sum())(x),
            jd.score(denoiser, x, t, labels),
        )
    )
    for t in (jnp.full(4, 0.02), jnp.array([0.3, 0.5, 0.7, 0.95])):
        gradient, score = both(x, t)
        np.testing.assert_allclose(gradient, -score, rtol=1e-9, atol=1e-9)


def test_the_jacobian_is_symmetric_and_that_of_a_network_is_not(x64):
    def network(params, x, c_noise, cond):
        return jnp.tanh(x @ params)

    x, turn = jnp.asarray(draw_mixture(1, 1)), jnp.array([[0.5, 1.0], [-1.0, 0.5]])
    asymmetry = []
    for wrapped in (Gradient(InnerProduct(network)), network):
        denoiser = jd.Denoiser(wrapped, turn, VP)
        jacobian = jax.jit(jax.jacfwd(lambda x: denoiser(x[None], 0.4).data[0]))(x[0])
        asymmetry.append(float(jnp.abs(jacobian - jacobian.T).max()))
    assert asymmetry[0] < 1e-12
    assert asymmetry[1] > 1e-2


def of_a_gaussian(process, name, mean, variance, data_std=0.7):
    """The potential of N(mean, variance I), by hand: the antiderivative of a E[x_0 | x] + b E[ε | x] in u = c_in x."""

    def potential(params, u, c_noise, cond):
        t = process.time_at_log_snr(-8 * c_noise)
        (alpha, sigma), (a, b) = process.marginal(t), jd.processes.row(name, process, t, data_std)
        c_in = 1 / jnp.sqrt(alpha**2 * data_std**2 + sigma**2)
        x, spread = u / c_in[:, None], alpha**2 * variance + sigma**2
        square = jnp.sum((x - alpha[:, None] * mean) ** 2, 1)
        return c_in * (a * (x @ mean) + (a * alpha * variance + b * sigma) / spread * square / 2)

    return jd.Denoiser(Gradient(potential), None, process, name, data_std)


@pytest.mark.parametrize(
    ("process", "name"), [(VP, "noise"), (VP, "v"), (EDM, "edm"), (FLOW, "v")], ids=["VP", "VP-v", "EDM", "Flow"]
)
def test_the_energy_of_a_gaussian_is_its_log_density(process, name, x64):
    mean, variance = np.array([0.5, -0.3]), 0.4
    truth, x = jd.exact.Gaussian(process, mean, variance * np.eye(2)), jnp.asarray(draw_mixture(2, 5))
    denoiser = of_a_gaussian(process, name, mean, variance)
    all_of_it = jax.jit(lambda x, t: (denoiser(x, t), truth(x, t), jd.energy(denoiser, x, t) + truth.log_prob(x, t)))
    for t in (0.1, 0.5, 0.9):
        got, expected, constant = all_of_it(x, t)
        for a, b in zip(got, expected):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(constant, jnp.broadcast_to(constant[0], (5,)), rtol=1e-9, atol=1e-8)


def test_the_likelihood_of_a_gradient(x64):
    """Along the flow of N(m, s² I), x_1 = α m + √S_1/s (x - m), to the prior and back by its slope."""
    mean, variance = np.array([0.5, -0.3]), 0.4
    x, (alpha, sigma) = draw_mixture(3, 3), (float(c) for c in VP.marginal(1.0))
    growth = np.sqrt((alpha**2 * variance + sigma**2) / variance)
    x_1 = alpha * mean + growth * (x - mean)
    truth = norm.logpdf(x_1).sum(1) + 2 * np.log(growth)
    denoiser = of_a_gaussian(VP, "v", mean, variance)
    got = jd.log_likelihood(
        jax.random.key(0), denoiser, jnp.asarray(x), trace=jd.likelihood.Exact(), flow=within(1e-9), t_min=1e-8
    )
    assert got.converged.all()
    np.testing.assert_allclose(got.log_prob, truth, atol=1e-6)


def test_every_potential_is_an_inner_product(x64):
    """ψ(u) - ψ(0) = <u, ∫_0^1 ∇ψ(τ u) dτ>, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)

    def network(params, x, c_noise, cond):
        slopes = [Gradient(bumps)(params, (1 + node) / 2 * x, c_noise, cond) for node in nodes]
        return sum(w / 2 * slope for w, slope in zip(weights, slopes))

    x, c_noise = jnp.asarray(draw_mixture(4, 5)), jnp.linspace(-1, 1, 5)
    product, whole = (jax.jit(f) for f in (InnerProduct(network), bumps))
    truth = whole(PARAMS, x, c_noise, None) - whole(PARAMS, 0 * x, c_noise, None)
    np.testing.assert_allclose(product(PARAMS, x, c_noise, None), truth, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_it_trains():
    """A small network's gradient comes near the loss of the exact denoiser, which nothing can undercut on average."""
    from jaxdiff.networks import MLP, initialize

    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, (32, 32), rngs=rngs))
    process, loss = VP, jd.losses.Denoising(jd.losses.weightings.Sigmoid())
    data = jnp.asarray(draw_mixture(5, 4096), jnp.float32)
    steps, optimizer = 300, optax.adam(optax.cosine_decay_schedule(1e-2, 300))
    of = lambda params: jd.Denoiser(Gradient(InnerProduct(network)), params, process, data_std=1.0)

    def step(carry, key):
        params, state = carry
        pick, key = jax.random.split(key)
        x0 = data[jax.random.randint(pick, (128,), 0, len(data))]
        value, gradient = jax.value_and_grad(lambda p: loss(of(p), key, x0).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(1), steps)
    (trained, _), _ = jax.jit(lambda c, keys: jax.lax.scan(step, c, keys))((params, optimizer.init(params)), keys)

    fresh = jnp.asarray(draw_mixture(6, 20_000), jnp.float32)
    score = lambda denoiser: np.asarray(jax.jit(loss)(denoiser, jax.random.key(2), fresh), float)
    before, after, exact = score(of(params)), score(of(trained)), score(mixture(process))
    excess = after - exact
    assert excess.mean() < 0.05 * (before - exact).mean()
    assert excess.mean() > -4 * excess.std() / np.sqrt(len(excess))


def test_gradients_hash_as_what_they_are_made_of():
    assert Gradient(InnerProduct(bumps)) == Gradient(InnerProduct(bumps))
    assert hash(Gradient(bumps)) == hash(Gradient(bumps))
    assert jd.networks.Gradient is Gradient


def test_potentials_that_are_no_scalars_and_denoisers_without_an_energy_are_refused():
    x = jnp.zeros((3, 2))
    vector = jd.Denoiser(Gradient(lambda params, x, c, cond: x), None, VP)
    with pytest.raises(ValueError, match=r"potential returned shape \(3, 2\).*expected \(3,\).*InnerProduct"):
        vector(x, 0.5)
    for denoiser in (jd.Denoiser(lambda params, x, c, cond: x, None, VP), mixture(VP)):
        with pytest.raises(TypeError, match=r"has no energy; expected a Denoiser of Gradient\(potential\)"):
            jd.energy(denoiser, x, 0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        jd.energy(jd.Denoiser(Gradient(InnerProduct(lambda params, x, c, cond: x)), None, VP), x, 1.5)
