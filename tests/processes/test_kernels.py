"""Every kernel of categories against enumeration: what is written here is NumPy, by the definition of each."""

import dataclasses
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from scipy.linalg import expm
from tokens import TABLE, K, N, data, entropy

import jaxdiff as jd
from jaxdiff.arrays import example_keys

KEY = jax.random.key(0)
LAPLACIAN = np.diag([1.0, 2, 1]) - np.eye(K, k=1) - np.eye(K, k=-1)
STEPS = np.random.default_rng(3).dirichlet(np.full(K, 0.3), (4, K)) * 0.6 + 0.4 * np.eye(K)
STEPS[1] = [[1, 0, 0], [0.2, 0.8, 0], [0, 0.1, 0.9]]  # impossible moves among them


def cosine(t):
    return 1 - math.cos(math.pi / 2 * (1 - t))


def masks(kept):
    return np.block([[kept * np.eye(K), np.full((K, 1), 1 - kept)], [np.zeros((1, K)), np.ones((1, 1))]])


def stepped(s, t):
    return np.linalg.multi_dot([np.eye(K), np.eye(K), *STEPS[round(4 * s) : round(4 * t)]])


def ratio(s, t, alpha):
    return alpha(t) / alpha(s) if alpha(s) else 1.0


@dataclasses.dataclass(frozen=True)
class Kernel:
    """`between(s, t)`: q(x_t | x_s) over all states, from t = 0 on; `rates(t)`: the generator there, None without."""

    process: jd.Discrete
    between: object
    rates: object = None

    def of_data(self, t):
        """q(x_t | x_0), [K, states]."""
        return self.between(0.0, t)[:K]


def slope(t):
    """-α'/α of the cosine."""
    return math.pi / 2 * math.sin(math.pi / 2 * (1 - t)) / cosine(t)


HEAT = 2 - 2 * math.cos(math.pi / K)
COSINE = jd.schedules.Cosine()
KERNELS = {
    "absorbing": Kernel(
        jd.Absorbing(K, COSINE),
        lambda s, t: masks(ratio(s, t, cosine)),
        lambda t: slope(t) * (masks(0.0) - np.eye(K + 1)),
    ),
    "multinomial": Kernel(
        jd.Multinomial(K, COSINE),
        lambda s, t: ratio(s, t, cosine) * np.eye(K) + (1 - ratio(s, t, cosine)) / K,
        lambda t: slope(t) * (np.full((K, K), 1 / K) - np.eye(K)),
    ),
    "gaussian": Kernel(
        jd.DiscretizedGaussian(K, COSINE),
        lambda s, t: expm(math.log(max(ratio(s, t, cosine), 1e-30)) / HEAT * LAPLACIAN),
        lambda t: -slope(t) / HEAT * LAPLACIAN,
    ),
    "table": Kernel(jd.from_transitions(STEPS), stepped),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
continuous = pytest.mark.parametrize("kernel", [k for k in KERNELS.values() if k.rates], ids=list(KERNELS)[:3])
VALUES = np.array(list(itertools.product(range(K), repeat=N)))


def pairs(kernel, t):
    """Every (x, x_0) that can be, and a leave-one-out law of each, [.., K]."""
    every = [(x, x0) for x in range(kernel.process.states) for x0 in range(K) if kernel.of_data(t)[x0, x] > 1e-12]
    x, x0 = np.array(every).T
    return x, x0, np.random.default_rng(1).dirichlet(np.ones(K), len(x))


def posterior(kernel, c, x, t):
    """p(x_0 | x_t) of leave-one-out laws."""
    p = c * kernel.of_data(t)[:, x].T
    return p / p.sum(1, keepdims=True)


def back(kernel, x, s, t):
    """q(x_s | x_t, x_0 = v) by Bayes' rule, [n, K, states]; 0 where x cannot come of v."""
    joint = kernel.of_data(s) * kernel.between(s, t)[:, x].T[:, None]
    total = joint.sum(-1, keepdims=True)
    return np.divide(joint, total, out=np.zeros_like(joint), where=total > 1e-14)


def read(kernel, c, x, t):
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(c), jnp.float32)
    return kernel.process.read("leave_one_out", logits, jnp.asarray(x), jnp.full(len(x), t), None)


