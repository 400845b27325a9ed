"""p(component | x) of a mixture, by Bayes' rule over the likelihoods of its components."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COVARIANCES, MEANS, WEIGHTS, draw_mixture, mixture, within

import jaxdiff as jd
from jaxdiff.likelihood import Exact, Hutchinson, class_posterior

KEY = jax.random.key(0)
X = draw_mixture(0, 7)
# Classes of one covariance, of which every probe is wrong by the same.
WIDE = jd.exact.Mixture(jd.Flow(), np.ones(3), np.eye(3, 4), np.stack([np.diag([1.0, 0.3, 0.1, 0.2]) + 0.05] * 3))


def exact_posterior(x, weights):
    """log p(k | x) of N(x; m_k, C_k) weights_k, by SciPy."""
    from scipy.stats import multivariate_normal

    joint = np.stack([multivariate_normal(m, c).logpdf(x) for m, c in zip(MEANS, COVARIANCES)], 1) + np.log(weights)
    return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)


def test_it_is_bayes_rule_over_the_components_of_a_mixture(x64):
    """To 1e-6: σ(1) = 1 of Flow's prior is exact, so that nothing is lost at the end of the flow."""
    model = mixture(jd.Flow())
    settings = {"flow": within(1e-10), "trace": Exact(), "t_min": 0.0}
    for prior in (None, WEIGHTS, 5 * WEIGHTS):
        found = class_posterior(KEY, model, X, 2, prior, **settings, batch_size=3)
        np.testing.assert_allclose(
            found.log_prob, exact_posterior(X, [0.5, 0.5] if prior is None else prior), atol=1e-6
        )
        np.testing.assert_array_equal(found.standard_error, 0)
        assert found.converged.all()
        assert (found.evaluations > 0).all()
        np.testing.assert_allclose(found.log_likelihood[:, 1], model.log_prob(X, 0.0, 1), atol=1e-6)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Named:
    """The mixture, under cond {"which": its component, of [n, 1]}."""

    process: jd.Flow

    def __call__(self, x, t, cond):
        return mixture(self.process)(x, t, cond["which"][:, 0])


@pytest.mark.slow
def test_classes_are_a_number_a_list_or_a_tree_of_conds():
    x, fast = X.astype(np.float32), {"flow": within(1e-4)}
    expected = class_posterior(KEY, mixture(jd.Flow()), x, 2, **fast)
    assert np.isnan(expected.standard_error).all()  # of a single probe
    for classes in ([0, 1], np.arange(2)):
        found = class_posterior(KEY, mixture(jd.Flow()), x, classes, **fast)
        np.testing.assert_array_equal(found.log_prob, expected.log_prob)
    for classes in ([{"which": np.array([k])} for k in range(2)], {"which": np.arange(2)[:, None]}):
        found = class_posterior(KEY, Named(jd.Flow()), x, classes, **fast)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-3, atol=1e-3)
    sure = class_posterior(KEY, mixture(jd.Flow()), x, 2, [0.0, 1.0], **fast)
    np.testing.assert_array_equal(sure.log_prob, np.tile([-np.inf, 0.0], (7, 1)))


def test_classes_share_their_probes_and_the_error_of_their_difference_is_that_of_shared_ones():
    """Three classes of one covariance: the errors of their traces cancel, and with probes of their own they do not."""
    x = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
    flow = within(1e-5)
    found = class_posterior(KEY, WIDE, x, 3, flow=flow, trace=Hutchinson(4))
    truth = jax.jit(lambda x: jnp.stack([WIDE.log_prob(x, 1e-5, k) for k in range(3)], 1))(x)
    truth = np.asarray(truth, float) - np.logaddexp.reduce(truth, axis=1, keepdims=True)
    of = lambda seed, k: jd.log_likelihood(jax.random.key(seed), WIDE, x, k, flow, Hutchinson(4))
    own = [of(k, k) for k in range(3)]
    alone = np.asarray(jax.nn.log_softmax(jnp.stack([one.log_prob for one in own], 1), 1), float)
    error = lambda log_prob: np.sqrt(np.mean((np.asarray(log_prob, float) - truth) ** 2))
    assert error(found.log_prob) < 0.05 * error(alone)
    assert np.median(found.standard_error) < 0.05 * np.median(np.stack([one.standard_error for one in own]))
    np.testing.assert_array_equal(found.log_likelihood[:, 0], of(0, 0).log_prob)  # the same noise as a likelihood's


@pytest.mark.slow
def test_the_standard_error_covers_the_error():
    """Classes of other covariances: errors in standard errors have a mean square near that of Student's t."""
    x, probes = 0.3 * np.random.default_rng(2).standard_normal((60, 2)).astype(np.float32), 8
    found = class_posterior(KEY, mixture(jd.Flow()), x, 2, flow=within(1e-5), trace=Hutchinson(probes), batch_size=60)
    near = np.abs(exact_posterior(x, [0.5, 0.5])).max(1) < 3  # of which the posterior is not settled
    scores = (found.log_prob - exact_posterior(x, [0.5, 0.5]))[near, 0] / found.standard_error[near, 0]
    square = (probes - 1) / (probes - 3)
    assert len(scores) > 10
    assert 0.3 * square < np.mean(scores**2) < 3 * square


@pytest.mark.slow
def test_a_class_on_which_the_solver_gave_up_leaves_no_posterior():
    found = class_posterior(KEY, Breaking(jd.Flow()), X.astype(np.float32), 2, flow=within(1e-3))
    assert not found.converged[:, 1].any()
    assert found.converged[:, 0].all()
    assert np.isnan(found.log_prob).all()


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Breaking:
    """A mixture whose second class has no finite answer below t = 0.5."""

    process: jd.Flow

    def __call__(self, x, t, cond):
        answer = mixture(self.process)(x, t, cond)
        lost = ((cond == 1) & (jnp.broadcast_to(t, len(x)) < 0.5))[:, None]
        return jd.Prediction(*(jnp.where(lost, jnp.nan, part) for part in answer))
