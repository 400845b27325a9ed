"""Samplers of categories: their laws against dynamic programming over all states of a joint of three tokens."""

import itertools
import math

import jax
import letters
import numpy as np
import pytest
from conftest import few_names
from tables import TOKEN_SAMPLERS

import jaxdiff as jd
from jaxdiff.samplers import Ancestral, TauLeaping, Unmask

K, N = 3, 3
MASK = K
TABLE = np.random.default_rng(3).dirichlet(np.full(K**N, 0.4)).reshape((K,) * N)
STATES = list(itertools.product(range(K + 1), repeat=N))
PROCESS = jd.Absorbing(K)
DENOISER = jd.exact.Table(PROCESS, TABLE)
KEY = jax.random.key(0)
START = {(MASK,) * N: 1.0}
GRID = np.array([1.0, 0.6, 0.25, 0.0])


def conditionals(x):
    """p(x_0^i = v | what is seen of x), [N, K], by slices of the table."""
    seen = TABLE[tuple(slice(None) if v == MASK else slice(v, v + 1) for v in x)]
    laws = [seen.sum(tuple(j for j in range(N) if j != i)) / seen.sum() for i in range(N)]
    return [law if v == MASK else np.eye(K)[v] for law, v in zip(laws, x)]


P = {x: conditionals(x) for x in STATES}


def moved(law, one):
    """The law after a step in which value i of x becomes each of `one(x)[i]` [K + 1], independently."""
    after = {}
    for x, chance in law.items():
        each = one(x)
        for y in itertools.product(*(np.flatnonzero(values) for values in each)):
            after[y] = after.get(y, 0.0) + chance * math.prod(values[v] for values, v in zip(each, y))
    return after


def shown(chance, again=0.0):
    """Each mask is drawn with probability `chance`; what is seen becomes a mask with probability `again`."""

    def one(x):
        stays = lambda v: (1 - again) * np.eye(K + 1)[v] + again * np.eye(K + 1)[MASK]
        drawn = lambda p: np.append(chance * p, 1 - chance)
        return [drawn(p) if v == MASK else stays(v) for v, p in zip(x, P[x])]

    return one


def remasking(eta):
    law = START
    for t, s in itertools.pairwise(GRID):
        again = eta * min(1.0, s / (1 - t)) if t < 1 else eta
        law = moved(law, shown((1 - s - (1 - again) * (1 - t)) / t, again))
    return law


def leaping(correct):
    """The rate of a mask is 1/t; the corrector goes forward to t and leaps again."""
    law = START
    for t, s in itertools.pairwise(GRID[:-1]):
        leap = shown(1 - math.exp(-(t - s) / t))
        law = moved(law, leap)
        for _ in range(correct):
            law = moved(moved(law, shown(0.0, again=(t - s) / (1 - s))), leap)
    last = GRID[-2] / 1.0  # to where there is no noise all is drawn; a corrector step noises all of it again
    for _ in range(correct + 1):
        law = moved(law, shown(1.0))
        if _ < correct:
            law = moved(law, shown(0.0, again=last))
    return law


ORDERS = {
    "confidence": lambda p: p.max(),
    "entropy": lambda p: np.sum(p * np.log(p)),
    "margin": lambda p: np.diff(np.sort(p))[-1],
}


def unmasking(order, block, left):
    """Masks are shown until as many are left as `left` says, one number a step."""
    law = START
    for stay in left:
        after = {}
        for x, chance in law.items():
            masks = [i for i in range(N) if x[i] == MASK]
            if order == "random":
                ways = list(itertools.permutations(masks))
            else:
                score = ORDERS.get(order, lambda p: 0.0)
                ways = [sorted(masks, key=lambda i: (-score(P[x][i]), i))]
            for way in ways:
                first = sorted(way, key=lambda i: i // block)[
                    : len(masks) - stay
                ]  # stable: in the order within a block
                drawn = shown(1.0)(x)
                each = [values if i in first else np.eye(K + 1)[x[i]] for i, values in enumerate(drawn)]
                for y, share in moved({x: 1.0}, lambda _, each=each: each).items():
                    after[y] = after.get(y, 0.0) + chance * share / len(ways)
        law = after
    return law


def table(law):
    return np.array([law.get(x, 0.0) for x in np.ndindex(TABLE.shape)]).reshape(TABLE.shape)


def frequencies(samples):
    counts = np.zeros(TABLE.shape)
    np.add.at(counts, tuple(np.asarray(samples).T), 1 / len(samples))
    return counts


