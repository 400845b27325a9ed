import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.networks import MLP, Fourier, Sinusoidal, initialize


def frequencies(waves):
    """Read from the slope of the sines at 0."""
    slope = jax.jvp(waves, (jnp.zeros(1),), (jnp.ones(1),))[1][0]
    return np.asarray(slope[len(slope) // 2 :])


def test_sinusoidal_frequencies_are_geometric():
    w = frequencies(Sinusoidal(waves=5, lowest=1.0, highest=16.0))
    np.testing.assert_allclose(w, [1, 2, 4, 8, 16], rtol=1e-6)


def test_fourier_frequencies_follow_the_normal_distribution():
    w = frequencies(Fourier(waves=64, scale=3.0))
    assert stats.kstest(w / (2 * np.pi * 3.0), stats.halfnorm.cdf).statistic <= 1 / 128 + 1e-5


@pytest.mark.parametrize("waves", [Sinusoidal(), Fourier()])
def test_waves_tell_noise_levels_apart(waves):
    c_noise = jnp.linspace(-3, 3, 97)  # half a unit of log-SNR apart
    features = waves(c_noise)
    assert features.shape == (97, 32)
    np.testing.assert_allclose(jnp.sum(features**2, -1), 16, rtol=1e-5)  # cos² + sin²
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert distance[~np.eye(97, dtype=bool)].min() > 0.5


@pytest.fixture(scope="module")
def labelled():
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(8,), classes=3, rngs=rngs))
    params["out"]["kernel"] = jnp.ones_like(params["out"]["kernel"])
    return network, params, jax.random.normal(jax.random.key(1), (2, 2))


def test_no_label_is_the_last_row_of_the_table(labelled):
    network, params, x = labelled
    table = params["embed"]["label"]["table"]["embedding"]
    assert table.shape == (4, 8)
    none = network(params, x, 0.1)
    np.testing.assert_array_equal(none, network(params, x, 0.1, jnp.array([3, 3])))
    outs = [np.asarray(network(params, x, 0.1, label)) for label in range(4)]
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(outs) for b in outs[:i])
    gradient = jax.grad(lambda p: jnp.sum(network(p, x, 0.1)))(params)["embed"]["label"]["table"]["embedding"]
    assert np.all(gradient[:3] == 0)
    assert np.any(gradient[3] != 0)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_out_of_range_are_refused_or_nan(labelled, label):
    network, params, x = labelled
    cond = jnp.array([0, label])
    with pytest.raises(ValueError, match=f"label {label} is out of range; expected 0 to 2, or 3"):
        network(params, x, 0.1, cond)
    traced = jax.jit(network)(params, x, 0.1, cond)
    assert np.all(np.isfinite(traced[0]))
    assert np.all(np.isnan(traced[1]))


def test_labels_of_another_kind_are_refused(labelled):
    network, params, x = labelled
    with pytest.raises(TypeError, match="cond has dtype float32; expected integer labels"):
        network(params, x, 0.1, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"cond has shape \(3,\); expected a scalar or \[2\]"):
        network(params, x, 0.1, jnp.array([0, 1, 2]))
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(8,), rngs=rngs))
    with pytest.raises(ValueError, match="network without classes"):
        network(params, x, 0.1, jnp.array([0, 1]))
