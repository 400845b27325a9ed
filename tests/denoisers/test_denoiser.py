import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import OF_FEW_PROCESSES, draw_mixture, mixture
from flax import nnx

import jaxdiff as jd
from jaxdiff.networks import MLP

NAMES = ("data", "noise", "score", "v", "velocity", "edm")


def target(name, process, t, x0, noise, data_std):
    """What each paper tells its network to predict, from the clean data and the noise."""
    alpha, sigma = process.marginal(t)
    if name == "velocity":
        d_alpha, d_sigma = process.velocity(t)
        return d_alpha * x0 + d_sigma * noise
    if name == "edm":  # D = c_skip x + c_out F; the difference of near numbers wants more digits than float64
        alpha, sigma, x0, noise = (np.asarray(c, np.longdouble) for c in (alpha, sigma, x0, noise))
        c_skip = alpha * data_std**2 / (sigma**2 + alpha**2 * data_std**2)
        c_out = sigma * data_std / np.sqrt(sigma**2 + alpha**2 * data_std**2)
        return jnp.asarray(((x0 - c_skip * (alpha * x0 + sigma * noise)) / c_out).astype(float))
    phi = jnp.arctan2(sigma, alpha)
    return {
        "data": x0,
        "noise": noise,
        "score": -noise / sigma,
        "v": jnp.cos(phi) * noise - jnp.sin(phi) * x0,
    }[name]


@pytest.mark.parametrize("process", OF_FEW_PROCESSES)
@pytest.mark.parametrize("name", NAMES)
def test_every_parameterization_gives_the_same_truth(name, process, x64):
    x0, noise = jnp.asarray(draw_mixture(0, 8)), jnp.asarray(draw_mixture(1, 8))
    for dtype in (jnp.float64, jnp.float32):
        eps = float(jnp.finfo(dtype).eps)
        for t in (1e-4, 0.0103, 0.5003, 0.9903, 1 - 1e-4):  # off the corners of the table
            alpha, sigma = (float(c) for c in process.marginal(t))
            x = (alpha * x0 + sigma * noise).astype(dtype)
            out = target(name, process, t, x0, noise, 0.7).astype(dtype)
            denoiser = jd.Denoiser(lambda params, x, c, cond: params, out, process, name, data_std=0.7)
            predicted = denoiser(x, jnp.asarray(t, dtype))
            # x and out are rounded to eps of their size, λ(t) to eps of its own; the system's inverse spreads that.
            a, b = (float(c) for c in jd.processes.row(name, process, t, 0.7))
            det = abs(alpha * b - sigma * a)
            size = 1 + float(jnp.abs(x).max()) + float(jnp.abs(out).max())
            rounding = 200 * eps * size
            limit_data = rounding * (abs(b) + sigma) / det
            limit_noise = rounding * (abs(a) + alpha) / det
            assert float(jnp.abs(predicted.data - x0).max()) <= limit_data + 1e-12, (name, t, dtype)
            assert float(jnp.abs(predicted.noise - noise).max()) <= limit_noise + 1e-12, (name, t, dtype)


def test_edm_row_is_the_papers(x64):
    """c_skip, c_out, c_in and c_noise of Karras et al. 2022, table 1."""
    process, std, t = jd.EDM(), 0.5, 0.4
    _, sigma = process.marginal(t)
    x = jnp.asarray(draw_mixture(2, 4)) * sigma

    def network(params, x_in, c_noise, cond):
        np.testing.assert_allclose(x_in, x / jnp.sqrt(sigma**2 + std**2), rtol=1e-9)
        np.testing.assert_allclose(c_noise, jnp.full(4, jnp.log(sigma) / 4), rtol=1e-9)
        return jnp.sin(x_in)

    c_skip, c_out = std**2 / (sigma**2 + std**2), sigma * std / jnp.sqrt(sigma**2 + std**2)
    denoised = c_skip * x + c_out * jnp.sin(x / jnp.sqrt(sigma**2 + std**2))
    predicted = jd.Denoiser(network, None, process, "edm", std)(x, t)
    np.testing.assert_allclose(predicted.data, denoised, rtol=1e-9)
    np.testing.assert_allclose(predicted.noise, (x - denoised) / sigma, rtol=1e-8)


def test_network_input_is_finite_at_both_ends(process):
    seen = []

    def network(params, x, c_noise, cond):
        seen.append((x, c_noise))
        return x

    denoiser = jd.Denoiser(network, None, process, "v")
    for t in (0.0, 1.0):
        denoiser(jnp.ones((2, 3)), t)
        x, c_noise = seen.pop()
        assert jnp.isfinite(x).all()
        assert (jnp.abs(c_noise) <= 3).all()
        assert c_noise.shape == (2,)


