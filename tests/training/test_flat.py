"""Optimisers on vectors: the numbers of optax on arrays where that can be, and arrays where it cannot."""

import dataclasses
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.training import Checkpoints, TrainState, clipped_adam, make_step, train
from jaxdiff.training.alike import alike, updated
from jaxdiff.training.flat import flat, form_of_params, form_of_state

KEY = jax.random.key(0)
SHAPES = {  # in the order of leaves: bias, kernel, bias, kernel, bias, kernel; two layers are of the same shapes
    "in": {"bias": (4,), "kernel": (3, 3, 2, 4)},
    "mid": {"bias": (6,), "kernel": (5, 6)},
    "out": {"bias": (6,), "kernel": (5, 6)},
}
TOGETHER, KERNELS, ALONE = (0,) * 6, (0, 1) * 3, tuple(range(6))


def arrays(seed, scale=1.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype)
    return jax.tree.map(draw, SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))


def by_axes(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def by_path(params):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: path[-1].key == "kernel", params)


def by_size(params):
    return jax.tree.map(lambda leaf: leaf.size > 8, params)


def trained(params):
    return jax.tree.map(lambda kernel: "trained" if kernel else "frozen", by_path(params))


def by_name(kernel, bias):
    """A transformation of every array (grad, weight), one for kernels and one for biases."""
    choose = lambda path, grad, weight: (kernel if path[-1].key == "kernel" else bias)(grad, weight)
    return optax.stateless(lambda grads, params: jax.tree_util.tree_map_with_path(choose, grads, params))


def one_other(function):
    """The square of every gradient, but of mid/kernel `function(it, that of out/kernel)`, which has its shape."""

    def update(grads, params):
        squares = jax.tree.map(lambda grad: grad * grad, grads)
        return squares | {"mid": squares["mid"] | {"kernel": function(grads["mid"]["kernel"], grads["out"]["kernel"])}}

    return optax.stateless(update)


def by_sums(grads, params):
    """Kernels are scaled by twice the sum over all gradients, biases by the sum."""
    total = optax.tree.sum(grads)
    return jax.tree.map(lambda kernel, grad: grad * (total + total if kernel else total), by_path(grads), grads)


def each(function):
    """A transformation that changes the gradient of each array by `function(gradient, all gradients)`."""
    return optax.stateless(lambda grads, params: jax.tree.map(lambda grad: function(grad, grads), grads))


ON_VECTORS = {
    "our default": (clipped_adam(5), TOGETHER),
    "AdamW behind a clip": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)), TOGETHER),
    "AMSGrad": (optax.amsgrad(1e-2), TOGETHER),
    "Nesterov": (optax.sgd(0.1, 0.9, nesterov=True), TOGETHER),
    "Lion, its rate in the state": (optax.inject_hyperparams(optax.lion)(1e-2), TOGETHER),
    "clip of each number": (optax.chain(optax.clip(0.5), optax.rmsprop(1e-2)), TOGETHER),
    "decay of what has axes": (optax.adamw(1e-2, mask=by_axes), KERNELS),
    "decay by name": (optax.adamw(1e-2, mask=by_path), KERNELS),
    "frozen by name": (
        optax.multi_transform({"trained": optax.adam(1e-2), "frozen": optax.set_to_zero()}, trained),
        KERNELS,
    ),
    "norm of some": (optax.chain(optax.masked(optax.clip_by_global_norm(0.1), by_path), optax.sgd(0.1)), KERNELS),
    "a rule of its own": (each(lambda grad, _: -jax.nn.relu(grad)), TOGETHER),
    "powers by name": (by_name(lambda grad, _: grad**3, lambda grad, _: grad**5), KERNELS),
    "of some the weights": (by_name(lambda grad, _: -grad, lambda _, weight: -weight), KERNELS),
    "scaled by the axes": (optax.chain(each(lambda grad, _: grad / grad.ndim), optax.sgd(0.1)), (0, 1, 0, 3, 0, 3)),
}
ON_ARRAYS = {
    "LARS": optax.lars(1e-2),
    "LAMB": optax.lamb(1e-2),
    "Adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=3),
    "Muon": optax.contrib.muon(1e-2),
    "clip of each array": optax.clip_by_block_rms(1.0),
    "decay by size": optax.adamw(1e-2, mask=by_size),
    "by the mean": each(lambda grad, _: grad - grad.mean()),
    "by the order": each(lambda grad, _: jnp.flip(grad)),
    "by the place": each(lambda grad, _: grad * jnp.arange(grad.size).reshape(grad.shape)),
    "by the first number": each(lambda grad, _: grad * grad.ravel()[0]),
    "by the sum so far": each(lambda grad, _: jnp.cumsum(grad, 0)),
    "by the size": each(lambda grad, _: grad / grad.size),
    "by the size, a number of Python": each(lambda grad, _: grad * (1 / grad.size)),
    "by the size, of a shape": each(lambda grad, _: grad / grad.shape[-1]),
    "by one array's norm": each(lambda grad, grads: grad * jnp.linalg.norm(grads["in"]["bias"])),
    "by all but one array's norm": each(lambda grad, grads: grad * optax.tree.norm([grads["in"], grads["out"]])),
    "by twice a sum": optax.stateless(by_sums),
    "times another of its shape": one_other(lambda own, other: own * other),
    "another of its shape": one_other(lambda own, other: other * other),
    "by a branch": each(lambda grad, _: jax.lax.cond(grad.sum() > 0, lambda: grad, lambda: -grad)),
}