def assert_law(samples, expected):
    """Every frequency within 4 standard errors of its probability."""
    assert expected.sum() == pytest.approx(1.0)
    error = np.sqrt(expected * (1 - expected) / len(samples))
    np.testing.assert_array_less(np.abs(frequencies(samples) - expected), 4 * error + 1e-12)


def drawn(sampler, n, grid=GRID, start=(MASK,) * N):
    """Samples from `start`, by one program for each sampler and n."""
    return jd.sample(KEY, DENOISER, (n, N), sampler, grid=np.array(grid), x_start=np.broadcast_to(start, (n, N)))


slow = pytest.mark.slow
MANY = pytest.mark.parametrize("n", [20_000, pytest.param(1_000_000, marks=slow)])
INDEPENDENT = {
    "remask 0.5": (Ancestral(remask=0.5), remasking(0.5)),
    "remask 1": (Ancestral(remask=1.0), remasking(1.0)),
    "TauLeaping corrected": (TauLeaping(1), leaping(1)),
    "Ancestral": (Ancestral(), remasking(0.0)),
    "TauLeaping": (TauLeaping(), leaping(0)),
    "TauLeaping corrected twice": (TauLeaping(2), leaping(2)),
}


@MANY
@pytest.mark.parametrize("name", few_names(INDEPENDENT, "remask 0.5", "TauLeaping corrected"))
def test_samples_follow_their_enumerated_law(name, n):
    sampler, law = INDEPENDENT[name]
    assert np.abs(table(law) - TABLE).max() > 0.01, "few steps are not the data"
    assert_law(drawn(sampler, n), table(law))


UNMASK = {
    "random": ("random", None),
    "confidence": ("confidence", None),
    "entropy": ("entropy", None),
    "margin": ("margin", None),
    "left to right": ("left to right", None),
    "random in blocks": ("random", 2),
}


@MANY
@pytest.mark.parametrize("name", few_names(UNMASK, "confidence"))
def test_unmasking_follows_its_order_exactly(name, n):
    """Any number a step: one a step is the law itself in every order, all at once is the product of the marginals."""
    order, block = UNMASK[name]
    product = math.prod(np.ix_(*P[(MASK,) * N]))
    for grid, left in (
        ((1.0, 0.67, 0.33, 0.0), (2, 1, 0)),
        ((1.0, 0.34, 0.3, 0.0), (1, 1, 0)),
        ((1.0, 0.7, 0.69, 0.0), (2, 2, 0)),
        ((1.0, 0.99, 0.9, 0.0), (3, 3, 0)),
    ):
        expected = table(unmasking(order, block or N, left))
        if left == (2, 1, 0):
            np.testing.assert_allclose(expected, TABLE, rtol=1e-9)
        if left == (3, 3, 0):
            np.testing.assert_allclose(expected, product, rtol=1e-9)
        assert_law(drawn(Unmask(order, block), n, grid), expected)


def test_ranking_by_the_value_that_was_drawn_would_be_seen():
    """Its law at one mask a step, the most probable of the values drawn first, is far from the table's."""
    law = START
    for _ in range(N):
        after = {}
        for x, chance in law.items():
            masks = [i for i in range(N) if x[i] == MASK]
            for values in itertools.product(range(K), repeat=len(masks)):
                share = math.prod(P[x][i][v] for i, v in zip(masks, values))
                i, v = max(zip(masks, values), key=lambda one: P[x][one[0]][one[1]])
                y = (*x[:i], v, *x[i + 1 :])
                after[y] = after.get(y, 0.0) + chance * share
        law = after
    assert np.sum(TABLE * np.log(TABLE / table(law))) > 0.05
    with pytest.raises(AssertionError):
        assert_law(drawn(Unmask("confidence"), 20_000, (1.0, 0.67, 0.33, 0.0)), table(law))


def test_leaps_leave_masks_behind_and_the_run_ends_with_the_answer():
    """Of equal steps in t each leaves exp(-1/k) of the masks, k = T, ..., 2 before the answer."""
    n, steps = 4000, 4
    path = np.asarray(jd.sample(KEY, DENOISER, (n, N), TauLeaping(), steps, grid=jd.grids.Time(), trajectory=True))
    left = math.exp(-sum(1 / k for k in range(2, steps + 1)))
    assert np.mean(path[-2] == MASK) == pytest.approx(left, abs=4 * math.sqrt(left * (1 - left) / (n * N)))
    assert (path[-1] != MASK).all()


