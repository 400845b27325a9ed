import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import schrodinger_covariance
from tables import REPAIRING

import jaxdiff as jd
from jaxdiff.data import two_moons
from jaxdiff.losses.couplings import Entropic, Independent, OptimalTransport, Paired, assignment_cost, draw

KEY = jax.random.key(0)
each_that_repairs = pytest.mark.parametrize("coupling", REPAIRING.values(), ids=REPAIRING.keys())


def cost(x0, x1):
    return np.sum((np.asarray(x0, np.float64)[:, None] - np.asarray(x1, np.float64)) ** 2, -1)


@each_that_repairs
def test_order_is_kept_and_every_source_point_is_used_once(coupling):
    key, x0 = jax.random.key(0), jax.random.normal(jax.random.key(1), (33, 2, 2))
    drawn = Independent()(key, x0)[1]
    first, partners = jax.jit(coupling)(key, x0)
    np.testing.assert_array_equal(first, x0)
    order = lambda x: np.sort(np.asarray(x).reshape(33, -1), axis=0)
    np.testing.assert_array_equal(order(partners), order(drawn))
    assert len(np.unique(np.asarray(partners).reshape(33, -1), axis=0)) == 33
    assert np.trace(cost(x0.reshape(33, -1), partners.reshape(33, -1))) < np.trace(
        cost(x0.reshape(33, -1), drawn.reshape(33, -1))
    )


def test_optimal_transport_is_the_least_of_all_permutations():
    pairs = jax.random.normal(jax.random.key(0), (5, 6, 2, 3))
    x0, x1 = jax.vmap(OptimalTransport(Paired()), (None, 0))(jax.random.key(0), pairs)
    for given, a, b in zip(pairs, x0, x1):
        costs = cost(given[:, 0], given[:, 1])
        least = min(costs[range(6), list(order)].sum() for order in itertools.permutations(range(6)))
        np.testing.assert_allclose(np.trace(cost(a, b)), least, rtol=1e-6)


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("law", [lambda x: x, lambda x: 1e3 + 1e-2 * x, np.zeros_like], ids=["one", "small", "a point"])
def test_the_cost_of_every_permutation_is_that_of_its_squares_less_one_number(d, law):
    x0, x1 = np.random.default_rng(0).standard_normal((2, 4, d))
    x1, orders = law(x1), [list(order) for order in itertools.permutations(range(4))]
    squares, found = (
        np.array([c[range(4), order].sum() for order in orders]) for c in (cost(x0, x1), assignment_cost(x0, x1))
    )
    np.testing.assert_allclose(squares - squares[0], found - found[0], atol=1e-9 * squares.max())
    assert assignment_cost(x0, x1).min() == 0
    alike = np.array([0, 0, 1, 1]) == np.array([[0], [0], [1], [1]])
    np.testing.assert_array_equal(np.isfinite(assignment_cost(x0, x1, alike)), alike)


def test_on_the_line_both_sort():
    for coupling in (OptimalTransport(), Entropic(1e-3, sweeps=16)):
        x0, x1 = coupling(jax.random.key(2), jax.random.normal(jax.random.key(3), (64, 1)))
        np.testing.assert_array_equal(np.argsort(x0[:, 0]), np.argsort(x1[:, 0]))


def test_entropic_permutations_have_their_law():
    """All 24 permutations of four pairs, drawn 6,000 times, against their weights written out."""
    pairs, sigma, n = jax.random.normal(jax.random.key(0), (4, 2, 2)), 1.0, 6000
    draw = lambda key: Entropic(sigma, Paired(), sweeps=16)(key, pairs)[1]
    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), n)))
    costs = cost(pairs[:, 0], pairs[:, 1])
    orders = list(itertools.permutations(range(4)))
    weights = np.exp([-costs[range(4), list(order)].sum() / (2 * sigma**2) for order in orders])
    weights /= weights.sum()
    seen = [(drawn == np.asarray(pairs[list(order), 1])).all((1, 2)).mean() for order in orders]
    assert sum(seen) == pytest.approx(1)
    assert (np.abs(seen - weights) < 4 * np.sqrt(weights * (1 - weights) / n)).all()


@pytest.mark.slow
def test_entropic_is_the_gaussian_schrodinger_plan():
    """1 - E|x_0 - x_1|²/2 is Cov(x_0, x_1) of N(0, I) and N(0, I), and varies least; a finite batch adds O(1/n)."""
    n, batches = 1024, 12

    def closeness(coupling, key):
        data_key, key = jax.random.split(key)
        x0, x1 = coupling(key, jax.random.normal(data_key, (n, 2)))
        return 1 - jnp.mean((x0 - x1) ** 2) / 2

    every = jax.jit(lambda coupling, keys: jax.lax.map(lambda key: closeness(coupling, key), keys))
    for sigma in (1.0, 20.0):
        values = every(Entropic(sigma, sweeps=2), jax.random.split(jax.random.key(4), batches))
        error = np.std(values, ddof=1) / np.sqrt(batches)
        assert error < 0.02
        assert abs(np.mean(values) - schrodinger_covariance(sigma)) < 4 * error