@pytest.mark.parametrize("name", ON_VECTORS)
def test_an_update_on_vectors_is_that_of_optax_on_arrays(x64, name):
    optimizer, expected = ON_VECTORS[name]
    params = arrays(0)
    shapes, state_shapes = jax.eval_shape(lambda: (params, optimizer.init(params)))
    groups = alike(optimizer, shapes)
    assert groups == expected
    form, state_form = form_of_params(shapes, groups), form_of_state(state_shapes, shapes, groups)
    assert len(form.members) == len(set(groups))
    weights, moments, state = flat(params, form), flat(optimizer.init(params), state_form), optimizer.init(params)

    @jax.jit
    def on_vectors(grads, moments, weights):
        updates, new = updated(optimizer, *(held.thin() for held in (flat(grads, form), moments, weights)))
        return optax.apply_updates(weights, weights.of_thin(updates)), moments.of_thin(new)

    on_arrays = jax.jit(optimizer.update)
    for k in range(4):
        grads = arrays(k + 1, 10.0 ** (k - 2))  # of norms below and above the clips
        weights, moments = on_vectors(grads, moments, weights)
        updates, state = on_arrays(grads, state, params)
        params = optax.apply_updates(params, updates)
        close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
        jax.tree.map(close, (weights.tree(), moments.tree()), (params, state))


@pytest.mark.parametrize("name", ON_ARRAYS)
def test_an_optimizer_that_looks_beyond_a_number_keeps_arrays(name):
    assert alike(ON_ARRAYS[name], jax.eval_shape(lambda: arrays(0, dtype=np.float32))) == ALONE


def test_numbers_of_other_arrays_tell_arrays_apart():
    """The gradients of k and l are scaled by what is computed, in the same way, from two different numbers."""

    def by_another(grads, params):
        factor = lambda name: jax.lax.erf_inv(grads[name])
        return grads | {"b": 2 * grads["b"], "k": grads["k"] * factor("a"), "l": grads["l"] * factor("b")}

    shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {"a": shape(), "b": shape(), "k": shape(3), "l": shape(3)}
    k, l = alike(optax.stateless(by_another), params)[2:]
    assert k != l


def test_arrays_of_another_type_lie_in_another_vector():
    params = {"half": jax.ShapeDtypeStruct((2,), jnp.bfloat16), **jax.eval_shape(lambda: arrays(0, dtype=np.float32))}
    for optimizer in (clipped_adam(5), optax.set_to_zero()):
        assert alike(optimizer, params) == (0, *[1] * 6)


