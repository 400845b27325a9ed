"""Temperature, the k best and the nucleus of p(x_0 | x_t), by sorting in NumPy, and guidance of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Auto, ClassifierFree, Nucleus, Temperature, TopK
from jaxdiff.processes import Head

K, N = 5, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (3, N, K)).astype(np.float32)
PROCESSES = {"Absorbing": jd.Absorbing(K), "Multinomial": jd.Multinomial(K)}
processes = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def network(params, x, c_noise, cond):
    """Logits that look at nothing, one row a label where there is a condition."""
    logits = params[0] if cond is None else params[cond][:, None]
    return jnp.broadcast_to(logits, (*x.shape, params.shape[-1]))


def of_features(params, x, c_noise, cond):
    features = jnp.broadcast_to(params["features"], (*x.shape, params["table"].shape[1]))
    return Head(features, params["table"])


def sharpened(p, how, number):
    """One distribution p [K], by the definition."""
    if how == "tau":
        p = p ** (1 / number)
        return p / p.sum()
    order = np.argsort(-p)
    if how == "k":
        kept = order[:number]
    else:
        before = np.cumsum(p[order]) - p[order]
        kept = order[before < number]
    p = np.where(np.isin(np.arange(len(p)), kept), p, 0.0)
    return p / p.sum()


WRAPPERS = {"tau": (Temperature, 0.6), "k": (TopK, 2), "p": (Nucleus, 0.7)}


@processes
def test_sharpening_acts_on_what_is_drawn_after_the_evidence(process):
    """A number for all, one an example, and two wrappers around each other; a token that is seen stays certain."""
    x = np.array([[0, 3, 4, 1], [2, 2, 2, 2], [4, 0, 1, 3]])
    denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params, LOGITS, process)
    if isinstance(process, jd.Absorbing):
        x = np.where(RNG.random(x.shape) < 0.7, K, x)
    p = np.exp(np.asarray(denoiser(x, 0.7).log_probabilities(), np.float64))
    p /= p.sum(-1, keepdims=True)
    each = lambda p, how, numbers: np.stack([[sharpened(row, how, c) for row in rows] for rows, c in zip(p, numbers)])
    for how, (wrapper, number) in WRAPPERS.items():
        found = np.exp(wrapper(denoiser, number)(x, 0.7).log_probabilities())
        np.testing.assert_allclose(found, each(p, how, [number] * 3), rtol=2e-5, atol=1e-6)
    found = np.exp(Temperature(denoiser, np.array([0.5, 1.0, 3.0]))(x, 0.7).log_probabilities())
    np.testing.assert_allclose(found, each(p, "tau", [0.5, 1.0, 3.0]), rtol=2e-5, atol=1e-6)
    found = np.exp(Nucleus(Temperature(denoiser, 2.0), 0.8)(x, 0.7).log_probabilities())
    np.testing.assert_allclose(found, each(each(p, "tau", [2.0] * 3), "p", [0.8] * 3), rtol=2e-5, atol=1e-6)


def test_limits():
    """Of a temperature near 0, one category or little mass the most probable one; of 1, all and all mass the same."""
    x = np.full((3, N), K)
    denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params, LOGITS, jd.Absorbing(K))
    plain = denoiser(x, 0.5)
    for sharp in (Temperature(denoiser, 1e-4), TopK(denoiser, 1), Nucleus(denoiser, 1e-6)):
        np.testing.assert_array_equal(sharp(x, 0.5).draw(jax.random.split(jax.random.key(0), 3)), LOGITS.argmax(-1))
    for same in (Temperature(denoiser, 1.0), TopK(denoiser, K), TopK(denoiser, 99), Nucleus(denoiser, 1.0)):
        np.testing.assert_allclose(same(x, 0.5).log_probabilities(), plain.log_probabilities(), atol=1e-6)
    even = jd.Denoiser(network, np.zeros((1, K), np.float32), jd.Absorbing(K))
    np.testing.assert_allclose(
        np.exp(TopK(even, 2)(x, 0.5).log_probabilities()), 1 / K, rtol=1e-6, err_msg="equal ones"
    )


def test_the_best_categories_of_uniform_noise_may_be_x_itself():
    """The logits alone would leave x_t out, which is by far the most probable after a little noise."""
    process, x = jd.Multinomial(K), np.zeros((1, 1), int)
    denoiser = jd.Denoiser(network, np.array([[-1.0, 1.0, 0.5, 0.0, 0.0]], np.float32), process)
    p = np.exp(denoiser(x, 0.1).log_probabilities())[0, 0]
    assert p[0] > 0.5
    for sharp in (TopK(denoiser, 1), Nucleus(denoiser, 0.5)):
        np.testing.assert_allclose(np.exp(sharp(x, 0.1).log_probabilities())[0, 0], np.eye(K)[0])


@pytest.mark.slow
def test_a_head_is_sharpened_as_its_logits_are():
    params = {"features": RNG.normal(0, 1, (2, N, 3)), "table": RNG.normal(0, 1, (40, 3))}
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    process, x = jd.Absorbing(40), np.array([[40, 40, 40, 7]] * 2)
    whole = jd.Denoiser(lambda p, x, c, y: p["features"] @ p["table"].T, params, process)
    keys, x0 = jax.random.split(jax.random.key(1), 2), np.array([[0, 5, 9, 7]] * 2)
    sharp = lambda network: Nucleus(TopK(Temperature(network, 1.5), 20), 0.9)(x, 0.5)
    found, expected = sharp(jd.Denoiser(of_features, params, process)), sharp(whole)
    np.testing.assert_array_equal(found.draw(keys), expected.draw(keys))
    np.testing.assert_array_equal(found.draw(keys)[:, 3], 7)
    np.testing.assert_allclose(found.log_prob(x0), expected.log_prob(x0), rtol=1e-4, atol=1e-5)


def test_new_numbers_compile_nothing():
    traces = []

    @jax.jit
    def ask(denoiser):
        traces.append(denoiser)
        return denoiser(np.full((2, N), K), 0.5).log_probabilities()

    denoiser = jd.Denoiser(network, np.zeros((1, K), np.float32), jd.Absorbing(K))
    for tau, k, p in ((0.5, 2, 0.9), (0.7, 3, 0.8)):
        ask(Nucleus(TopK(Temperature(denoiser, tau), k), p))
    assert len(traces) == 1


def test_guidance_changes_what_is_shown_and_not_how_many():
    """q(x_s | x_t, x_0) is averaged over the guided law of x_0; as many masks are shown at every scale."""
    n, process = 20_000, jd.Absorbing(K)
    params = np.log(RNG.dirichlet(np.ones(K), 2)).astype(np.float32)
    for scale in (1.0, 3.0):
        guided = ClassifierFree(jd.Denoiser(network, params, process), scale)
        x = np.asarray(jd.sample(jax.random.key(2), guided, (n, 1), jd.samplers.Ancestral(), grid=[1.0, 0.4], cond=1))
        law = np.exp((1 - scale) * params[0] + scale * params[1])
        expected = np.append(0.6 * law / law.sum(), 0.4)
        found = np.bincount(x[:, 0], minlength=K + 1) / n
        np.testing.assert_array_less(abs(found - expected), 4 * np.sqrt(expected * (1 - expected) / n) + 1e-12)


def test_guidance_of_sharpened_tokens_has_no_nan():
    """What is seen and what is cut off has log-probability -inf, which no negative weight meets."""
    params = RNG.normal(0, 2, (2, K)).astype(np.float32)
    x = np.array([[K, 0], [1, K]])
    for wrap in (lambda d: ClassifierFree(TopK(d, 2), 3.0), lambda d: TopK(ClassifierFree(d, 3.0), 2)):
        p = np.exp(wrap(jd.Denoiser(network, params, jd.Absorbing(K)))(x, 0.5, np.array([1, 1])).log_probabilities())
        law = np.exp(3 * params[1] - 2 * params[0])
        np.testing.assert_allclose(p[0, 0], sharpened(law / law.sum(), "k", 2), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(p[0, 1], np.eye(K)[0])


@dataclasses.dataclass(frozen=True)
class Nothing:
    process = jd.VP()

    def __call__(self, x, t, cond=None): ...


def test_numbers_have_no_categories_to_sharpen():
    for wrapper, _ in WRAPPERS.values():
        with pytest.raises(TypeError, match="denoiser.process = VP.*expected a process of categories"):
            wrapper(Nothing())


def test_guidance_of_two_models_that_are_sharpened_differently_is_refused():
    """The logits are mixed before they are sharpened, once: by what both models share."""
    process, x = jd.Multinomial(K), np.array([[0, 3, 4, 1]])
    one, other = (jd.Denoiser(network, RNG.normal(0, 1, (1, K)).astype(np.float32), process) for _ in range(2))
    message = r"weak is sharpened by nothing, the denoiser by Temperature\(0.5\).* sharpen what is guided instead"
    with pytest.raises(ValueError, match=message):
        Auto(Temperature(one, 0.5), other, 2.0)
    with pytest.raises(ValueError, match=r"weak is sharpened by TopK\(2\), Nucleus\(0.5\), the denoiser by TopK\(2\)"):
        Auto(TopK(one, 2), Nucleus(TopK(other, 2), 0.5), 2.0)
    with pytest.raises(ValueError, match=r"free is sharpened by TopK\(3\), the denoiser by TopK\(2\)"):
        ClassifierFree(TopK(one, 2), 2.0, free=TopK(other, 3))
    with pytest.raises(ValueError, match="one model has 1 sharpenings and another 0"):
        jd.processes.extrapolated([TopK(one, 2)(x, 0.5), other(x, 0.5)], [2.0])
    both, after = Auto(TopK(one, 2), TopK(other, 2), 2.0), TopK(Auto(one, other, 2.0), 2)
    np.testing.assert_array_equal(both(x, 0.5).log_probabilities(), after(x, 0.5).log_probabilities())


def test_guidance_of_models_with_and_without_the_evidence_in_their_logits_is_refused():
    """For masks both are the same law, and are mixed."""
    x, logits = np.array([[0, 3, 4, 1]]), [RNG.normal(0, 1, (1, K)).astype(np.float32) for _ in range(2)]
    guided = lambda process, row: Auto(*(jd.Denoiser(network, p, process, r) for p, r in zip(logits, row)), 2.0)
    for row in (("data", "leave_one_out"), ("leave_one_out", "data")):
        with pytest.raises(ValueError, match='lack the evidence of x_t, as in "leave_one_out"; expected models of the'):
            jd.sample(jax.random.key(0), guided(PROCESSES["Multinomial"], row), (3, N), jd.samplers.Ancestral(), 2)
        found = guided(PROCESSES["Absorbing"], row)(np.full_like(x, K), 0.5).log_probabilities()
        expected = 2 * logits[0][0] - logits[1][0]
        np.testing.assert_allclose(found[0, 0], expected - np.log(np.exp(expected).sum()), atol=2e-6)
