"""What `Observed` and `DAPS` know of a measurement, and the solver that both call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxdiff.denoisers.guidance.measurement import Measurement, solve

RNG = np.random.default_rng(0)
D = 16
ROOTS = RNG.normal(size=(3, D, D)) / np.sqrt(D)
MATRICES = np.einsum("nij,nkj->nik", ROOTS, ROOTS) + 0.1 * np.eye(D)
B = RNG.normal(size=(3, D))
solved = jax.jit(lambda matrices, b, iterations: solve(lambda u: jnp.einsum("nij,nj->ni", matrices, u), b, iterations))


def misfit(matrices, b, u):
    return np.linalg.norm(b - np.einsum("nij,nj->ni", matrices, u), axis=1)


def test_each_system_is_solved_and_its_residual_never_grows(x64):
    exact = np.linalg.solve(MATRICES, B[..., None])[..., 0]
    np.testing.assert_allclose(solved(MATRICES, B, 100), exact, rtol=0, atol=1e-10)
    turned = MATRICES + np.einsum("i,jk->ijk", [0.0, 0.5, 2.0], np.triu(np.ones((D, D)), 1))  # as a network's Jacobian
    for matrices in (MATRICES, turned, -MATRICES, MATRICES - np.eye(D)):
        left = [misfit(matrices, B, solved(matrices, B, iterations)) for iterations in (0, 1, 2, 5, 20, 100)]
        assert (np.diff(left, axis=0) <= 1e-12).all()
    np.testing.assert_array_equal(solved(-MATRICES, B, 100), 0.0)


def test_as_many_products_are_taken_as_are_allowed_and_needed():
    """Two eigenvalues need two products, and one that finds nothing left."""
    products = []

    def matvec(u):
        jax.debug.callback(lambda: products.append(0))
        return jnp.where(jnp.arange(D) < 5, 2.0, 3.0) * u

    for allowed, taken in ((100, 3), (2, 2), (1, 1), (0, 0)):
        products.clear()
        u = solve(matvec, jnp.ones((1, D)), allowed)
        jax.effects_barrier()
        assert len(products) == taken
        assert len(np.unique(np.round(u, 4))) == (1 if taken < 2 else 2)


def test_a_singular_system_gives_least_squares_from_the_range_and_zero_gives_zero(x64):
    low = np.einsum("nij,nkj->nik", ROOTS[..., :4], ROOTS[..., :4])
    pseudo = np.stack([np.linalg.pinv(matrix, rcond=1e-10) @ b for matrix, b in zip(low, B)])
    got = np.asarray(solved(low, B, 100))  # b is outside the range
    np.testing.assert_allclose(low @ got[..., None], low @ pseudo[..., None], atol=1e-9)
    consistent = np.einsum("nij,nj->ni", low, B)
    pseudo = np.stack([np.linalg.pinv(matrix, rcond=1e-10) @ b for matrix, b in zip(low, consistent)])
    np.testing.assert_allclose(solved(low, consistent, 100), pseudo, atol=1e-9)
    for zero in (solved(low, 0 * B, 100), solved(0 * low, B, 100)):
        np.testing.assert_array_equal(zero, 0.0)


def test_examples_do_not_affect_each_other():
    """One that is done after a product, one that is not finite, and one of another scale."""
    matrices, b = np.float32(MATRICES), np.float32(B)
    alone = solved(matrices, b, 40)
    matrices[1], b[2] = np.eye(D), 1e6 * b[2]
    np.testing.assert_array_equal(solved(matrices, b, 40)[0], alone[0])
    b[1] = np.nan
    got = solved(matrices, b, 40)
    np.testing.assert_array_equal(got[0], alone[0])
    assert np.isnan(got[1]).all()


def test_derivatives_are_those_of_the_exact_solution(x64):
    """du = M⁻¹ (db - dM u), forward and backward, in one batch and under vmap."""
    change, toward = RNG.normal(size=(2, 3, D, D))[0], RNG.normal(size=(3, D))
    change = change + change.swapaxes(1, 2)
    exact = np.linalg.solve(MATRICES, B[..., None])[..., 0]
    expected = np.linalg.solve(MATRICES, (toward - np.einsum("nij,nj->ni", change, exact))[..., None])[..., 0]
    of = lambda matrices, b: solved(matrices, b, 100)
    alone = jax.vmap(lambda matrix, b: of(matrix[None], b[None])[0])
    for function in (of, alone):
        np.testing.assert_allclose(jax.jvp(function, (MATRICES, B), (change, toward))[1], expected, rtol=0, atol=1e-8)
        back = jax.vjp(function, MATRICES, B)[1](jnp.asarray(toward))
        np.testing.assert_allclose(
            sum(jnp.sum(a * b) for a, b in zip(back, (change, toward))), np.sum(toward * expected), rtol=1e-8
        )


def test_a_measurement_is_read_linearised_and_scored(x64):
    """A(x) = a x² of two numbers and their product: its derivative by hand, and SciPy's density of y."""
    operator = lambda x0, a: jnp.stack([a * x0[0] ** 2, a * x0[1] ** 2, x0[0] * x0[1]])
    measurement = Measurement(operator, np.array([0.3, 0.5]))
    x0, y, a = np.array([[1.0, 2.0], [-0.5, 3.0]]), RNG.normal(size=(2, 3)), np.array([2.0, 3.0])
    cond = {"y": y, "operator": a, "cond": "for the denoiser"}
    observation = measurement.read(cond)
    assert observation.cond == "for the denoiser"
    residual, forward, transposed = measurement.linearised(x0, observation)
    means = [[s * p**2, s * q**2, p * q] for (p, q), s in zip(x0, a)]
    jacobians = np.array([[[2 * s * p, 0], [0, 2 * s * q], [q, p]] for (p, q), s in zip(x0, a)])
    v, u = RNG.normal(size=(2, 2)), RNG.normal(size=(2, 3))
    np.testing.assert_allclose(residual, y - means)
    np.testing.assert_allclose(forward(v), np.einsum("nij,nj->ni", jacobians, v))
    np.testing.assert_allclose(transposed(u), np.einsum("nij,ni->nj", jacobians, u))
    expected = [multivariate_normal(mean, s**2 * np.eye(3)).logpdf(one) for mean, s, one in zip(means, (0.3, 0.5), y)]
    np.testing.assert_allclose(measurement.log_likelihood(x0, cond), expected)