def test_angular_velocity_is_the_probability_flow(process, x64):
    """dz/dφ = v against dx/dt = f x - g²/2 ∇log p (Song et al. 2021, eq. 13), by the chain rule."""
    denoiser, t = mixture(process), 0.4003
    x = jnp.asarray(draw_mixture(5, 6))
    f, g = jd.forward_sde(process, t)
    dx = f * x - g**2 / 2 * jd.score(denoiser, x, t)
    q, phi = process.scale(t), process.angle
    dq, dphi = jax.grad(lambda t: process.scale(t))(t), jax.grad(lambda t: phi(t))(t)
    v = jd.denoisers.angular_velocity(denoiser, x, t)
    np.testing.assert_allclose(dx / q - x * dq / q**2, v * dphi, rtol=1e-6, atol=1e-9)


def test_classifier_free_guidance():
    def network(params, x, c_noise, cond):
        return jnp.zeros_like(x) + (0.0 if cond is None else cond[:, None])

    denoiser = jd.Denoiser(network, None, jd.VP(), "data")
    x, cond = jnp.ones((3, 2)), jnp.array([1.0, 2.0, 3.0])
    for scale, expected in ((0.0, 0.0), (1.0, cond), (3.0, 3 * cond)):
        guided = jd.guidance.ClassifierFree(denoiser, scale)(x, 0.5, cond)
        np.testing.assert_allclose(guided.data, jnp.zeros((3, 2)) + jnp.reshape(expected, (-1, 1)), atol=1e-6)
        alpha, sigma = jd.VP().marginal(0.5)
        np.testing.assert_allclose(alpha * guided.data + sigma * guided.noise, x, rtol=1e-5)


def test_denoiser_is_a_pytree_of_its_numbers():
    denoiser = jd.Denoiser(lambda params, x, c, cond: x, {"w": jnp.ones(2)}, jd.VP(), "v")
    leaves = jax.tree.leaves(denoiser)
    assert len(leaves) == 4  # w, β_min, β_max, data_std
    doubled = dataclasses.replace(denoiser, params={"w": jnp.zeros(2)})
    assert jax.tree.structure(doubled) == jax.tree.structure(denoiser)


def test_unknown_rows_other_shapes_and_times_without_an_answer_are_refused():
    echo = jd.Denoiser(lambda params, x, c, cond: x, None, jd.Flow(), "noise")
    with pytest.raises(ValueError, match="'eps' is unknown; expected one of data, noise"):
        jd.Denoiser(lambda *a: None, None, jd.VP(), "eps")
    for theirs, ours in (("epsilon", "noise"), ("sample", "data"), ("v_prediction", "v")):
        with pytest.raises(ValueError, match=f"{theirs} of diffusers is {ours}$"):
            jd.Denoiser(lambda *a: None, None, jd.VP(), theirs)
    with pytest.raises(ValueError, match=r"returned shape \(4, 2\) for x of shape \(4, 3\)"):
        jd.Denoiser(lambda params, x, c, cond: x[:, :2], None, jd.VP())(jnp.zeros((4, 3)), 0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        echo(jnp.zeros((4, 3)), 1.5)
    with pytest.raises(ValueError, match=r"t has shape \(4, 1\)"):
        echo(jnp.zeros((4, 3)), jnp.full((4, 1), 0.5))
    for denoiser in (echo, jd.guidance.ClassifierFree(echo, 2.0)):
        with pytest.raises(ValueError, match=r"alpha\(1.0\) = 0 for Flow"):
            jd.denoisers.check_start(denoiser, 1.0)
        jd.denoisers.check_start(denoiser, 0.999)


def test_a_network_called_otherwise_is_refused_when_it_is_given():
    module = MLP(2, hidden=(4,), rngs=nnx.Rngs(0))
    for network, takes in (
        (lambda params, x, t: x, r"\(params, x, t\)"),
        (module, r"\(x, c_noise, cond\)"),
        (lambda: 0, r"\(\)"),
    ):
        for make in (lambda network: jd.Denoiser(network, None, jd.VP()), lambda network: jd.Bridge(network, None)):
            with pytest.raises(TypeError, match=f"network takes {takes}.*Of a Flax module .*initialize"):
                make(network)
    for network in (lambda params, x, *more, **others: x, max):  # a builtin has no signature
        jd.Denoiser(network, None, jd.VP())
