import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few, within

import jaxdiff as jd
from jaxdiff.processes import Gaussian, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Quarter(Gaussian):
    """A quarter of the circle, α = cos and σ = sin of turn π/2 t: two curves, written as one would on paper."""

    turn: float = 1.0

    def _angle(self, t):
        return self.turn * jnp.pi / 2 * t

    def alpha(self, t):
        return jnp.cos(self._angle(t))

    def sigma(self, t):
        return jnp.sin(self._angle(t))


@pytree
@dataclasses.dataclass(frozen=True)
class Written(Quarter):
    """The same, with all that follows from the curves in closed form."""

    def log_snr(self, t):
        return 2 * jnp.log(jnp.cos(self._angle(t)) / jnp.sin(self._angle(t)))

    def time_at_log_snr(self, log_snr):
        return jnp.arctan(jnp.exp(-log_snr / 2)) / (self.turn * jnp.pi / 2)

    def sde(self, t):
        f = -self.turn * jnp.pi / 2 * jnp.tan(self._angle(t))
        return f, jnp.sqrt(-2 * f)


@pytree
@dataclasses.dataclass(frozen=True)
class Root(Written):
    """The same curves by a square root, whose slope at t = 0 is infinite."""

    def sigma(self, t):
        return jnp.sqrt(1 - jnp.cos(self._angle(t)) ** 2)


BOTH = {"Quarter": Quarter, "Written": Written}
KINDS = pytest.mark.parametrize("kind", few(BOTH, *BOTH))


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


@pytest.mark.parametrize("kind", few(BOTH, "Quarter"))
@pytest.mark.parametrize("sampler", few({type(s).__name__: s for s in SAMPLERS}, "Ancestral"))
def test_a_process_written_plainly_samples(sampler, kind):
    """cos(π/2) is below 0 in float32, and its logarithm NaN."""
    x = jd.sample(jax.random.key(0), gaussian(kind()), (64, 2), sampler, 20)
    assert np.isfinite(x).all()
    error = np.sqrt(VARIANCES / 64)
    assert (np.abs(x.mean(0) - MEAN) < 4 * error + 0.02).all()


@pytest.mark.parametrize("kind", few(BOTH))
def test_a_process_written_plainly_has_likelihoods(kind):
    x = jnp.asarray(MEAN + np.array([[0.0, 0.0], [0.3, -0.6], [-1.0, 0.4]]), jnp.float32)
    found = jd.log_likelihood(jax.random.key(0), gaussian(kind()), x, trace=jd.likelihood.Exact())
    assert found.converged.all()
    expected = -0.5 * (((x - MEAN) ** 2 / VARIANCES) + np.log(2 * np.pi * VARIANCES)).sum(1)
    np.testing.assert_allclose(found.log_prob, expected, atol=2e-3)


