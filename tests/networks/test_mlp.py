import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.networks import MLP, initialize


@pytest.mark.slow
def test_it_learns_the_score_of_two_points():
    """x = ±m + noise: the best estimate of the noise is (x - α m tanh(α m·x / σ²)) / σ, in closed form."""
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(64, 64), rngs=rngs))
    mean = jnp.array([1.0, -0.5])

    def noised(key, n):
        k_sign, k_noise, k_level = jax.random.split(key, 3)
        phi = jax.random.uniform(k_level, (n, 1), minval=0.3, maxval=1.4)
        noise = jax.random.normal(k_noise, (n, 2))
        x0 = mean * jax.random.rademacher(k_sign, (n, 1), float)
        x = jnp.cos(phi) * x0 + jnp.sin(phi) * noise
        shrunk = mean * jnp.tanh(jnp.cos(phi) * (x @ mean)[:, None] / jnp.sin(phi) ** 2)
        best = (x - jnp.cos(phi) * shrunk) / jnp.sin(phi)
        return x, jnp.log(jnp.tan(phi[:, 0])) / 4, noise, best

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 1000))

    def step(carry, key):
        params, state = carry
        x, c_noise, noise, _ = noised(key, 256)
        grads = jax.grad(lambda p: jnp.mean((network(p, x, c_noise) - noise) ** 2))(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), 1000)
    params = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys)[0][0])(params)
    x, c_noise, _, best = noised(jax.random.key(2), 4096)
    # a network that answers 0 is 0.87 away, one that is not told the noise level 0.10
    assert float(jnp.mean((network(params, x, c_noise) - best) ** 2)) < 0.01


def test_layers_as_wide_as_their_input_are_residual():
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(2, 2), rngs=rngs))
    params = jax.tree.map(jnp.zeros_like, params)
    params["out"]["kernel"] = jnp.eye(2)
    x = jax.random.normal(jax.random.key(1), (5, 2))
    np.testing.assert_array_equal(network(params, x, 0.0), x)


def test_errors():
    with pytest.raises(ValueError, match="hidden is empty"):
        initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(), rngs=rngs))
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, hidden=(4,), rngs=rngs))
    with pytest.raises(ValueError, match=r"x has examples of shape \(3,\); expected \(2,\)"):
        network(params, jnp.ones((5, 3)), 0.0)


def test_outputs_stand_side_by_side_in_the_last_axis():
    network, params = initialize(jax.random.key(0), lambda rngs: MLP((4, 2), (8,), outputs=2, rngs=rngs))
    out = jax.eval_shape(network, params, jnp.zeros((3, 4, 2)), jnp.zeros(3))
    assert out.shape == (3, 4, 4)