@pytest.mark.parametrize("name", TOKEN_SAMPLERS)
def test_what_is_seen_at_the_start_stays_and_a_sample_depends_on_its_key_alone(name):
    """Some examples have less to draw than others, and some nothing."""
    start = np.array([[2, MASK, MASK], [MASK, 1, MASK], [MASK, MASK, MASK], [0, 1, 2]] * 5)
    run = lambda keys, x: jd.sample(keys, DENOISER, x.shape, TOKEN_SAMPLERS[name], 6, x_start=x, trajectory=True)
    keys = jd.samplers.example_keys(KEY, len(start))
    path = np.asarray(run(keys, start))
    seen = start != MASK
    assert (path[:, seen] == start[seen]).all()
    assert (path[-1] != MASK).all()
    assert len(np.unique(path[-1, 2::4], axis=0)) > 1
    np.testing.assert_array_equal(run(keys[::-1], start[::-1])[:, ::-1], path)


def test_infilling_one_mask_a_step_is_the_law_given_what_is_seen():
    expected = np.zeros_like(TABLE)
    expected[:, 1] = TABLE[:, 1] / TABLE[:, 1].sum()
    assert_law(drawn(Unmask("random"), 20_000, (1.0, 0.5, 0.4, 0.0), (MASK, 1, MASK)), expected)


def test_as_many_masks_are_left_as_the_grid_says():
    """Of n in which an example starts round(n σ): from pure noise, and from where half is seen."""
    chain = jd.exact.Markov(PROCESS, [0.2, 0.3, 0.5], np.full((K, K), 1 / K))
    start = np.where(np.arange(12) < np.arange(1, 13)[:, None], MASK, 0)
    for t_start, block in ((1.0, 12), (0.5, 3)):
        sampler, grid = Unmask("entropy", block), np.linspace(t_start, 0.0, 8)
        path = np.asarray(jd.sample(KEY, chain, start.shape, sampler, grid=grid, x_start=start, trajectory=True))
        masks = np.arange(1, 13)
        np.testing.assert_array_equal(
            (path == MASK).sum(-1), np.round(masks * grid[:, None].astype(np.float32) / t_start)
        )
        begun = np.where((path != MASK) & (start == MASK), np.arange(12) // block, -1).max(-1, keepdims=True)
        assert not ((path == MASK) & (np.arange(12) // block < begun)).any(), "no block before one that is begun"


def test_the_most_certain_token_comes_first_under_sharpenings_that_make_all_certain():
    """Two independent tokens: of the second more is known than of the first, whichever value is drawn."""
    exact = jd.exact.Table(jd.Absorbing(2), np.outer([0.6, 0.4], [0.1, 0.9]))
    for denoiser in (exact, jd.guidance.TopK(exact, 1), jd.guidance.Temperature(exact, 1e-3)):
        x = jd.sample(KEY, denoiser, (4, 2), Unmask("confidence"), grid=np.array([1.0, 0.5]))
        assert ((np.asarray(x) == 2) == [True, False]).all()


def test_other_blocks_and_shares_compile_nothing():
    traces = []

    @jax.jit
    def run(sampler):
        traces.append(type(sampler))
        return jd.sample(KEY, DENOISER, (2, N), sampler, 2)

    for share, block in ((0.2, 1), (0.9, 2)):
        jax.eval_shape(run, Ancestral(remask=share))
        jax.eval_shape(run, Unmask("random", block))
    assert traces == [Ancestral, Unmask]


@slow
@pytest.mark.parametrize(
    "sampler", [Unmask("random"), Unmask("confidence", 16)], ids=["random", "confidence in blocks"]
)
def test_pairs_of_letters_of_a_long_chain_are_those_of_its_law(sampler):
    """Pairs of the King James Bible, 128 places: one mask a step is exact."""
    n, length = 200, 128
    chain = jd.exact.Markov(jd.Absorbing(27), letters.LETTERS, letters.TRANSITION)
    x = np.asarray(jd.sample(KEY, chain, (n, length), sampler, length))
    found = np.zeros((n, 27, 27))
    np.add.at(found, (np.arange(n)[:, None], x[:, :-1], x[:, 1:]), 1 / (length - 1))
    expected = letters.PAIRS / letters.PAIRS.sum()
    error = np.maximum(found.std(0), np.sqrt(expected / (length - 1))) / math.sqrt(n)
    few = 4 / (n * (length - 1))  # pairs that come less than once
    np.testing.assert_array_less(abs(found.mean(0) - expected), 4 * error + few)
    assert 4 * error.max() < 0.02
