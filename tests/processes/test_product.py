import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import MEANS, PROCESS, STD, assert_moments, data, joint, mixture, nats
from tables import GRIDS

import jaxdiff as jd
from jaxdiff.arrays import folded
from jaxdiff.losses import Denoising, times, weightings
from jaxdiff.samplers import example_keys
from jaxdiff.samplers.sampler import grid_of

KEY = jax.random.key(0)
SHAPE = {"number": (5, 2), "label": (5,)}


def test_everything_goes_part_by_part():
    """Of a nested tree: each part as its own process does it, by keys folded with its number, each at its time."""
    process = jd.Product(({"a": jd.VP(), "b": jd.Absorbing(3)}, [jd.Flow()]))
    x0 = ({"a": np.ones((4, 2), np.float32), "b": np.array([[0], [1], [2], [0]])}, [np.zeros((4, 3), np.float32)])
    keys = example_keys(KEY, 4)
    t = ({"a": jnp.full(4, 0.2), "b": jnp.full(4, 0.5)}, [jnp.full(4, 0.8)])
    x, truth = process.perturb(keys, x0, t)
    a = jd.VP().perturb(folded(keys, 0), x0[0]["a"], t[0]["a"])
    b = jd.Absorbing(3).perturb(folded(keys, 1), x0[0]["b"], t[0]["b"])
    c = jd.Flow().perturb(folded(keys, 2), x0[1][0], t[1][0])
    expected = ({"a": a[0], "b": b[0]}, [c[0]])
    jax.tree.map(np.testing.assert_array_equal, x, expected)
    np.testing.assert_array_equal(truth[1][0].noise, c[1].noise)
    one = jd.perturb(KEY, process, x0, 0.5)[0]
    np.testing.assert_array_equal(one[0]["b"], b[0])
    cost = process.error(truth, truth, x, t)
    assert jax.tree.structure(cost) == jax.tree.structure(x0)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(cost))
    assert hash(process) == hash(jd.Product(process.parts))
    assert jax.tree.structure(process) == jax.tree.structure(jax.tree.map(lambda leaf: leaf, process))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_a_grid_takes_equal_steps_in_the_mean_of_its_parts(grid):
    t = np.asarray(grid(PROCESS, 8, 0.95, 0.05), np.float64)
    vp, alpha = jd.VP(), 1 - t
    log_snr = (np.asarray(vp.log_snr(t)) + 2 * np.log(alpha / t)) / 2
    coordinate = {
        "Angle": (np.asarray(vp.angle(t)) + np.arctan2(t, alpha)) / 2,
        "LogSNR": log_snr,
        "Karras": np.exp(-log_snr / 2 / GRIDS["Karras"].rho),
        "Time": t,
        "Kept": 1 / (1 + np.exp(-log_snr / 2)),
    }[type(grid).__name__]
    steps = np.diff(coordinate)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)
    whole = grid(PROCESS, 8)
    assert (np.diff(whole) < 0).all()
    assert whole[0] == 1


def test_rates_add_and_every_inverse_inverts():
    t = np.linspace(0.01, 0.99, 15)
    names = ("angle", "log_snr", "log_share")

    @jax.jit
    def curves(t):
        rates = PROCESS.rate(t), jd.VP().rate(t), jax.vmap(jax.grad(PROCESS.log_share))(t)
        return *rates, [getattr(PROCESS, f"time_at_{name}")(getattr(PROCESS, name)(t)) for name in names]

    rate, of_numbers, slope, there_and_back = curves(t)
    np.testing.assert_allclose(rate, of_numbers + 1 / t, rtol=1e-4)
    np.testing.assert_allclose(rate, slope, rtol=1e-3)
    for name, there in zip(names, there_and_back):
        np.testing.assert_allclose(there, t, rtol=1e-4, atol=1e-5, err_msg=name)
    tree = {"number": jnp.array([0.5]), "label": jnp.array([0.1])}
    np.testing.assert_allclose(PROCESS.rate(tree), np.asarray(jd.VP().rate(0.5)) + 10, rtol=1e-4)


@pytest.mark.slow
def test_ancestral_samples_of_a_pair_have_its_moments():
    n = 3000
    shape = {"number": (n, 2), "label": (n,)}
    x = jd.sample(KEY, joint(), shape, jd.samplers.Ancestral(), 300)
    assert x["number"].dtype == jnp.float32
    assert x["label"].dtype == jnp.int32
    assert_moments(x)


def test_a_product_takes_equal_steps_in_log_snr_unless_told():
    draw = lambda grid: jd.sample(KEY, joint(), SHAPE, jd.samplers.Ancestral(), 3, grid=grid)
    jax.tree.map(np.testing.assert_array_equal, draw(None), draw(jd.grids.LogSNR()))
    each = jd.samplers.Each({"number": jd.samplers.DPMSolverPP(), "label": jd.samplers.Ancestral()})
    assert grid_of(each, PROCESS) == jd.grids.LogSNR()
    assert grid_of(jd.samplers.Ancestral(), jd.VP()) == jd.grids.Angle()