def divergence(right, ours):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(right > 1e-15, right * np.log(right / ours), 0.0).sum(-1)


@kernels
def test_the_noised_law_and_what_it_says_of_the_data_are_the_definitions(kernel):
    for t in (0.25, 0.75, 1.0):
        q = kernel.of_data(t)
        np.testing.assert_allclose(np.exp(kernel.process.log_kernel(t)), q.T, rtol=2e-5, atol=1e-7)
        x, _, c = pairs(kernel, t)
        found = np.exp(read(kernel, c, x, t).log_probabilities())
        np.testing.assert_allclose(found, posterior(kernel, c, x, t), rtol=1e-4, atol=1e-6)
        truth = jnp.arange(K)
        if kernel is not KERNELS["absorbing"]:
            noise = kernel.between(0.0, 1.0).mean(0)
            np.testing.assert_allclose(kernel.process.prior_kl(truth, t), divergence(q, noise), rtol=1e-4, atol=2e-7)


@kernels
def test_a_steps_cost_is_the_divergence_of_two_laws(kernel):
    for t, s in ((0.75, 0.5), (0.75, 0.0), (1.0, 0.25), (0.5, 0.5)):
        x, x0, c = pairs(kernel, t)
        by_data = back(kernel, x, s, t)
        ours = np.einsum("nv,nvj->nj", posterior(kernel, c, x, t), by_data)
        expected = divergence(by_data[np.arange(len(x)), x0], ours)
        truth = jd.processes.Certain(jnp.asarray(x0))
        found = kernel.process.kl(read(kernel, c, x, t), truth, jnp.asarray(x), t, s)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
        certain = read(kernel, np.eye(K)[x0], x, t)
        np.testing.assert_allclose(kernel.process.kl(certain, truth, jnp.asarray(x), t, s), 0.0, atol=1e-12)


@pytest.mark.parametrize("kernel", [KERNELS[name] for name in ("multinomial", "gaussian", "table")])
def test_the_cost_of_a_step_keeps_its_digits_where_the_two_laws_nearly_agree(kernel):
    """By definition in float64: a sum of terms of both signs would be wrong by 1e-7, as much as the cost itself."""
    t, s = 0.75, 0.5
    x, x0, c = pairs(kernel, t)
    c = 0.999 * np.eye(K)[x0] + 0.001 * c
    by_data = back(kernel, x, s, t)
    ours = np.einsum("nv,nvj->nj", posterior(kernel, c, x, t), by_data)
    expected = divergence(by_data[np.arange(len(x)), x0], ours)
    truth = jd.processes.Certain(jnp.asarray(x0))
    found = kernel.process.kl(read(kernel, c, x, t), truth, jnp.asarray(x), t, s)
    assert expected.min() < 2e-7
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-10)


def reverse_rates(kernel, weights, x, t):
    """Σ_v weights_v rates(y -> x) q(y | v)/q(x | v) of every y != x, [n, states]."""
    q, rates = kernel.of_data(t), kernel.rates(t)
    result = np.zeros((len(x), kernel.process.states))
    for i, at in enumerate(x):
        for v in range(K):
            if weights[i, v] > 0 and q[v, at] > 0:
                result[i] += weights[i, v] * rates[:, at] * q[v] / q[v, at]
        result[i, at] = 0
    return result