def test_sources():
    x0 = jnp.zeros((5, 2))
    moons = two_moons(jax.random.key(0), 5)
    np.testing.assert_array_equal(Independent(two_moons)(jax.random.key(0), x0)[1], moons)
    repaired = OptimalTransport(Independent(two_moons))(jax.random.key(0), x0)[1]
    np.testing.assert_array_equal(repaired.sort(0), moons.sort(0))
    pairs = jnp.arange(12.0).reshape(3, 2, 2)
    first, second = Paired()(jax.random.key(0), pairs)
    np.testing.assert_array_equal(jnp.stack([first, second], 1), pairs)


def test_new_numbers_compile_nothing():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(coupling, key, x0):
        return coupling(key, x0)

    for sigma in (0.5, 2.0):
        run(Entropic(sigma, Independent(two_moons)), jax.random.key(0), jnp.ones((4, 2)))


def test_sigmas_sweeps_and_shapes_that_give_no_pairs_are_refused():
    key = jax.random.key(0)
    for call, message in (
        (lambda: Entropic(0.0), "sigma = 0.0; expected a number above 0, or couplings.OptimalTransport"),
        (lambda: Entropic(sweeps=0), "sweeps = 0"),
        (lambda: Independent(two_moons)(key, jnp.zeros((4, 3))), r"points of shape \(4, 2\) for data \(4, 3\)"),
        (lambda: Paired()(key, jnp.zeros((4, 3))), r"shape \(4, 3\); expected pairs \[n, 2, \*event\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Under a condition


LABELS = np.arange(60) % 3


def of_classes(key):
    """Points around 3 class and their source points, N(0, 1), which paired over all classes would go by class."""
    x0 = 3.0 * LABELS[:, None] + 0.5 * np.asarray(jax.random.normal(jax.random.key(1), (60, 1)))
    return x0.astype(np.float32), Independent()(key, x0.astype(np.float32))[1]


@each_that_repairs
@pytest.mark.parametrize("jit", [False, True])
def test_every_class_keeps_its_source_points(coupling, jit):
    x0, source = of_classes(KEY)
    couple = jax.jit(draw) if jit else draw
    same, x1 = couple(coupling, KEY, x0, jnp.asarray(LABELS))
    np.testing.assert_array_equal(same, x0)
    for label in range(3):
        inside = np.equal(LABELS, label)
        np.testing.assert_array_equal(np.sort(x1[inside], 0), np.sort(np.asarray(source)[inside], 0))
    assert (np.asarray(x1) != np.asarray(source)).any()
    over_all = draw(coupling, KEY, x0)[1]
    assert np.mean(over_all[np.equal(LABELS, 2)]) > np.mean(over_all[np.equal(LABELS, 0)]) + 1  # what it would be


def test_the_transport_of_a_class_on_a_line_is_its_order():
    x0, _ = of_classes(KEY)
    _, x1 = draw(OptimalTransport(), KEY, x0, jnp.asarray(LABELS))
    for label in range(3):
        inside = np.equal(LABELS, label)
        np.testing.assert_array_equal(np.argsort(x0[inside, 0]), np.argsort(np.asarray(x1)[inside, 0]))


def test_conditions_are_compared_in_all_their_parts():
    x0, source = of_classes(KEY)
    parts = {"half": np.arange(60) // 30, "third": np.stack([LABELS, LABELS], 1).astype(np.float32)}
    x1 = draw(OptimalTransport(), KEY, x0, parts)[1]
    for half, label in itertools.product(range(2), range(3)):
        inside = np.equal(LABELS, label) & (np.arange(60) // 30 == half)
        np.testing.assert_array_equal(np.sort(x1[inside], 0), np.sort(np.asarray(source)[inside], 0))
    np.testing.assert_array_equal(draw(Entropic(), KEY, x0, x0)[1], source)  # no two are alike


def test_the_losses_hand_the_labels_on():
    x0, _ = of_classes(KEY)
    network = lambda params, x, c_noise, cond: params * x
    for loss, model in (
        (jd.losses.FlowMatching(OptimalTransport()), jd.Denoiser(network, jnp.ones(()), jd.Flow(), "velocity")),
        (jd.losses.BridgeMatching(), jd.Bridge(lambda *inputs: (network(*inputs),) * 2, jnp.ones(()))),
    ):
        assert (loss(model, KEY, x0, LABELS) != loss(model, KEY, x0)).any()
