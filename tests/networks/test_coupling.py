import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks import Coupling, initialize


def test_log_det_is_that_of_the_jacobian(x64):
    network, params = initialize(jax.random.key(0), lambda rngs: Coupling(2, 8, 3, rngs=rngs))
    noise, x = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 2))
    y, log_det = network(params, noise, x)
    np.testing.assert_array_equal(y, noise)
    np.testing.assert_array_equal(log_det, 0.0)

    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape)), params)
    y, log_det = network(params, noise, x)
    one = lambda e, x: network(params, e[None], x[None])[0][0]
    jacobian = jax.jit(jax.vmap(jax.jacfwd(one)))(noise, x).reshape(3, 32, 32)
    sign, truth = np.linalg.slogdet(jacobian)
    assert (sign > 0).all()
    assert np.abs(truth).min() > 0.5
    np.testing.assert_allclose(log_det, truth, rtol=1e-9)