@continuous
def test_the_rate_of_the_bound_is_the_divergence_of_the_reverse_rates(kernel):
    """Σ_y [R̂ - R + R log R/R̂] (Lou et al. 2024, eq. 10), by the rates and laws of every pair."""
    for t in (0.05, 0.5, 0.9):
        x, x0, c = pairs(kernel, t)
        right = reverse_rates(kernel, np.eye(K)[x0], x, t)
        ours = reverse_rates(kernel, posterior(kernel, c, x, t), x, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(right > 0, right * np.log(right / ours), 0.0).sum(1) + (ours - right).sum(1)
        truth = jd.processes.Certain(jnp.asarray(x0))
        found = kernel.process.rate(t) * kernel.process.error(read(kernel, c, x, t), truth, jnp.asarray(x), t)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)
        certain = read(kernel, np.eye(K)[x0], x, t)
        np.testing.assert_array_equal(kernel.process.error(certain, truth, jnp.asarray(x), t), 0.0)


def assert_frequencies(draws, law):
    """Every frequency of draws [n, m] within 4 standard errors of its probability, law [n, states]."""
    draws = np.asarray(draws)
    found = (draws[..., None] == np.arange(law.shape[1])).mean(1)
    np.testing.assert_array_less(np.abs(found - law), 4 * np.sqrt(law * (1 - law) / draws.shape[1]) + 1e-6)


@pytest.mark.parametrize("kernel", few(KERNELS, "table"))
def test_draws_follow_the_laws_of_their_definitions(kernel):
    """Forward, a step back by a denoiser, and one of the reverse rates, each of every x."""
    t, s, m = 0.75, 0.5, 5000
    x, _, c = pairs(kernel, t)
    p = posterior(kernel, c, x, t)
    process, keys = kernel.process, example_keys(KEY, len(x))
    events = jnp.broadcast_to(jnp.asarray(x)[:, None], (len(x), m))
    prediction = read(kernel, np.broadcast_to(c[:, None], (len(x), m, K)), events, t)
    law = np.einsum("nv,nvj->nj", p, back(kernel, x, s, t))
    assert_frequencies(jax.jit(process.reverse)(keys, prediction, events, t, s), law)
    assert_frequencies(jax.jit(process.forward)(keys, events, t, 1.0), kernel.between(t, 1.0)[x])
    if kernel.rates:
        rates = reverse_rates(kernel, p, x, t)
        total = rates.sum(1, keepdims=True)
        jumps = 1 - np.exp(-total * (t - s))
        law = jumps * rates / np.where(total > 0, total, 1.0)
        law[np.arange(len(x)), x] = 1 - jumps[:, 0]
        assert_frequencies(jax.jit(process.leap)(keys, prediction, events, t, s), law)


def test_a_leap_of_a_sharpened_law_is_one_of_its_rates():
    """The two most probable x_0, of which x_t may be one: no other category is jumped to as data."""
    kernel, t, s, m = KERNELS["multinomial"], 0.75, 0.5, 20_000
    x, _, c = pairs(kernel, t)
    p = posterior(kernel, c, x, t)
    p = np.where(p >= np.sort(p)[:, [1]], p, 0.0)
    rates = reverse_rates(kernel, p / p.sum(1, keepdims=True), x, t)
    total = rates.sum(1, keepdims=True)
    law = (1 - np.exp(-total * (t - s))) * rates / total
    law[np.arange(len(x)), x] = np.exp(-total[:, 0] * (t - s))
    events = jnp.broadcast_to(jnp.asarray(x)[:, None], (len(x), m))
    prediction = read(kernel, np.broadcast_to(c[:, None], (len(x), m, K)), events, t)
    best = lambda log_p, number: jnp.where(log_p >= jnp.sort(log_p)[..., [1]], log_p, -jnp.inf)
    sharp = prediction.sharpened(best, jnp.zeros((len(x), m)))
    assert_frequencies(jax.jit(kernel.process.leap)(example_keys(KEY, len(x)), sharp, events, t, s), law)