@pytest.mark.slow
def test_a_pair_depends_on_its_key_and_index_alone(tmp_path):
    shape = lambda n: {"number": (n, 2), "label": (n,)}
    settings = {"sampler": jd.samplers.Ancestral(), "steps": 3}
    whole = jd.sample(KEY, joint(), shape(9), **settings)
    for n in (4, 9):
        kept = jd.samplers.draw(KEY, joint(), shape(n), 4, keep=tmp_path, **settings)
        np.testing.assert_allclose(kept["number"], whole["number"][:n], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(kept["label"], whole["label"][:n])
    with np.load(next(tmp_path.glob("*/*.npz"))) as file:
        assert set(file.files) == {"index", "x['number']", "x['label']"}
    torn = next(tmp_path.glob("*/4.npz"))
    torn.write_bytes(torn.read_bytes()[:-9])
    again = jd.samplers.draw(KEY, joint(), shape(9), 4, keep=tmp_path, **settings)
    jax.tree.map(np.testing.assert_array_equal, again, kept)


def test_a_start_holds_what_is_known():
    """A label that is there at the start stays, and the number is one of its class."""
    n = 1000
    start = {"number": np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32), "label": np.full(n, 1)}
    shape = {"number": (n, 2), "label": (n,)}
    x = jd.sample(KEY, joint(), shape, jd.samplers.Ancestral(), 30, x_start=start)
    np.testing.assert_array_equal(x["label"], 1)
    np.testing.assert_array_less(np.abs(np.mean(x["number"], 0) - MEANS[1]), 4 * STD[1] / math.sqrt(n))


@pytest.mark.slow
def test_the_joint_bound_is_above_minus_log_p_and_near_it():
    """Where numbers are read in cells the end of the bound costs .002 bits each; a Riemann sum is above its limit."""
    n, levels = 1000, {"number": 256, "label": None}
    pairs = data(n)
    pairs["number"] = np.floor((np.clip(pairs["number"], -1, 0.999) + 1) / 2 * 256).astype(int)
    right = nats(pairs, 256) / (3 * math.log(2))

    def excess(found):
        away = found.per_example - right
        return away.mean(), 4 * away.std() / math.sqrt(n)

    mean, error = excess(jd.continuous_bound(KEY, joint(), pairs, 32, levels, batch_size=n))
    assert -error < mean < error + 0.005
    assert error < 0.1
    coarse, _ = excess(jd.variational_bound(KEY, joint(), pairs, 20, levels, batch_size=n))
    fine, error = excess(jd.variational_bound(KEY, joint(), pairs, 80, levels, batch_size=n))
    assert -error < fine < coarse / 2


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Cosine(jd.Absorbing):
    """Masks that float32 does not know below t = 0.00016, where numbers still have noise."""

    def alpha(self, t):
        return jnp.cos(jnp.pi / 2 * t)


@pytest.mark.slow
def test_the_joint_bound_is_finite_and_right_where_masks_start_late():
    """In continuous time it does not depend on the schedule: -log p but for the end of the bound (.002 bits)."""
    n, levels = 600, {"number": 256, "label": None}
    pairs = data(n)
    pairs["number"] = np.floor((np.clip(pairs["number"], -1, 0.999) + 1) / 2 * 256).astype(int)
    late = dataclasses.replace(joint(), process=jd.Product({"number": jd.VP(), "label": Cosine(3)}))
    away = jd.continuous_bound(KEY, late, pairs, 32, levels, batch_size=n).per_example
    away = away - nats(pairs, 256) / (3 * math.log(2))
    error = 4 * away.std() / math.sqrt(n)
    assert -error < away.mean() < error + 0.005
    assert error < 0.15
    few = jax.tree.map(lambda leaf: leaf[:20], pairs)  # of so many steps, some are none in float32
    assert np.isfinite(jd.variational_bound(KEY, late, few, 1000, levels).per_example).all()


def test_a_denoiser_of_a_product_is_rebuilt_with_other_weights():
    model = jd.Denoiser(heads, 1.0, PROCESS, {"number": "noise", "label": None}, {"number": 0.7, "label": None})
    other = dataclasses.replace(model, params=2.0)
    assert other.parameterization == model.parameterization == ("leave_one_out", "noise")
    assert other.data_std == {"number": 0.7, "label": None}
    assert other.params == 2


def test_the_bound_of_a_product_has_the_grid_of_its_parts_or_equal_steps_in_log_snr():
    assert PROCESS.bound_grid == jd.grids.LogSNR()
    assert jd.Product([jd.Absorbing(2), jd.Absorbing(3)]).bound_grid == jd.grids.Time()


