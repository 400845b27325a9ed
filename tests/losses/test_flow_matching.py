import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_pairs

import jaxdiff as jd
from jaxdiff.losses import BridgeMatching, Denoising, FlowMatching
from jaxdiff.losses.couplings import Independent, OptimalTransport, Paired


@dataclasses.dataclass(frozen=True)
class Fixed:
    t: float

    def __call__(self, key, process, n):
        return jnp.full(n, self.t), jnp.ones(n)


def tanh(params, x, c_noise, cond):
    return params * jnp.tanh(x) + c_noise[:, None]


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_from_a_normal_source_it_is_denoising(sigma_min):
    """Lipman et al. 2023, eq. 23: pairs of data and independent noise are what Denoising draws itself."""
    denoiser = jd.Denoiser(tanh, 0.7, jd.Flow(sigma_min), "velocity")
    x0 = jax.random.normal(jax.random.key(0), (16, 3))
    key = jax.random.key(1)
    found, expected = jax.jit(lambda x0: [loss(denoiser, key, x0) for loss in (FlowMatching(), Denoising())])(x0)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def correlated(key, n, covariance):
    """Pairs [n, 2, 1] of `gaussian_pairs`."""
    root = np.linalg.cholesky([[1.0, covariance], [covariance, 1.0]])
    return (jax.random.normal(key, (n, 2)) @ root.T + np.array([-0.1, 0.1]))[..., None]


def conditional_variance(covariance, t, noise_variance):
    """Of x_1 - x_0 given x_t = (1 - t) x_0 + t x_1 + noise, jointly Gaussian."""
    joint, a, b = np.array([[1.0, covariance], [covariance, 1.0]]), np.array([1 - t, t]), np.array([-1.0, 1.0])
    spread = a @ joint @ a + noise_variance
    return b @ joint @ b - (a @ joint @ b) ** 2 / spread, spread


@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_the_least_loss_is_the_conditional_variance_of_the_velocity(sigma):
    """For dependent Gaussian pairs: the exact E[x_1 - x_0 | x_t] reaches it, and a scaled one does not."""
    n, t, covariance = 20_000, 0.3, 0.8
    least, spread = conditional_variance(covariance, t, sigma**2)
    gain = (t - (1 - t) + covariance * (1 - 2 * t)) / spread  # Cov(x_1 - x_0, x_t) / Var x_t

    def exact(scale, x, c_noise, cond):
        x = x * jnp.hypot((1 - t) * 0.5, t)  # as it was before c_in
        return scale * (0.2 + gain * (x - (-0.1 + 0.2 * t)))

    loss, pairs = FlowMatching(Paired(), sigma, Fixed(t)), correlated(jax.random.key(0), n, covariance)
    run = jax.jit(lambda scale: loss(jd.Denoiser(exact, scale, jd.Flow(), "velocity"), jax.random.key(1), pairs))
    at = lambda scale: np.asarray(run(scale), np.float64)
    assert abs(at(1.0).mean() - least) < 4 * at(1.0).std() / np.sqrt(n)
    assert at(1.0).mean() < min(at(0.7).mean(), at(1.3).mean())


@pytest.mark.parametrize("t", [pytest.param(0.02, marks=pytest.mark.slow), 0.4])
def test_the_least_bridge_loss_is_the_conditional_variance_of_its_targets(t):
    n, covariance, sigma = 20_000, 0.5, 1.3
    gamma = sigma**2 * t * (1 - t)
    least, spread = conditional_variance(covariance, t, gamma)
    loss = BridgeMatching(Paired(), Fixed(t))
    pairs = correlated(jax.random.key(0), n, covariance)
    values = jax.jit(loss)(gaussian_pairs(sigma, covariance), jax.random.key(1), pairs)
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - (least + 1 - gamma / spread)) < 4 * values.std() / np.sqrt(n)


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport()], ids=["Independent", "OptimalTransport"])
def test_labels_stay_with_their_examples(coupling):
    """Whoever is told x_0 by the label knows the velocity (x_t - x_0)/t of its pair: no loss."""
    t = 0.25

    def told(params, x, c_noise, cond):
        return (x * jnp.hypot((1 - t) * 0.5, t) - cond[:, None]) / t

    x0 = jax.random.normal(jax.random.key(0), (32, 1))
    denoiser = jd.Denoiser(told, None, jd.Flow(), "velocity")
    loss = jax.jit(FlowMatching(coupling, times=Fixed(t)))(denoiser, jax.random.key(1), x0, x0[:, 0])
    np.testing.assert_allclose(loss, 0, atol=1e-9)


def test_gradients_pass_by_the_assignment():
    x0 = jax.random.normal(jax.random.key(0), (8, 2))
    total = lambda k: FlowMatching(OptimalTransport())(
        jd.Denoiser(tanh, k, jd.Flow(), "velocity"), jax.random.key(1), x0
    ).sum()
    step, of = 1e-2, jax.jit(total)
    slope = (of(0.5 + step) - of(0.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(0.5), slope, rtol=1e-3)


def test_integer_data_a_nan_and_a_negative_sigma_are_refused():
    denoiser = jd.Denoiser(tanh, 0.7, jd.Flow(), "velocity")
    bridge = jd.Bridge(lambda params, x, c, cond: (x, x), None)
    for loss, model in ((FlowMatching(), denoiser), (BridgeMatching(), bridge)):
        with pytest.raises(TypeError, match="uint8"):
            loss(model, jax.random.key(0), np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match=r"x0\[1\] holds a NaN"):
            loss(model, jax.random.key(0), np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match="sigma = -1.0"):
        FlowMatching(sigma=-1.0)