def of_joint(kernel, t):
    """(law of x_t over all states, p(x_0^i | x_t) [.., N, K])."""
    q, size = kernel.of_data(t), kernel.process.states
    states = np.array(list(itertools.product(range(size), repeat=N)))
    each = [q[VALUES[:, i]][:, states[:, i]] for i in range(N)]  # [values, states]
    joint = TABLE.reshape(-1, 1) * np.prod(each, 0)
    p = np.stack([np.stack([joint[VALUES[:, i] == v].sum(0) for v in range(K)], -1) for i in range(N)], 1)
    law = joint.sum(0)
    return states, law, joint, np.divide(p, law[:, None, None], out=np.zeros_like(p), where=law[:, None, None] > 0)


def transition(kernel, s, t):
    """p(x_s | x_t) of the exact denoiser over all states, each token on its own."""
    states, _, _, p = of_joint(kernel, t)
    each = [np.einsum("nv,nvj->nj", p[:, i], back(kernel, states[:, i], s, t)) for i in range(N)]
    return np.prod([each[i][:, states[:, i]] for i in range(N)], 0)


@pytest.mark.parametrize("kernel", few(KERNELS, "multinomial"))
def test_ancestral_samples_and_the_bound_in_steps_are_enumerated(kernel):
    """Over 4 steps: the law by dynamic programming, the bound as the sum of its divergences."""
    n, grid = 20_000, np.array([1.0, 0.75, 0.5, 0.25])
    denoiser = jd.exact.Table(kernel.process, TABLE)
    size = kernel.process.states
    noise = np.eye(size)[-1] if size > K else kernel.between(0.0, 1.0).mean(0)
    law = np.outer(noise, noise).ravel()
    for t in grid:
        law = law @ transition(kernel, t - 0.25, t)
    states = of_joint(kernel, 1.0)[0]
    law = law[(states < K).all(1)]
    assert law.sum() == pytest.approx(1)
    x = jd.sample(KEY, denoiser, (n, N), jd.samplers.Ancestral(), 4, grid=jd.grids.Time())
    found = np.bincount(np.ravel_multi_index(np.asarray(x).T, (K,) * N), minlength=K**N) / n
    np.testing.assert_array_less(np.abs(found - law), 4 * np.sqrt(law * (1 - law) / n))
    expected = 0.0 if size > K else divergence(kernel.of_data(1.0), noise) @ (TABLE.sum(0) + TABLE.sum(1))
    for t in grid:
        states, _, joint, p = of_joint(kernel, t)
        for i in range(N):
            by_data = back(kernel, states[:, i], t - 0.25, t)
            cost = divergence(by_data, np.einsum("nv,nvj->nj", p[:, i], by_data)[:, None])  # [states, K]
            expected += np.sum(np.where(joint > 0, joint * np.minimum(cost, 1e9)[:, VALUES[:, i]].T, 0.0))
    bound = jd.variational_bound(KEY, denoiser, data(n), 4, batch_size=n)
    scale = N * math.log(2)
    assert scale * bound.bits_per_dim == pytest.approx(expected, abs=4 * scale * bound.standard_error)
    assert expected > entropy(TABLE, range(N), []) + 0.02


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(KERNELS["multinomial"], id="multinomial"),
        pytest.param(KERNELS["gaussian"], id="gaussian", marks=pytest.mark.slow),
    ],
)
def test_the_bound_in_continuous_time_is_the_entropy_of_uniform_and_ordered_noise(kernel):
    n = 4000
    found = jd.continuous_bound(KEY, jd.exact.Table(kernel.process, TABLE), data(n), 32, batch_size=n)
    scale, expected = N * math.log(2), entropy(TABLE, range(N), [])
    assert scale * found.bits_per_dim == pytest.approx(expected, abs=4 * scale * found.standard_error)
    assert scale * found.standard_error < 0.03