def heads(params, x, c_noise, cond):
    """Nothing for numbers, even logits for labels."""
    return {"number": params * x["number"], "label": params * jnp.zeros((*x["label"].shape, 3))}


FLOW = jd.Product({"number": jd.Flow(), "label": jd.Absorbing(3)})
FIXED = {"number": np.full((6, 2), 2.0, np.float32), "label": np.array([0, 1, 2, 0, 1, 2])}


@pytest.mark.parametrize(
    ("weighting", "clocks", "expected"),
    [
        # at t = 1 of Flow v is -x_0, and all labels are masked: errors 4, 4 and log 3
        (weightings.Simple(), times.Fixed(1.0), (4 + 4 + math.log(3)) / 3),
        (
            {"number": weightings.Simple(), "label": lambda denoiser, t: 5 * jnp.ones_like(t)},
            times.Fixed(1.0),
            (4 + 4 + 5 * math.log(3)) / 3,
        ),
        (weightings.Simple(), {"number": times.Fixed(1.0), "label": times.Fixed(0.0)}, 8 / 3),
        ({"number": weightings.MinSNR(), "label": weightings.Likelihood()}, times.Fixed(1.0), math.log(3) / 3),
    ],
    ids=["one of each", "weightings", "clocks", "of one kind"],
)
def test_a_loss_is_the_mean_over_all_values(weighting, clocks, expected):
    """A label counts as one value, whatever the size of the number beside it."""
    denoiser = jd.Denoiser(heads, np.float32(0), FLOW)
    loss = Denoising(weighting, clocks)(denoiser, KEY, FIXED)
    np.testing.assert_allclose(loss, np.full(6, expected), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_draw_of_times_gives_one_mean():
    """Of the bound's weighting, with one clock: by importance on the sum of rates or evenly."""
    n = 10_000
    pairs = data(n)
    found = []
    for law in (times.Importance(1e-2), times.Uniform(1e-2)):
        values = jax.jit(Denoising(weightings.Likelihood(), law))(joint(), KEY, pairs)
        values = np.asarray(values, np.float64)
        factor = 1 if law == times.Importance(1e-2) else 0.99  # uniform on [t_min, 1]
        found.append((factor * values.mean(), factor * values.std() / math.sqrt(n)))
    (one, error), (other, spread) = found
    assert abs(one - other) < 4 * math.hypot(error, spread)
    assert error < spread
    t, factor = times.Importance(1e-2)(KEY, PROCESS, n)
    assert np.mean(factor) == pytest.approx(0.99, rel=1e-3), "1 / density integrates to the length of the interval"
    assert 1e-2 <= t.min() < t.max() <= 1


def test_clocks_are_drawn_independently():
    pairs = data(5000)

    @jax.jit
    def told(law):
        """The noise levels that the network is told."""
        seen = []
        watch = lambda params, x, c_noise, cond: seen.append(c_noise) or heads(params, x, c_noise, cond)
        Denoising(times=law)(jd.Denoiser(watch, np.float32(0), FLOW), KEY, pairs)
        return seen[0]

    clocks = {"number": times.Uniform(), "label": times.Uniform()}
    apart, together = (np.corrcoef(c["number"], c["label"])[0, 1] for c in map(told, (clocks, times.Uniform())))
    assert abs(apart) < 4 / math.sqrt(5000)
    assert together > 0.99


@pytest.mark.parametrize(
    "settings",
    [
        {"weighting": weightings.Likelihood()},
        {"times": {"number": times.Stratified(), "label": times.Importance(1e-3)}},
    ],
    ids=["bound", "clocks"],
)
def test_gradients_of_a_joint_loss_are_finite(settings):
    mean = lambda params: Denoising(**settings)(jd.Denoiser(heads, params, FLOW), KEY, data(32)).mean()
    with jax.debug_nans(True):
        gradient = jax.jit(jax.grad(mean))(0.3)
    assert np.isfinite(gradient)


def sample(**settings):
    return jd.sample(KEY, joint(), **{"shape": SHAPE, "sampler": jd.samplers.Ancestral(), "steps": 2, **settings})


def denoiser(**settings):
    return jd.Denoiser(heads, np.float32(0), FLOW, **settings)


PAIRS = data(4)
WORDS = {
    "no process": (lambda: jd.Product({"number": 3}), TypeError, "a part = 3.*VP"),
    "nothing": (lambda: jd.Product({}), ValueError, "holds no process"),
    "a part too few": (
        lambda: Denoising()(joint(), KEY, {"number": PAIRS["number"]}),
        ValueError,
        "x0 has another form than the product of {'label': 'Absorbing', 'number': 'VP'}",
    ),
    "a part of a part": (
        lambda: jd.Product({"a": {"b": jd.VP(), "c": jd.Flow()}, "d": jd.VP()}).check(
            {"a": {"b": PAIRS["number"]}, "d": 0}, "x0"
        ),
        ValueError,
        r"x0\['a'\] has another form than the product of {'b': 'VP', 'c': 'Flow'}: .*\['b'\]",
    ),
    "an array": (lambda: Denoising()(joint(), KEY, PAIRS["number"]), ValueError, "x0 has another form than"),
    "floats as labels": (
        lambda: Denoising()(joint(), KEY, {**PAIRS, "label": np.zeros(4)}),
        TypeError,
        r"x0\['label'\] has dtype float.*categories",
    ),
    "a label beyond": (
        lambda: jd.perturb(KEY, PROCESS, {**PAIRS, "label": np.array([0, 1, 3, 0])}, 0.5),
        ValueError,
        r"x0\['label'\]\[2\] = 3 is out of range",
    ),
    "integers as numbers": (
        lambda: Denoising()(joint(), KEY, {**PAIRS, "number": np.zeros((4, 2), int)}),
        TypeError,
        r"x0\['number'\].*floating",
    ),
    "other counts": (
        lambda: Denoising()(joint(), KEY, {**PAIRS, "label": np.zeros(3, int)}),
        ValueError,
        r"x0\['label'\], x0\['number'\] hold \[3, 4\] examples",
    ),
    "shape": (lambda: sample(shape=(5, 2)), ValueError, "shape has another form than the product"),
    "shapes": (lambda: sample(shape={"number": (5, 2), "label": (4,)}), ValueError, "same number of examples"),
    "no event": (lambda: sample(shape={"number": (5,), "label": (5,)}), ValueError, "shape.*at least one axis"),
    "start": (lambda: sample(x_start=PAIRS), ValueError, "x_start has shape .*expected shape = .*5"),
    "start of a part": (lambda: sample(x_start=PAIRS["label"]), ValueError, "x_start has another form"),
    "sampler of numbers": (lambda: sample(sampler=jd.samplers.DDIM()), TypeError, "DDIM.*not Product.*Ancestral"),
    "times": (
        lambda: Denoising(times={"number": times.Uniform()})(joint(), KEY, PAIRS),
        ValueError,
        "times has another form",
    ),
    "no times": (lambda: Denoising(times={"number": 3, "label": times.Uniform()}), TypeError, "times = 3"),
    "weighting": (
        lambda: Denoising({"number": weightings.Simple()})(denoiser(), KEY, PAIRS),
        ValueError,
        "weighting has another form",
    ),
    "weighting of numbers": (
        lambda: Denoising(weightings.MinSNR())(denoiser(), KEY, PAIRS),
        TypeError,
        "MinSNR.*not Absorbing.*Likelihood",
    ),
    "variance": (lambda: denoiser(learned_variance=True), ValueError, "learned_variance = True for a product"),
    "row": (lambda: denoiser(parameterization={"number": "v"}), ValueError, "parameterization has another form"),
    "data_std": (lambda: denoiser(data_std={"number": 0.5, "label": 0.5}), ValueError, "data_std = 0.5: categories"),
    "one data_std": (lambda: denoiser(data_std=0.5), ValueError, "data_std has another form"),
    "network": (
        lambda: jd.Denoiser(lambda params, x, c_noise, cond: x["number"], None, FLOW)(FIXED, 0.5),
        ValueError,
        "what the network returned has another form",
    ),
    "levels": (lambda: jd.variational_bound(KEY, joint(), FIXED, 4, 256), ValueError, "levels has another form"),
    "log_likelihood": (
        lambda: jd.log_likelihood(KEY, joint(), PAIRS),
        TypeError,
        "log_likelihood.*not Product.*bound",
    ),
    "score": (lambda: jd.score(joint(), PAIRS, 0.5), TypeError, "score.*Product"),
}


@pytest.mark.parametrize(("call", "error", "message"), WORDS.values(), ids=WORDS.keys())
def test_what_does_not_fit_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_wrong_answer_of_a_joint_model_is_named():
    class Wrong(type(joint())):
        def __call__(self, x, t, cond=None):
            return {**super().__call__(x, t), "label": jd.Categorical(jnp.zeros((5, 4)))}

    wrong = jd.pytree(Wrong)(mixture())
    with pytest.raises(ValueError, match=r"logits.*\(5, 4\).*\(5, 3\)"):
        jd.sample(KEY, wrong, SHAPE, jd.samplers.Ancestral(), 2)


def test_parts_may_be_read_each_in_its_own_way():
    rows = {"number": "velocity", "label": None}
    scale = {"number": 0.3, "label": None}
    read = denoiser(parameterization=rows, data_std=scale)
    assert read.parameterization == ("leave_one_out", "velocity")
    assert read.data_std == {"number": 0.3, "label": None}