def test_an_optimizer_without_a_hash_is_read_too():
    @dataclasses.dataclass
    class Plain:
        init: Any
        update: Any

    assert alike(Plain(*optax.adam(1e-3)), jax.eval_shape(lambda: arrays(0, dtype=np.float32))) == TOGETHER


# The step


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Weights:
    params: Any


def inner_product(model, key, x0, cond):
    """Its gradient is the mean of x0, whatever the weights are."""
    return x0 @ jnp.concatenate([leaf.astype(x0.dtype).ravel() for leaf in jax.tree.leaves(model.params)])


def test_one_step_of_adam_behind_a_clip_is_its_closed_form():
    """The first step of Adam is rate g / (|g| + eps); the gradient (3, 4) of norm 5 is clipped to (0.6, 0.8)."""
    rate, eps = 0.1, 0.5
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, eps=eps))
    model = Weights({"a": jnp.array([1.0]), "b": jnp.array([[2.0]])})
    state = TrainState.create(KEY, model.params, optimizer)
    assert [part.shape for part in state.weights.parts] == [(2,)]
    state, metrics = make_step(model, inner_product, optimizer)(state, {"x": np.float32([[3.0, 4.0]] * 8)})
    np.testing.assert_allclose(metrics["grad_norm"], 5.0, rtol=1e-6)
    a, b = (rate * g / (g + eps) for g in (0.6, 0.8))
    np.testing.assert_allclose(state.params["a"], [1 - a], rtol=1e-6)
    np.testing.assert_allclose(state.params["b"], [[2 - b]], rtol=1e-6)
    np.testing.assert_allclose(
        state.ema["b"], [[0.1 * 2 + 0.9 * (2 - b)]], rtol=1e-6
    )  # (1 + 0) / (10 + 0) of it is old
    np.testing.assert_allclose(state.opt_state[1][0].mu["a"], [0.1 * 0.6], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_on_vectors_are_those_of_optax_on_arrays(accumulate):
    """With weights of two types, frozen, decayed and plain ones."""
    shapes = {"decayed": (3, 2), "frozen": (2, 2), "half": (2,), "plain": (3,)}
    labels = lambda params: {name: name if name == "frozen" else "trained" for name in params}
    decay = optax.adamw(0.1, weight_decay=0.5, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    clipped = optax.chain(optax.clip_by_global_norm(1.0), decay)
    optimizer = optax.multi_transform({"trained": clipped, "frozen": optax.set_to_zero()}, labels)
    dtype = lambda name: jnp.bfloat16 if name == "half" else jnp.float32
    params = {name: jnp.ones(shape, dtype(name)) for name, shape in shapes.items()}
    state = TrainState.create(KEY, params, optimizer)
    assert len(state.weights.parts) == 4
    step = make_step(Weights(params), inner_product, optimizer, accumulate=accumulate)
    opt_state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.integers(-8, 8, (1, 15)).astype(np.float32)  # of which bfloat16 loses nothing
        state, _ = step(state, {"x": np.repeat(x, 8, 0)})
        cuts = np.split(x[0], np.cumsum([np.prod(shape) for shape in shapes.values()])[:-1])
        grads = {name: jnp.asarray(cut.reshape(shapes[name]), dtype(name)) for name, cut in zip(shapes, cuts)}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    for name, value in params.items():
        near = 1e-2 if name == "half" else 1e-5
        np.testing.assert_allclose(np.float32(state.params[name]), np.float32(value), rtol=near, err_msg=name)
    np.testing.assert_array_equal(state.params["frozen"], 1.0)


# Programs and checkpoints


def test_a_step_has_three_reductions_more_than_the_gradient():
    """Lowered for a GPU, which needs none: the gradient's norm, that of the clip, which is the same, the update's."""
    network, params = initialize(KEY, lambda rngs: MLP(3, hidden=(8,) * 4, rngs=rngs))
    denoiser, loss, optimizer = jd.Denoiser(network, params, jd.VP()), jd.losses.Denoising(), clipped_adam(100)
    step, state = make_step(denoiser, loss, optimizer), TrainState.create(KEY, params, optimizer)
    x = np.zeros((4, 3), np.float32)

    @jax.jit
    def gradient(params, denoiser, loss, key, x):
        mean = lambda params: loss(dataclasses.replace(denoiser, params=params), key, x).mean()
        return jax.value_and_grad(mean)(params)

    def reductions(jitted, *arguments):
        text = jitted.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        found = re.findall(r"stablehlo.reduce\(.* : \(tensor<(\w+)>", text)
        assert len(found) == text.count("stablehlo.reduce(")
        return [shape for shape in found if not shape.startswith("0x")]  # of nothing XLA makes nothing

    alone = reductions(gradient, params, step.denoiser, step.loss, KEY, x)
    whole = reductions(step.update, state, {"x": x}, *step.parts)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert len(jax.tree.leaves(params)) > 10
    assert sorted(whole) == sorted([*alone, *[f"{size}xf32"] * 3])


def network(params, x, c_noise, cond):
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return hidden @ params["out"]["kernel"] * params["scale"]


class Points:
    """x [8, 2] for any step, drawn from the step."""

    def __getitem__(self, step):
        return {"x": 0.5 * np.random.default_rng(step).standard_normal((8, 2)).astype(np.float32)}


def of_before():
    """The parts of the run in trees.zip, as the code that wrote it had them."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((2, 8)).astype(np.float32)
    out = (0.1 * rng.standard_normal((8, 2))).astype(np.float32)
    params = {"in": {"kernel": kernel, "bias": np.zeros(8, np.float32)}, "out": {"kernel": out}}
    mask = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    decayed = optax.adamw(1e-2, weight_decay=0.1, mask=mask)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), decayed)
    return jd.Denoiser(network, params | {"scale": np.ones(2, np.float32)}, jd.VP()), optimizer


def test_a_run_from_before_there_were_vectors_goes_on_to_the_same_numbers(tmp_path):
    """trees.zip holds a run's checkpoints of steps 10 and 20, written where a state was a tree of arrays (git 81d3832).

    It goes on from the first; what it comes to is compared with the second, and so is the form of what it writes.
    """
    with zipfile.ZipFile(Path(__file__).with_name("trees.zip")) as packed:
        packed.extractall(tmp_path / "before")
    (tmp_path / "now").mkdir()
    shutil.copytree(tmp_path / "before" / "checkpoints" / "10", tmp_path / "now" / "checkpoints" / "10")
    denoiser, optimizer = of_before()
    # what hashes of code depend on, of other versions of Python too
    allow = (
        "jaxdiff",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "denoiser",
        "network",
        "process",
        "loss",
        "optimizer",
        "prepare",
    )
    every = {"log_every": 10, "checkpoint_every": 10, "progress": False}
    loss = jd.losses.Denoising()
    train(KEY, tmp_path / "now", denoiser, loss, Points(), steps=20, optimizer=optimizer, allow=allow, **every)
    states, forms = [], []
    for run in ("before", "now"):
        with Checkpoints(tmp_path / run / "checkpoints") as checkpoints:
            states.append(checkpoints.restore(TrainState.create(KEY, denoiser.params, optimizer)))
        metadata = tmp_path / run / "checkpoints" / "20" / "arrays" / "state" / "_METADATA"
        forms.append(json.loads(metadata.read_text())["tree_metadata"])
    before, now = states
    assert before.step == now.step == 20
    assert len(now.weights.parts) == 2
    for name in ("params", "opt_state", "ema"):
        close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, getattr(now, name), getattr(before, name))
    moved = jax.tree.map(lambda one, other: float(abs(one - other).max()), now.params, denoiser.params)
    assert min(jax.tree.leaves(moved)) > 1e-2
    assert forms[0] == forms[1]