@kernels
def test_every_row_of_the_exact_law_reads_as_the_same_prediction(kernel):
    for t in (0.25, 0.75):
        x, _, c = pairs(kernel, t)
        p, q = posterior(kernel, c, x, t), kernel.of_data(t)
        with np.errstate(divide="ignore"):
            rows = {"data": np.log(np.maximum(p, 1e-30))}
            if kernel is KERNELS["multinomial"]:
                rows["score"] = np.log(c @ q) - np.log((c @ q)[np.arange(len(x)), x])[:, None]
            if kernel is KERNELS["absorbing"]:
                rows["score"] = np.log(np.maximum(cosine(t) / (1 - cosine(t)) * p, 1e-30))
        assert {*rows, "leave_one_out"} == {*kernel.process.rows}
        for row, out in rows.items():
            read_as = kernel.process.read(row, jnp.asarray(out, jnp.float32), jnp.asarray(x), jnp.full(len(x), t), None)
            np.testing.assert_allclose(np.exp(read_as.log_probabilities()), p, rtol=5e-4, atol=1e-6, err_msg=row)


def walked(categories, tau):
    """e^{-τ L} on a path, in float64 without a difference: the powers of a walk of small steps, squared."""
    walk = np.diag(np.full(categories - 1, 0.5), 1)
    walk = walk + walk.T
    walk[[0, -1], [0, -1]] = 0.5
    halvings = max(0, math.ceil(math.log2(4 * tau)))
    mean, term, total = 2 * tau / 2**halvings, np.eye(categories), np.zeros_like(walk)
    for m in range(1, 40):
        total = total + math.exp(-mean) * term
        term = term @ walk * (mean / m)
    return np.linalg.matrix_power(total, 2**halvings)


@pytest.mark.parametrize("categories", [pytest.param(2, marks=pytest.mark.slow), 256])
def test_heat_on_a_path_is_positive_and_exact_in_float32(categories):
    """At K = 256, τ = 1 the sum of cosines has half of its entries below 0; here all logs are right, far ones too."""
    process, slowest = jd.DiscretizedGaussian(categories), 4 * math.sin(math.pi / 2 / categories) ** 2
    for tau in (1e-3, 1.0, 0.499 / slowest, 0.501 / slowest, 3 / slowest):
        expected = walked(categories, tau)
        kept = math.exp(-slowest * tau)
        t = np.float32(1 - kept)
        slack = 1e-4 if 1 - kept > 1e-3 else 2e-7 / (1 - kept)  # the rounding of t is one of τ
        found = np.asarray(process.log_kernel(t), np.float64)
        assert np.isfinite(found).all()
        seen = expected > 1e-30
        np.testing.assert_allclose(found[seen], np.log(expected[seen]), rtol=slack, atol=slack)


def test_a_table_of_uniform_noise_is_multinomial():
    betas = np.array([0.1, 0.3, 0.5, 1.0])
    table = jd.from_transitions((1 - betas)[:, None, None] * np.eye(K) + betas[:, None, None] / K)
    kept = np.cumprod(1 - betas)
    np.testing.assert_allclose(table.alpha(np.arange(1, 5) / 4), kept, atol=1e-7)
    for k in range(1, 5):
        np.testing.assert_allclose(
            np.exp(table.log_kernel(k / 4)), kept[k - 1] * np.eye(K) + (1 - kept[k - 1]) / K, 1e-5
        )


def test_d3pms_gaussian_matrices_keep_the_uniform_law_and_reach_it():
    """Austin et al. 2021, eq. 8: exp(-4 d²/((K - 1)² β)) over the sum of it over d = -(K - 1) to K - 1."""
    matrices = jd.processes.gaussian_transitions(np.array([0.05, 0.4]), 5)
    np.testing.assert_allclose(matrices.sum(1), 1)
    np.testing.assert_allclose(matrices.sum(2), 1)
    weights = {d: math.exp(-4 * d * d / (16 * 0.4)) for d in range(-4, 5)}
    assert matrices[1, 3, 1] == pytest.approx(weights[2] / sum(weights.values()))
    assert (matrices >= 0).all()


