import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import within

import jaxdiff as jd
from jaxdiff.processes import Process, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Quarter(Process):
    """A quarter of the circle, α = cos and σ = sin of turn π/2 t, written as one would on paper."""

    turn: float = 1.0

    def _angle(self, t):
        return self.turn * jnp.pi / 2 * t

    def _marginal(self, t):
        return jnp.cos(self._angle(t)), jnp.sin(self._angle(t))

    def _log_snr(self, t):
        return 2 * jnp.log(jnp.cos(self._angle(t)) / jnp.sin(self._angle(t)))

    def _time_at(self, log_snr):
        return jnp.arctan(jnp.exp(-log_snr / 2)) / (self.turn * jnp.pi / 2)

    def _sde(self, t):
        f = -self.turn * jnp.pi / 2 * jnp.tan(self._angle(t))
        return f, jnp.sqrt(-2 * f)


@pytree
@dataclasses.dataclass(frozen=True)
class Root(Quarter):
    """The same curves by a square root, whose slope at t = 0 is infinite."""

    def _marginal(self, t):
        alpha = jnp.cos(self._angle(t))
        return alpha, jnp.sqrt(1 - alpha**2)


MEAN, VARIANCES = np.array([0.5, -1.0]), np.array([0.2, 0.5])


def gaussian(process):
    return jd.exact.Gaussian(process, MEAN, np.diag(VARIANCES))


SAMPLERS = [
    jd.samplers.DDIM(),
    jd.samplers.Ancestral(),
    jd.samplers.Heun(),
    jd.samplers.DPMSolverPP(),
    jd.samplers.UniPC(),
    within(1e-3),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_process_written_plainly_samples(sampler):
    """cos(π/2) is below 0 in float32, and its logarithm NaN."""
    x = jd.sample(jax.random.key(0), gaussian(Quarter()), (64, 2), sampler, 20)
    assert np.isfinite(x).all()
    error = np.sqrt(VARIANCES / 64)
    assert (np.abs(x.mean(0) - MEAN) < 4 * error + 0.02).all()


def test_a_process_written_plainly_has_likelihoods():
    x = jnp.asarray(MEAN + np.array([[0.0, 0.0], [0.3, -0.6], [-1.0, 0.4]]), jnp.float32)
    found = jd.log_likelihood(jax.random.key(0), gaussian(Quarter()), x, trace=jd.likelihood.Exact())
    assert found.converged.all()
    expected = -0.5 * (((x - MEAN) ** 2 / VARIANCES) + np.log(2 * np.pi * VARIANCES)).sum(1)
    np.testing.assert_allclose(found.log_prob, expected, atol=2e-3)


def test_a_process_written_plainly_is_finite_at_both_ends():
    t = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(Quarter().log_snr(t), [jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(Quarter().marginal(1.0)[0], 0.0)
    np.testing.assert_array_equal(Quarter().time_at_log_snr(jnp.array([jnp.inf, -jnp.inf])), [0.0, 1.0])
    np.testing.assert_array_equal(Quarter().time_at_angle(jnp.array([0.0, jnp.pi / 2])), [0.0, 1.0])
    assert jd.forward_sde(Quarter(), 1.0) == (-jnp.inf, jnp.inf)


@pytest.mark.parametrize("kind", [Quarter, Root])
def test_derivatives_of_a_process_written_plainly_are_finite_at_both_ends(kind):
    def values(turn, t):
        process = kind(turn)
        return jnp.stack([*process.marginal(t), jnp.where(t == 0, 0.0, process.log_snr(t))])

    np.testing.assert_array_equal(jax.jacrev(values)(0.5, 0.0), 0)
    np.testing.assert_array_equal(jax.jacfwd(values)(0.5, 0.0), 0)
    angle = np.pi / 4
    expected = np.pi / 2 * np.array([-np.sin(angle), np.cos(angle), -2 / np.sin(angle) / np.cos(angle)])
    np.testing.assert_allclose(jax.jacrev(values)(0.5, 1.0), expected, rtol=1e-5)


def own(**methods):
    cls = type("Mine", (Quarter,), {**methods, "__module__": __name__})
    return pytree(dataclasses.dataclass(frozen=True)(cls))()


WRONG = {
    "_marginal gives -": own(_marginal=lambda self, t: (jnp.cos(2 * self._angle(t)), jnp.sin(2 * self._angle(t)))),
    "_marginal gives nan": own(_marginal=lambda self, t: (jnp.sqrt(0.5 - t), t)),
    "_log_snr gives .* of _marginal": own(_log_snr=lambda self, t: Quarter._log_snr(self, t) / 2),
    "_log_snr.*_time_at": own(_time_at=lambda self, log_snr: jnp.arctan(jnp.exp(-log_snr)) / jnp.pi * 2),
    "_sde gives .* f = ": own(_sde=lambda self, t: (-jnp.tan(self._angle(t)), jnp.ones_like(t))),
    "_sde gives .* g.2 = ": own(_sde=lambda self, t: (Quarter._sde(self, t)[0], jnp.ones_like(t))),
    "_log_snr gives .* falls": own(
        _marginal=lambda self, t: (jnp.ones_like(t), 1 - t / 2),
        _log_snr=lambda self, t: -2 * jnp.log(1 - t / 2),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_process_whose_methods_contradict_each_other_is_refused_before_any_work(message):
    model = gaussian(WRONG[message])
    with pytest.raises(ValueError, match=f"Mine: {message}"):
        jd.sample(jax.random.key(0), model, (3, 2))
    with pytest.raises(ValueError, match=message):
        jd.log_likelihood(jax.random.key(0), model, np.zeros((3, 2), np.float32))


def test_own_processes_that_fit_are_looked_at_once():
    from jaxdiff.processes import plausible

    before = plausible._check.cache_info()
    for _ in range(3):
        jd.processes.check_curves(Quarter(0.75))
    after = plausible._check.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