@pytest.mark.parametrize(
    ("operator", "noise_std", "cond", "error", "words"),
    [
        (lambda: 0, 0.1, np.ones((2, 3)), TypeError, r"operator takes \(\); expected a function x0"),
        (lambda x, p, q: 0, 0.1, np.ones((2, 3)), TypeError, r"operator takes \(x, p, q\); expected"),
        (lambda x: x, -0.1, np.ones((2, 3)), ValueError, "noise_std = -0.1; expected a number of 0 or more"),
        (lambda x: x, np.ones(3), np.ones((2, 3)), ValueError, r"noise_std has shape \(3,\)"),
        (lambda x: x, 0.0, np.ones((2, 3)), ValueError, "noise_std = 0.0; expected a number above 0"),
        (lambda x: x, 0.1, None, ValueError, "cond has no y"),
        (lambda x: x, 0.1, {"cond": 0}, ValueError, "cond has no y"),
        (lambda x: x, 0.1, {"y": np.ones((2, 3)), "Y": 0}, TypeError, "cond has the part 'Y'"),
        (lambda x: x, 0.1, np.ones((2, 3), int), TypeError, "y has dtype int64; expected floating values"),
        (
            lambda x: x,
            0.1,
            {"y": np.ones((2, 3)), "operator": np.ones(2)},
            TypeError,
            "takes x0 alone; leave parameters out",
        ),
        (lambda x, p: x, 0.1, np.ones((2, 3)), TypeError, r"takes its parameters too; give them as cond\[.operator.\]"),
        (
            lambda x: x,
            0.1,
            np.ones((2, 4)),
            ValueError,
            r"y has shape \(4,\) per example, but operator returns shape \(3,\)",
        ),
        (lambda x: x[:, :1], 0.1, np.ones((2, 3)), TypeError, "failed for x0 of shape .* without a batch axis"),
        (lambda x: np.sin(x), 0.1, np.ones((2, 3)), TypeError, "failed for x0 of shape .* in jax.numpy"),
        (lambda x: (x, x), 0.1, np.ones((2, 3)), TypeError, "operator returned .* expected one floating array"),
        (lambda x: x > 0, 0.1, np.ones((2, 3)), TypeError, "operator returned bool for x0 of shape"),
    ],
)
def test_what_is_no_measurement_is_refused_by_name(operator, noise_std, cond, error, words):
    with pytest.raises(error, match=words):
        Measurement(operator, noise_std).log_likelihood(np.zeros((2, 3)), cond)