DRAW = jd.exact.Table(KERNELS["table"].process, TABLE)
OF_STEPS = {
    "sample": lambda: jd.sample(KEY, DRAW, (3, N), jd.samplers.Ancestral(), 3),
    "array": lambda: jd.sample(KEY, DRAW, (3, N), jd.samplers.Ancestral(), grid=np.array([1.0, 0.6])),
    "bound": lambda: jd.variational_bound(KEY, DRAW, data(3), 3),
    "perturb": lambda: jd.perturb(KEY, DRAW.process, data(3), 0.6),
    "Steps": lambda: jd.losses.Steps(3)(DRAW, KEY, data(3)),
    "Steps of an array": lambda: jd.losses.Steps(2, np.array([1.0, 0.6]))(DRAW, KEY, data(3)),
    "before training": lambda: jd.losses.Steps(3).check(DRAW, data(3), None),
    "bound of an array": lambda: jd.variational_bound(KEY, DRAW, data(3), grid=np.array([1.0, 0.6])),
}


@pytest.mark.parametrize("call", OF_STEPS.values(), ids=OF_STEPS)
def test_a_time_that_is_no_step_of_a_table_is_refused_with_the_nearest(call):
    with pytest.raises(ValueError, match=r"t = 0.6\d* is no step of a table of 4; .* nearest is [23]/4 = 0.\d*: take"):
        call()


def test_of_a_traced_table_times_that_are_no_steps_cost_nan_and_draw_no_category():
    loss = jax.jit(lambda denoiser: jd.losses.Steps(3)(denoiser, KEY, data(3)))
    assert np.isnan(loss(DRAW)).all()
    draw = jax.jit(lambda denoiser: jd.sample(KEY, denoiser, (3, N), jd.samplers.Ancestral(), 3))
    np.testing.assert_array_equal(draw(DRAW), -1)


RISING = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])  # a category never falls


def test_data_that_a_table_cannot_noise_to_x_have_probability_0_under_every_parameterization():
    process, p = jd.from_transitions(np.stack([RISING, RISING])), np.array([0.1, 0.2, 0.7], np.float32)
    x, m = jnp.array([[0, 1, 2]]), 2000
    for head in (False, True):
        out = jnp.log(jnp.broadcast_to(p, (1, 3, K)))
        out = jd.Head(out, jnp.eye(K)) if head else out
        found = jax.jit(lambda out: process.read("data", out, x, jnp.full(1, 0.5), None).probabilities()[0])(out)
        np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3, 2 / 3, 0], [0, 2 / 9, 7 / 9]], rtol=1e-5)
    x = np.broadcast_to(np.array([[0], [1]]), (2, m))

    @jax.jit
    def step(x):
        prediction = process.read("data", jnp.log(jnp.broadcast_to(p, (2, m, K))), x, jnp.full(2, 1.0), None)
        return process.reverse(example_keys(KEY, 2), prediction, x, 1.0, 0.5)

    drawn = step(x)
    np.testing.assert_array_equal(drawn[0], 0)
    # x_0 is 0 with probability 1/3, which has risen by now with probability 1/2; 1 has stayed
    assert_frequencies(drawn[1:], np.array([[1 / 6, 5 / 6, 0.0]]))


@pytest.mark.parametrize("row", ["data", "leave_one_out"])
def test_a_value_that_no_data_can_be_noised_to_has_no_law_and_no_draw(row):
    process = jd.from_transitions(np.tile(np.array([[0.5, 0.5, 0.0]]), (2, K, 1)))  # 2 is never reached
    denoiser = jd.Denoiser(score, None, process, row)
    assert np.isnan(denoiser(np.array([[2, 2]]), 1.0).probabilities()).all()
    x = jd.sample(KEY, denoiser, (1, 2), jd.samplers.Ancestral(), 2, x_start=np.array([[2, 1]]))
    assert x[0, 0] == -1
    assert 0 <= x[0, 1] < K


