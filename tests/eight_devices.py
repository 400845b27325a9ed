"""What must hold on a mesh of eight devices; `test_mesh_evaluation.py` runs this file in a process that has them."""

import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from pairs import data, joint
from tokens import tokens

import jaxdiff as jd
from jaxdiff.arrays.mesh import batch_sharding, copied
from jaxdiff.networks import Transformer, initialize
from jaxdiff.processes import heads
from jaxdiff.samplers.probability_flow import _MAX_STEPS
from jaxdiff.training import TrainState, make_mesh, make_step

D, N, LEVELS = 3, 16, 17
MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
SPLIT = NamedSharding(MESH, PartitionSpec(("data", "model")))
COLLECTIVE = r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(-start)?\("
STATIC = {"shapes", "steps", "trajectory", "split"}
STATIC |= {"levels", "variance", "draws"}
FINE, NAN, ENDLESS = 0, 1, 2
LOOSE = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
SAMPLERS = {"ancestral": jd.samplers.Ancestral(), "flow": jd.samplers.ProbabilityFlow()}
KEY = jax.random.key(7)
KEYS = jd.samplers.example_keys(KEY, N)
X = np.random.default_rng(0).normal(0, 0.5, (N, D)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, LEVELS, (13, D))
BAD = np.array([FINE, NAN, FINE, FINE, ENDLESS, FINE, FINE, FINE, NAN, ENDLESS, FINE, FINE, FINE])


def network(params, x, c_noise, cond):
    """One layer; where cond says so its answer is NaN from half of the way on, or swings too fast for 4,096 steps."""
    out = jnp.tanh(x @ params["in"] + c_noise[:, None]) @ params["out"]
    if cond is None:
        return out
    poisoned = jnp.where(c_noise > 0, jnp.nan, 0.0)
    restless = 2000 * jnp.sin(2e5 * c_noise)
    return out + jnp.select([cond == NAN, cond == ENDLESS], [poisoned, restless], 0.0)[:, None]


def denoiser():
    rng = np.random.default_rng(2)
    params = {"in": rng.normal(0, 0.5, (D, 32)), "out": rng.normal(0, 0.2, (32, D))}
    return jd.Denoiser(network, jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params), jd.VP(), "v")


def run(name, call):
    """What `call` gives by the jitted function `name`, "module.function", and the program that ran."""
    module, function = name.rsplit(".", 1)
    module, programs = importlib.import_module(f"jaxdiff.{module}"), []
    jitted = getattr(module, function)

    def compiled(*arguments, **settings):
        given = inspect.signature(jitted).bind(*arguments, **settings).arguments
        program = jitted.lower(**given).compile()
        programs.append(program.as_text())
        return program(**{name: value for name, value in given.items() if name not in STATIC})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, compiled)
        return call(), programs[0]


def on_mesh(*arrays):
    return jax.device_put(arrays, SPLIT)


def assert_split(tree):
    for leaf in jax.tree.leaves(tree):
        assert leaf.sharding.is_equivalent_to(SPLIT, leaf.ndim), leaf.sharding


def draw(keys, sampler=SAMPLERS["ancestral"]):
    return jd.sample(keys, denoiser(), (len(keys), D), sampler, 5)