@KINDS
def test_a_process_written_plainly_is_finite_at_both_ends(kind):
    t = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(kind().log_snr(t), [jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(kind().marginal(1.0)[0], 0.0)
    np.testing.assert_array_equal(kind().time_at_log_snr(jnp.array([jnp.inf, -jnp.inf])), [0.0, 1.0])
    np.testing.assert_array_equal(kind().time_at_angle(jnp.array([0.0, jnp.pi / 2])), [0.0, 1.0])
    assert jd.forward_sde(kind(), 1.0) == (-jnp.inf, jnp.inf)


def test_what_follows_from_two_curves_is_what_is_known_in_closed_form(x64):
    plain, written = Quarter(0.9), Written(0.9)
    t = jnp.linspace(0.001, 0.999, 57)
    np.testing.assert_allclose(plain.log_snr(t), written.log_snr(t), rtol=1e-12)
    np.testing.assert_allclose(plain.time_at_log_snr(written.log_snr(t)), t, rtol=1e-11)
    for got, expected in zip(jd.forward_sde(plain, t), jd.forward_sde(written, t)):
        np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(plain.prior_std, np.sin(0.45 * np.pi), rtol=1e-12)


@pytest.mark.parametrize("log_snr", [-3.0, 0.7, 9.0])
def test_the_derived_inverse_has_the_derivatives_of_the_closed_form(log_snr, x64):
    """t = arctan(e^{-λ/2})/(turn π/2): dt/dλ = -1/(4 cosh(λ/2))/(turn π/2) and dt/dturn = -t/turn."""
    turn = 0.9
    t = lambda turn, log_snr: Quarter(turn).time_at_log_snr(log_snr)
    expected = -t(turn, log_snr) / turn, -1 / (4 * np.cosh(log_snr / 2)) / (turn * np.pi / 2)
    np.testing.assert_allclose(jax.grad(t, (0, 1))(turn, log_snr), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["VP", "Flow", "EDM"])
def test_the_derived_inverse_is_as_exact_as_the_closed_form(name):
    """40 halvings and a step of Newton's, in float32 (a float32 log-SNR knows t no better)."""
    from jaxdiff.processes.curves import inverse

    process = {"VP": jd.VP(), "Flow": jd.Flow(), "EDM": jd.EDM()}[name]
    t = jnp.linspace(0.01, 0.99, 41)
    found = inverse(lambda process, t: process.log_snr(t), process, process.log_snr(t))
    np.testing.assert_allclose(found, t, rtol=1e-5)


class Lost(Gaussian):
    """VP with σ as √(1 - α²), which loses its digits near the data."""

    def alpha(self, t):
        return jnp.exp(-(0.05 * t + 4.975 * t**2))

    def sigma(self, t):
        return jnp.sqrt(1 - self.alpha(t) ** 2)


def test_curves_that_lose_their_digits_are_refused_with_where_and_what_to_give():
    with pytest.raises(
        ValueError, match=r"Lost: log_snr in float32 gives .* at t = 1e-05; expected .* as in float64: give log_snr"
    ):
        Lost().check_curves()


@pytest.mark.parametrize("space", [Gaussian, jd.Absorbing])
def test_a_process_that_is_no_pytree_is_refused_with_what_makes_it_one(space):
    class Bare(space):
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return t

    process = Bare() if space is Gaussian else Bare(3)
    model = jd.Denoiser(lambda params, x, c_noise, cond: x, None, process)
    key, x0 = jax.random.key(0), np.zeros((3, 2), np.float32 if space is Gaussian else int)
    for call in (lambda: jd.sample(key, model, (3, 2)), lambda: jd.losses.Denoising()(model, key, x0)):
        with pytest.raises(TypeError, match="process = Bare is no pytree; make Bare a frozen dataclass and put @jaxd"):
            call()


def test_a_process_of_no_space_is_refused_in_words():
    class Nothing(jd.Process):
        def alpha(self, t):
            return 1 - t

    with pytest.raises(TypeError, match=r"Nothing lacks .*; to define a process, subclass jaxdiff.Gaussian"):
        Nothing()


def test_a_field_in_the_place_of_a_curve_is_refused_in_words():
    with pytest.raises(TypeError, match=r"Shadowed.sigma = 1.0; sigma\(t\) is a curve: rename this field"):

        class Shadowed(Gaussian):
            sigma: float = 1.0

            def alpha(self, t):
                return 1 - t


@pytest.mark.parametrize("kind", [Quarter, Root])
def test_derivatives_of_a_process_written_plainly_are_finite_at_both_ends(kind):
    def values(turn, t):
        process = kind(turn)
        return jnp.stack([*process.marginal(t), jnp.where(t == 0, 0.0, process.log_snr(t))])

    backward, forward = jax.jit(jax.jacrev(values)), jax.jit(jax.jacfwd(values))
    np.testing.assert_array_equal(backward(0.5, 0.0), 0)
    np.testing.assert_array_equal(forward(0.5, 0.0), 0)
    angle = np.pi / 4
    expected = np.pi / 2 * np.array([-np.sin(angle), np.cos(angle), -2 / np.sin(angle) / np.cos(angle)])
    np.testing.assert_allclose(backward(0.5, 1.0), expected, rtol=1e-5)


def own(**methods):
    cls = type("Mine", (Written,), {**methods, "__module__": __name__})
    return pytree(dataclasses.dataclass(frozen=True)(cls))()


WRONG = {
    r"\(alpha, sigma\) gives -": own(alpha=lambda self, t: jnp.cos(2 * self._angle(t))),
    r"\(alpha, sigma\) gives nan": own(alpha=lambda self, t: jnp.sqrt(0.5 - t), sigma=lambda self, t: t),
    "log_snr gives .* of the curves": own(log_snr=lambda self, t: jnp.log(1 / jnp.tan(self._angle(t)))),
    "log_snr.*time_at": own(time_at_log_snr=lambda self, log_snr: jnp.arctan(jnp.exp(-log_snr)) / jnp.pi * 2),
    "sde gives .* f = ": own(sde=lambda self, t: (-jnp.tan(self._angle(t)), jnp.ones_like(t))),
    "sde gives .* g.2 = ": own(sde=lambda self, t: (-jnp.pi / 2 * jnp.tan(self._angle(t)), jnp.ones_like(t))),
    "log_snr gives .* falls": own(
        alpha=lambda self, t: jnp.ones_like(t),
        sigma=lambda self, t: 1 - t / 2,
        log_snr=lambda self, t: -2 * jnp.log(1 - t / 2),
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
        Quarter(0.75).check_curves()
    after = plausible._check.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)


@pytree
@dataclasses.dataclass(frozen=True)
class Fast(Gaussian):
    """α = exp(-300 t), which is 0 in float32 from t = 0.35 on."""

    speed: float = 300.0

    def alpha(self, t):
        return jnp.exp(-self.speed * t)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-2 * self.speed * t))


def test_where_no_data_are_left_the_bound_has_weight_0():
    """d log(σ/q)/dt = 300/(exp(600 t) - 1), as q = 1; of `Flow` at t = 1 it is 0."""
    t = jnp.array([1e-3, 0.01, 0.3, 0.4, 1.0])
    with np.errstate(over="ignore"):
        expected = 300 / np.expm1(600 * np.asarray(t, np.float64))
    np.testing.assert_allclose(Fast().rate(t), expected, rtol=1e-4, atol=1e-30)
    assert jd.Flow().rate(1.0) == 0
    for weighting in (jd.losses.weightings.Likelihood(), jd.losses.weightings.Sigmoid()):
        weights = weighting(gaussian(Fast()), t)
        np.testing.assert_array_equal(weights[3:], 0)
        assert np.isfinite(weights).all()
