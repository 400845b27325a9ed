"""The probability flow by any diffrax solver of ODEs with an error estimate."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import within

import jaxdiff as jd

M, S = 0.5, 0.3
SOLVERS = [diffrax.Bosh3()]
SOLVERS += [
    pytest.param(s, marks=pytest.mark.slow) for s in (diffrax.Kvaerno3(), diffrax.HalfSolver(diffrax.Midpoint()))
]


class Counted:
    """The exact network of N(M, S²) under VP and "v", which counts how often it is run."""

    def __init__(self):
        self.runs = 0
        self.exact = jd.exact.Gaussian(jd.VP(), np.array([M]), np.array([[S**2]]))

    def __call__(self, params, x, c_noise, cond):
        def count(_):
            self.runs += 1

        jax.debug.callback(count, c_noise[0])
        t = jd.VP().time_at_log_snr(-8 * c_noise)
        alpha, sigma = jd.VP().marginal(t)
        raw = x * jnp.hypot(alpha * 0.5, sigma)[:, None]
        return jd.denoisers.angular_velocity(self.exact, raw, t)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_every_solver_ends_where_the_gaussians_flow_does(solver, x64):
    """x_t = α m + √S u with u constant along the flow, by `encode` and back and by `log_likelihood`; the
    tolerance is that of a step, of which there are up to a hundred or so."""
    tolerance = 1e-6
    process = jd.VP()
    denoiser = jd.exact.Gaussian(process, np.array([M]), np.array([[S**2]]))
    (a0, s0), (a1, s1) = process.marginal(0.1), process.marginal(1.0)
    std = [float(jnp.sqrt(a**2 * S**2 + s**2)) for a, s in ((a0, s0), (a1, s1))]
    u = jnp.array([[-2.0], [0.0], [1.5]])
    clean, noisy = a0 * M + std[0] * u, a1 * M + std[1] * u
    settings = {"flow": within(tolerance, solver=solver), "t_min": 0.1}
    z = jd.encode(denoiser, clean, **settings)
    np.testing.assert_allclose(z, noisy, atol=100 * tolerance)
    np.testing.assert_allclose(jd.decode(denoiser, z, **settings), clean, atol=100 * tolerance)
    got = jd.log_likelihood(jax.random.key(0), denoiser, clean, trace=jd.likelihood.Exact(), **settings)
    truth = jax.scipy.stats.norm.logpdf(noisy[:, 0]) + np.log(std[1] / std[0])
    assert got.converged.all()
    np.testing.assert_allclose(got.log_prob, truth, atol=100 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        diffrax.Bosh3(),
        *(pytest.param(s, marks=pytest.mark.slow) for s in (diffrax.HalfSolver(diffrax.Euler()), diffrax.Kvaerno3())),
    ],
    ids=str,
)
def test_evaluations_are_counted_or_said_to_be_unknown(solver):
    network = Counted()
    denoiser = jd.Denoiser(network, None, jd.VP(), "v")
    got = jd.log_likelihood(
        jax.random.key(0),
        denoiser,
        jnp.ones((1, 1)),
        flow=within(1e-2, solver=solver),
        trace=jd.likelihood.Exact(),
        t_min=0.1,
    )
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert got.converged.all()
    assert int(got.evaluations[0]) == (-1 if isinstance(solver, diffrax.Kvaerno3) else network.runs)


def test_solvers_that_cannot_choose_their_steps_are_refused():
    for solver, error, message in (
        (diffrax.Euler(), ValueError, r"diffrax.Euler\(\) gives no estimate.*diffrax.HalfSolver\(diffrax.Euler\(\)\)"),
        (diffrax.KenCarp4(), TypeError, "expected an instance of one of diffrax's solvers of ODEs"),
        (diffrax.Tsit5, TypeError, "such as Dopri5"),
    ):
        with pytest.raises(error, match=message):
            jd.samplers.ProbabilityFlow(solver)