def likelihoods(keys, x, trace=jd.likelihood.Hutchinson(2)):
    return jd.log_likelihood(keys, denoiser(), x, trace=trace, flow=LOOSE)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_samples_are_those_of_one_device(sampler):
    x, program = run("samplers.sample._sample", lambda: draw(*on_mesh(KEYS), sampler))
    assert_split(x)
    assert not re.findall(COLLECTIVE, program)
    np.testing.assert_allclose(x, draw(KEYS, sampler), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_trajectory_is_split_as_its_samples_are_and_so_are_named_parts_of_a_condition():
    told = lambda params, x, c_noise, cond: network(params, x, c_noise, cond["label"]) + cond["vector"]
    model = jd.Denoiser(told, denoiser().params, jd.VP(), "v")
    cond = {"label": np.full(N, FINE), "vector": X[::-1]}
    along = lambda keys, cond: jd.sample(keys, model, (N, D), jd.samplers.DDIM(), 3, cond=cond, trajectory=True)
    path = along(*on_mesh(KEYS, cond))
    assert path.sharding.is_equivalent_to(NamedSharding(MESH, PartitionSpec(None, ("data", "model"))), 3)
    np.testing.assert_allclose(path, along(KEYS, cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "trace",
    [jd.likelihood.Hutchinson(2), pytest.param(jd.likelihood.XTrace(2), marks=pytest.mark.slow)],
    ids=["Hutchinson", "XTrace"],  # XLA would gather what a QR needs
)
def test_likelihoods_are_those_of_one_device(trace):
    of = lambda *inputs: likelihoods(*inputs, trace)
    found, program = run("likelihood.log_likelihood._log_likelihood", lambda: of(*on_mesh(KEYS, X)))
    assert_split(found)
    assert not re.findall(COLLECTIVE, program)
    alone = of(KEYS, X)
    np.testing.assert_allclose(found.log_prob, alone.log_prob, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.evaluations, alone.evaluations)
    assert found.converged.all()


@pytest.mark.slow
def test_both_halves_of_guidance_lie_where_their_example_does():
    """One batch of 2 n, of which XLA moves nothing between devices."""
    guided, cond = jd.guidance.ClassifierFree(denoiser(), 2.0, null=FINE), np.full(N, 3)
    ask = jax.jit(lambda guided, x, cond: guided(x, 0.5, cond).data)
    split = on_mesh(X, cond)
    assert not re.findall(COLLECTIVE, ask.lower(copied(guided, MESH), *split).compile().as_text())
    found = ask(copied(guided, MESH), *split)
    assert_split(found)
    np.testing.assert_allclose(found, guided(X, 0.5, cond).data, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_class_posterior_is_that_of_one_device():
    model = jd.exact.Mixture(jd.Flow(), np.ones(2), np.eye(2, D), np.stack([np.eye(D), 0.5 * np.eye(D)]))
    of = lambda mesh: jd.likelihood.class_posterior(KEY, model, X[:13], 2, flow=LOOSE, batch_size=8, mesh=mesh)
    np.testing.assert_allclose(of(MESH).log_prob, of(None).log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_error_budget_is_that_of_one_device():
    settings = {"levels": LEVELS, "batch_size": 5, "flow": LOOSE, "budget": 4}
    alone, split = (jd.bits_per_dim(KEY, denoiser(), IMAGES, **settings, mesh=mesh).budget for mesh in (None, MESH))
    np.testing.assert_allclose(split.bound.per_example, alone.bound.per_example, rtol=1e-5)
    assert split.round_trip == pytest.approx(alone.round_trip, abs=1e-3)
    for name in ("images", "dequantisation", "trace", "prior", "flow"):
        assert getattr(split, name) == pytest.approx(getattr(alone, name), rel=1e-2, abs=1e-6), name


@pytest.mark.slow
def test_derivatives_of_a_likelihood_go_through():
    def mean(denoiser, keys, x):
        return jd.log_likelihood(keys, denoiser, x, flow=LOOSE).log_prob.mean()

    split, alone = (jax.grad(mean)(denoiser(), *inputs).params for inputs in (on_mesh(KEYS, X), (KEYS, X)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), split, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MESH, None], ids=["eight devices", "one device"])
def test_a_solver_that_fails_is_flagged_and_disturbs_nobody(mesh):
    """Batches of 16, 13 of them images: the same with the bad examples and with good ones in their place."""
    bad = np.resize(BAD, N)
    keys, x, cond, good = (KEYS, X, bad, 0 * bad) if mesh is None else on_mesh(KEYS, X, bad, 0 * bad)
    model = copied(denoiser(), mesh)
    calls = {
        "likelihood": lambda cond: jd.log_likelihood(keys, model, x, cond=cond, flow=LOOSE),
        "encode": lambda cond: jd.encode(model, x, cond, flow=LOOSE),
        "sample": lambda cond: jd.sample(keys, model, x.shape, LOOSE, cond=cond),
    }
    for name, call in calls.items():
        found, without = call(cond), call(good)
        if name == "likelihood":
            steps = np.asarray(found.evaluations - 1) // 6  # of Dopri5
            assert (steps[bad == ENDLESS] == _MAX_STEPS).all()
            assert (steps[bad == NAN] < _MAX_STEPS).all()
            converged, found, without = found.converged, found.log_prob, without.log_prob
        else:
            converged = ~jnp.isnan(found).all(1)
        np.testing.assert_array_equal(converged, bad == FINE, err_msg=name)
        assert np.isfinite(without).all(), name
        np.testing.assert_allclose(found[bad == FINE], without[bad == FINE], rtol=2e-6, err_msg=name)

    settings = {"levels": LEVELS, "batch_size": N, "budget": 0, "mesh": mesh, "flow": LOOSE}
    report, clean = (jd.bits_per_dim(KEY, denoiser(), IMAGES, cond=cond, **settings) for cond in (BAD, 0 * BAD))
    np.testing.assert_array_equal(np.isnan(report.per_example), BAD != FINE)
    np.testing.assert_array_equal(report.per_example[BAD == FINE], clean.per_example[BAD == FINE])
    assert report.not_converged == (BAD != FINE).sum()
    assert report.bits_per_dim == clean.per_example[BAD == FINE].mean()


@pytest.mark.slow
def test_batches_that_do_not_divide_are_filled_up_and_the_filling_is_dropped(tmp_path):
    settings = {"levels": LEVELS, "batch_size": 5, "flow": LOOSE, "budget": 0}
    record = tmp_path / "r.npz"
    alone = jd.bits_per_dim(KEY, denoiser(), IMAGES, **settings)
    split = jd.bits_per_dim(KEY, denoiser(), IMAGES, **settings, mesh=MESH, record=record)
    np.testing.assert_allclose(split.per_example, alone.per_example, rtol=1e-5)
    assert sorted(np.load(record)["example"]) == list(range(len(IMAGES)))
    again = jd.bits_per_dim(KEY, denoiser(), IMAGES, **settings, record=record)
    np.testing.assert_array_equal(again.per_example, split.per_example, err_msg="one device goes on from eight")


@pytest.mark.slow
def test_bounds_are_those_of_one_device():
    for bound, module in ((jd.variational_bound, "_discrete"), (jd.continuous_bound, "_continuous")):
        call = lambda mesh: bound(KEY, denoiser(), IMAGES, 6, LEVELS, batch_size=5, mesh=mesh)
        split, program = run(f"likelihood.variational_bound.{module}", lambda: call(MESH))
        assert not re.findall(COLLECTIVE, program)
        np.testing.assert_allclose(split.per_example, call(None).per_example, rtol=1e-5)


GIVEN, PAIRS = jd.Given(joint(), "label"), data(N)
TOKENS = {
    "tokens": jd.samplers.Ancestral(),
    "most certain first": jd.samplers.Unmask("confidence"),
    "in blocks": jd.samplers.Unmask("random", block=1),
    "jumps": jd.samplers.TauLeaping(1),
}
OF_CATEGORIES = {
    name: lambda keys, x, y, sampler=sampler: jd.sample(keys, tokens(), (N, 2), sampler, 3)
    for name, sampler in TOKENS.items()
} | {
    "given": lambda keys, x, y: jd.sample(keys, GIVEN, (N, D - 1), jd.samplers.DDIM(), 3, y),
    "likelihood": lambda keys, x, y: jd.log_likelihood(keys, GIVEN, x, y, LOOSE, jd.likelihood.Exact()).log_prob,
    "pair": lambda keys, x, y: jd.sample(
        keys,
        joint(),
        {"number": (N, 2), "label": (N,)},
        jd.samplers.Each({"number": jd.samplers.DPMSolverPP(), "label": jd.samplers.Ancestral()}),
        3,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_CATEGORIES)
def test_categories_and_what_is_given_are_those_of_one_device(name):
    """Where each example has its own label: that of no other."""
    inputs = KEYS, PAIRS["number"], PAIRS["label"]
    split, alone = OF_CATEGORIES[name](*on_mesh(*inputs)), OF_CATEGORIES[name](*inputs)
    assert_split(split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), split, alone)


@pytest.mark.slow
@pytest.mark.parametrize("model", [1, 4])
def test_a_transformer_of_many_categories_is_trained_and_drawn_from_as_on_one_device(monkeypatch, model):
    """Its logits are a head, of which each device asks its own tokens; the table lies in pieces as other weights do."""
    monkeypatch.setattr(heads, "_ASKED", 1)  # chunks of 64 of the 256 tokens
    make = lambda rngs: Transformer(1100, 16, width=8, depth=1, heads=2, noise=False, rngs=rngs)
    network, params = initialize(KEY, make)
    params = jax.tree.map(lambda p: p + 0.1 * np.random.default_rng(3).normal(size=p.shape).astype(np.float32), params)
    model_of, texts = jd.Denoiser(network, params, jd.Absorbing(1100)), np.arange(256).reshape(16, 16) * 4
    optimizer, found = optax.sgd(0.1), []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(model)):
        state = TrainState.create(KEY, params, optimizer, mesh)
        step = make_step(model_of, jd.losses.Denoising(), optimizer, mesh=mesh)
        for _ in range(3):
            state, metrics = step(state, jax.device_put({"x": texts}, batch_sharding(mesh)))
        found.append((metrics["loss"], state.params))
    split = found[1][1]["read"]["rows"]["embedding"].sharding.is_fully_replicated
    assert split == (model == 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), *found)
    assert np.abs(np.asarray(found[0][1]["bias"]) - params["bias"]).max() > 1e-3
    draw = lambda keys: jd.sample(keys, model_of, (N, 16), jd.samplers.Ancestral(), 3)
    (keys,) = on_mesh(KEYS)
    drawn = draw(keys)
    assert_split(drawn)
    np.testing.assert_array_equal(drawn, draw(KEYS))


def test_a_drawing_is_one_sample_in_batches(tmp_path):
    whole = jd.sample(KEY, denoiser(), (13, D), steps=4)
    split = jd.samplers.draw(KEY, denoiser(), (13, D), 5, mesh=MESH, keep=tmp_path, steps=4)
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)
    kept = jd.samplers.draw(KEY, denoiser(), (13, D), 2, keep=tmp_path, steps=4)
    np.testing.assert_array_equal(kept, split, err_msg="nothing was left to draw")
    more = jd.samplers.draw(KEY, denoiser(), (15, D), 2, keep=tmp_path, steps=4)
    np.testing.assert_array_equal(more[:13], split)


