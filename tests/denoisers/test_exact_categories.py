"""Exact denoisers of categories against Bayes' rule by enumeration, and chains against closed forms."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from scipy.linalg import expm

import jaxdiff as jd

K, N = 3, 3
RNG = np.random.default_rng(0)
INITIAL = RNG.dirichlet(np.ones(K))
TRANSITION = RNG.dirichlet(np.ones(K), K)
CHAIN = INITIAL[:, None, None] * TRANSITION[:, :, None] * TRANSITION[None]
TABLE = RNG.dirichlet(np.ones(K**N)).reshape((K,) * N)
TABLE[1, 2] = 0.0  # what cannot be
TABLE /= TABLE.sum()
KEY = jax.random.key(0)


def masking(alpha):
    """q(x_t = column | x_0 = row)."""
    return np.concatenate([alpha * np.eye(K), np.full((K, 1), 1 - alpha)], 1)


def mixing(alpha):
    return alpha * np.eye(K) + (1 - alpha) / K


def heat(alpha):
    """Heat on a path whose slowest mode has decayed to alpha."""
    path = np.diag([1.0, 2.0, 1.0]) - np.eye(K, k=1) - np.eye(K, k=-1)
    return expm(path * math.log(alpha) / (2 - 2 * math.cos(math.pi / K)))


KERNELS = {
    "Absorbing": (jd.Absorbing(K), masking),
    "Multinomial": (jd.Multinomial(K), mixing),
    "DiscretizedGaussian": (jd.DiscretizedGaussian(K), heat),
}
kernels = pytest.mark.parametrize("kernel", few(KERNELS, "Absorbing", "Multinomial"))


def posterior(table, kernel, x):
    """p(x_0^i = v | x_t), [b, N, K], by the sum over all x_0; NaN for x of probability 0."""
    found = np.empty((*x.shape, K))
    for row, state in zip(found, x):
        joint = np.zeros((K,) * N)
        for x0 in np.ndindex(joint.shape):
            joint[x0] = table[x0] * math.prod(kernel[v, seen] for v, seen in zip(x0, state))
        for i in range(N):
            row[i] = joint.sum(tuple(j for j in range(N) if j != i))
    with np.errstate(invalid="ignore"):
        return found / found.sum(-1, keepdims=True)


@jax.jit
def asked(laws, x, t):
    return [denoiser(x, t).log_probabilities() for denoiser in laws]


@kernels
def test_the_answer_is_bayes_rule_at_every_state(kernel):
    """Of a table, a chain, and a data set in which each value comes as often as in a table of whole counts."""
    process, kernel = kernel
    x = np.array(list(itertools.product(range(process.states), repeat=N)))
    data = np.array(list(itertools.product(range(K), repeat=N)))[RNG.integers(0, K**N, 40)]
    counts = np.zeros((K,) * N)
    np.add.at(counts, tuple(data.T), 1 / 40)
    laws = (
        jd.exact.Table(process, TABLE),
        jd.exact.Markov(process, INITIAL, TRANSITION),
        jd.exact.Empirical(process, data),
    )
    for t in (0.2, 0.7):
        for answer, table in zip(asked(laws, x, t), (TABLE, CHAIN, counts)):
            expected = posterior(table, kernel(float(process.alpha(t))), x)
            found = np.exp(answer)
            possible = ~np.isnan(expected).any((1, 2))
            np.testing.assert_allclose(found[possible], expected[possible], rtol=2e-5, atol=1e-6)
            assert np.isnan(found[~possible]).any((1, 2)).all()


def test_events_of_any_shape_are_read_row_by_row():
    process = jd.Absorbing(2)
    table = RNG.dirichlet(np.ones(16)).reshape((2,) * 4)
    x = np.array([[0, 2, 1, 2], [2, 2, 2, 2]])
    markov = jd.exact.Markov(process, [0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]])
    laws = jd.exact.Table(process, table), markov, jd.exact.Empirical(process, [[0, 1, 1, 0]])
    square = (*laws[:2], jd.exact.Empirical(process, [[[0, 1], [1, 0]]]))
    for flat, found in zip(asked(laws, x, 0.5), asked(square, x.reshape(2, 2, 2), 0.5)):
        np.testing.assert_array_equal(found.reshape(flat.shape), flat)
    np.testing.assert_allclose(jd.exact.Table(process, [0.2, 0.8]).log_prob([0, 1]), np.log([0.2, 0.8]), rtol=1e-6)


def test_a_masked_token_between_two_far_ones_follows_powers_of_the_transition():
    """P(x^i = v | x^1 = u, x^128 = w) = T^a(u, v) T^b(v, w) / T^{a+b}(u, w), all between them masked."""
    x = np.full((1, 128), K)
    x[0, 0], x[0, -1] = 1, 2
    found = np.exp(asked([jd.exact.Markov(jd.Absorbing(K), INITIAL, TRANSITION)], x, 0.9)[0][0])
    power = lambda n: np.linalg.matrix_power(TRANSITION, n)
    for i in (1, 3, 60, 126):
        expected = power(i)[1] * power(127 - i)[:, 2] / power(127)[1, 2]
        np.testing.assert_allclose(found[i], expected, rtol=2e-5)


def test_entropies_and_probabilities_are_those_of_the_law():
    """Of a chain that flips with probability f from an even start: log 2 + (length - 1) h(f)."""
    process, flip = jd.Absorbing(2), 0.11
    chain = jd.exact.Markov(process, [0.5, 0.5], [[1 - flip, flip], [flip, 1 - flip]])
    h = -flip * math.log(flip) - (1 - flip) * math.log(1 - flip)
    lengths = 1, 2, 128
    entropies = jax.jit(lambda chain: [chain.entropy(length) for length in lengths])(chain)
    for length, found in zip(lengths, entropies):
        assert float(found) == pytest.approx(math.log(2) + (length - 1) * h, rel=1e-5)
    process, x0 = jd.Absorbing(K), np.array(list(np.ndindex((K,) * N)))
    table, chain = jd.exact.Table(process, TABLE), jd.exact.Markov(process, INITIAL, TRANSITION)
    found = jax.jit(lambda: (table.log_prob(x0), chain.log_prob(x0), table.entropy(), chain.entropy(N)))()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found[0], np.log(TABLE).ravel(), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.log(CHAIN).ravel(), rtol=1e-5)
    assert float(found[2]) == pytest.approx(-np.sum(TABLE[TABLE > 0] * np.log(TABLE[TABLE > 0])), rel=1e-6)
    assert float(found[3]) == pytest.approx(-np.sum(CHAIN * np.log(CHAIN)), rel=1e-6)


def test_draws_follow_the_law_and_depend_on_their_index_alone():
    n, process = 20_000, jd.Absorbing(K)
    table, chain = jd.exact.Table(process, TABLE), jd.exact.Markov(process, INITIAL, TRANSITION)
    for law, draw in ((TABLE, lambda keys: table.draw(keys, n)), (CHAIN, lambda keys: chain.draw(keys, n, N))):
        draw, keys = jax.jit(draw), jd.samplers.example_keys(KEY, n)
        x0 = np.asarray(draw(keys))
        assert x0.dtype == np.int32
        counts = np.zeros((K,) * N)
        np.add.at(counts, tuple(x0.T), 1 / n)
        np.testing.assert_array_less(abs(counts - law), 4 * np.sqrt(law * (1 - law) / n) + 1e-12)
        np.testing.assert_array_equal(draw(keys[::-1])[::-1], x0)


def test_other_arrays_compile_nothing():
    traces = []

    @jax.jit
    def answer(denoiser, x):
        traces.append(type(denoiser))
        return denoiser(x, 0.5).logits

    for even in (0.5, 0.4):
        x, table = jnp.full((1, 2), 2), [[even / 2, 0.3], [0.1, 0.6 - even / 2]]
        jax.eval_shape(answer, jd.exact.Table(jd.Absorbing(2), table), x)
        jax.eval_shape(answer, jd.exact.Markov(jd.Absorbing(2), [even, 1 - even], np.eye(2)), x)
    assert traces == [jd.exact.Table, jd.exact.Markov]