TIMELESS = {
    "bound": lambda: jd.continuous_bound(KEY, DRAW, data(3)),
    "loss": lambda: jd.losses.Bound()(DRAW, KEY, data(3)),
    "score": lambda: jd.Denoiser(print, None, DRAW.process, "score"),
    "start": lambda: jd.sample(
        KEY, jd.Denoiser(score, None, KERNELS["multinomial"].process, "score"), (3, N), jd.samplers.Ancestral()
    ),
    "unknown": lambda: KERNELS["multinomial"].process.unknown((3, N)),
    "head": lambda: KERNELS["multinomial"].process.read(
        "score", jd.Head(jnp.zeros((1, N, 2)), jnp.zeros((K, 2))), jnp.zeros((1, N), int), jnp.full(1, 0.5), None
    ),
}


def score(params, x, c_noise, cond):
    return jnp.zeros((*x.shape, K))


@pytest.mark.parametrize(
    ("call", "message"),
    zip(
        TIMELESS.values(),
        [
            "no continuous time; take jaxdiff.variational_bound",
            "no continuous time",
            'expected "leave_one_out" or "data"',
            r'alpha\(1.0\) = 0 for Multinomial: .*"score" does not determine',
            "no value that means unknown",
            'returned a jaxdiff.Head, but parameterization = "score"',
        ],
    ),
    ids=TIMELESS,
)
def test_what_a_kernel_has_not_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@kernels
def test_gradients_are_finite_at_both_ends(kernel):
    """With NaNs looked for where they arise: of the cost of a step and of the bound's rate, at t near 0 and at 1."""
    process, truth = kernel.process, jd.processes.Certain(jnp.array([[0, 2, 1]]))

    @jax.jit
    def cost(logits, x, t):
        prediction = process.read("leave_one_out", logits, x, jnp.full(1, t), None)
        paid = process.kl(prediction, truth, x, t, 0.0) + process.denoising_error(prediction, truth, x, t)
        return jnp.sum(paid + process.error(prediction, truth, x, t) if kernel.rates else paid)

    noised = jnp.array([[0, 1, 1]])
    places = ((1e-6, truth.data), (0.5, noised), (1.0, noised)) if kernel.rates else ((0.25, truth.data), (1.0, noised))
    with jax.debug_nans(True):
        for t, x in places:
            x = jnp.full_like(x, K) if (t == 1.0 and process.states > K) else x
            if process.states == K or t != 0.5:
                assert np.isfinite(jax.grad(cost)(jnp.zeros((1, 3, K)), x, t)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_no_program_holds_a_matrix_of_categories_an_example(name):
    """K = 67: of what is compiled for loss, step and draw, no array has two axes K and one more."""
    k, n, steps = 67, 3, 2
    process = {
        "absorbing": jd.Absorbing(k),
        "multinomial": jd.Multinomial(k),
        "gaussian": jd.DiscretizedGaussian(k),
        "table": jd.from_transitions(np.full((steps, k, k), 1 / k)),
    }[name]
    x, keys, t, s = jnp.zeros((n, 5), jnp.int32), example_keys(KEY, n), jnp.full(n, 1.0), jnp.full(n, 0.5)

    def program(logits, x, t, s):
        prediction, truth = process.read("leave_one_out", logits, x, t, None), jd.processes.Certain(x)
        cost = process.kl(prediction, truth, x, t, s).sum() + process.denoising_error(prediction, truth, x, t).sum()
        return (cost if name == "table" else cost + process.error(prediction, truth, x, t).sum()), process.reverse(
            keys, prediction, x, t, s
        )

    compiled = jax.jit(jax.value_and_grad(program, has_aux=True)).lower(jnp.zeros((n, 5, k)), x, t, s).compile()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\[(\d+(?:,\d+)*)\]", compiled.as_text())}
    assert (n, 5, k) in shapes
    allowed = {(k, k), (steps, k, k), (steps + 1, k, k)} if name == "table" else {(k, k)}
    assert not {shape for shape in shapes if sum(size >= k for size in shape) > 1} - allowed