@pytest.mark.slow
def test_pmap_of_the_pure_functions():
    share = (MESH.size, N // MESH.size)
    np.testing.assert_allclose(jax.pmap(draw)(KEYS.reshape(share)).reshape(N, D), draw(KEYS), rtol=1e-5, atol=1e-5)
    found, alone = jax.pmap(likelihoods)(KEYS.reshape(share), X.reshape(*share, D)), likelihoods(KEYS, X)
    np.testing.assert_allclose(found.log_prob.reshape(N), alone.log_prob, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.evaluations.reshape(N), alone.evaluations)


def test_weights_that_were_put_elsewhere_are_an_error():
    elsewhere = jax.device_put(denoiser(), jax.devices()[3])
    with pytest.raises(ValueError, match="incompatible devices.*params"):
        jd.sample(*on_mesh(KEYS), elsewhere, (N, D), steps=5)


def sampled(sampler):
    return lambda x: jd.sample(KEY, denoiser(), X.shape, sampler, 3, x_start=x)


EXPLICIT = {"DDIM": sampled(jd.samplers.DDIM())}
MORE = {
    "UniPC": sampled(jd.samplers.UniPC(3)),
    "ReverseSDE": sampled(jd.samplers.ReverseSDE()),
    "likelihood": lambda x: jd.log_likelihood(KEY, denoiser(), x, flow=LOOSE).log_prob,
    "DPMSolverPP": sampled(jd.samplers.DPMSolverPP()),
    "encode": lambda x: jd.encode(denoiser(), x, flow=LOOSE),
}


@pytest.mark.parametrize(
    "call",
    [*EXPLICIT.values(), *(pytest.param(call, marks=pytest.mark.slow) for call in MORE.values())],
    ids=[*EXPLICIT, *MORE],
)
def test_meshes_with_explicit_axes_give_what_one_device_gives(call):
    """`jax.make_mesh` gives such axes by default: split by their types, and as the current mesh."""
    mesh = jax.make_mesh((8,), ("x",))
    split = jax.device_put(X, NamedSharding(mesh, PartitionSpec("x")))
    alone = call(X)
    np.testing.assert_allclose(jax.jit(call)(split), alone, rtol=1e-4, atol=1e-4)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(call(X), alone, rtol=1e-4, atol=1e-4)
