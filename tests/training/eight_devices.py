"""Run by test_mesh.py in a process with eight simulated devices: prints what it found in the proofs of these names."""

import dataclasses
import json
import re
import sys
from collections import Counter
from typing import Any

import jax
import numpy as np
import optax
from test_trees import KINDS, Batches

import jaxdiff as jd
from jaxdiff.networks import UNet, initialize
from jaxdiff.training import TrainState, make_mesh, make_step, train

KEY = jax.random.key(0)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
SHAPES = {"data": (8, 1), "both": (2, 4)}


def moved(compiled):
    """How often, and how many values, each kind of collective moves in a compiled program."""
    count, values = Counter(), Counter()
    for line in compiled.as_text().splitlines():
        found = re.search(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", line)
        if found:
            shapes = re.findall(r"\w\d+\[([\d,]*)\]", found[1])
            count[found[2]] += 1
            values[found[2]] += sum(int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes)
    return {kind: [count[kind], values[kind]] for kind in count}


def unet():
    network, params = initialize(KEY, lambda rngs: UNet(1, (16,), 1, (0,), rngs=rngs))
    rng = np.random.default_rng(0)  # away from its zeros, which hide what they multiply
    params = jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape).astype(p.dtype), params)
    return jd.Denoiser(network, params, jd.VP())


def images(k):
    return {"x": np.random.default_rng(k).uniform(-1, 1, (16, 8, 8, 1)).astype(np.float32)}


def collectives(denoiser, batch):
    found = {"parameters": sum(p.size for p in jax.tree.leaves(denoiser.params))}
    for name, shape in SHAPES.items():
        mesh = make_mesh(shape[1])
        state = TrainState.create(KEY, denoiser.params, OPTIMIZER, mesh)
        step = make_step(denoiser, jd.losses.Denoising(), OPTIMIZER, mesh=mesh)
        compiled = step.lower(state, batch(0)).compile()
        split = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params)]
        values = [leaf.size for leaf in jax.tree.leaves(state.params)]
        found[name] = {
            "moved": moved(compiled),
            "split": sum(v for v, s in zip(values, split) if s),
            "arrays_split": sum(split),
            "arrays": len(split),
            "parts": len(state.weights.parts),
            "bytes": compiled.memory_analysis().argument_size_in_bytes,
            "numbers": 4 * len(jax.tree.leaves(step.parts)),
            "aliased": compiled.memory_analysis().alias_size_in_bytes,
        }
        for k in range(3):
            placed = jax.device_put(batch(k), jd.training.batch_sharding(mesh))
            state, metrics = compiled(state, placed, *step.parts)
        found[name]["loss"] = float(metrics["loss"])
    found["batch_bytes"] = batch(0)["x"].nbytes // 8
    found["split_bytes"] = 4 * 4 * found["both"]["split"]  # weights, their average, two moments
    mesh = make_mesh(devices=jax.devices()[:1])
    state = TrainState.create(KEY, denoiser.params, OPTIMIZER, mesh)
    step = make_step(denoiser, jd.losses.Denoising(), OPTIMIZER, mesh=mesh)
    for k in range(3):
        state, metrics = step(state, batch(k))
    found["one"] = {"loss": float(metrics["loss"])}
    return found


def linear():
    return jd.Denoiser(lambda params, x, c_noise, cond: x @ params["w"] + params["b"], PARAMS, jd.VP())


PARAMS = {"w": np.full((64, 64), 0.01, np.float32), "b": np.zeros(64, np.float32)}


def points(k):
    return {"x": np.random.default_rng(k).standard_normal((24, 64)).astype(np.float32) / 2}


class Points:
    def __getitem__(self, step):
        return points(step)


SETTINGS = {"optimizer": OPTIMIZER, "log_every": 10, "checkpoint_every": 50, "progress": False}


def weights(folder, mesh, steps=50):
    loss = jd.losses.Denoising()
    state = train(KEY, folder, linear(), loss, Points(), steps=steps, mesh=mesh, **SETTINGS)
    return jax.tree.map(np.asarray, state.params)


def on_one_device(folder):
    return weights(f"{folder}/one", make_mesh(devices=jax.devices()[:1]))


def far(a, b):
    return max(float(abs(a[name] - b[name]).max()) for name in a)


def moves(folder):
    """Fifty steps on one mesh after another, against one device."""
    one = on_one_device(folder)
    for k, (_, model) in enumerate(SHAPES.values(), 1):
        weights(f"{folder}/moves", make_mesh(model), 10 * k)
    found = {"one after another": far(weights(f"{folder}/moves", make_mesh(devices=jax.devices()[:1])), one)}
    found["moved"] = far(PARAMS, one)
    odd = [{"x": points(0)["x"][:20]}]
    try:
        train(KEY, f"{folder}/odd", linear(), jd.losses.Denoising(), odd, steps=1, **SETTINGS)
    except ValueError as error:
        found["odd"] = str(error)
    return found


def numbers(folder):
    """Fifty steps on every mesh against one device."""
    one = on_one_device(folder)
    found = {name: far(weights(f"{folder}/{name}", make_mesh(model)), one) for name, (_, model) in SHAPES.items()}
    with jax.set_mesh(jax.make_mesh((8,), ("x",))):  # explicit axes, by default
        explicit = weights(f"{folder}/explicit", jax.make_mesh((2, 4), ("data", "model")))
    return found | {"given explicit axes": far(explicit, one)}


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Distillation:
    teacher: Any

    def __call__(self, model, key, x0, cond=None):
        return jax.numpy.square(model(x0, 0.5).data - self.teacher(x0, 0.5).data).mean(1)


def distilled():
    """The loss under a teacher that lies in pieces, and whole; how its weights lie."""
    found, w = {}, np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    teacher = dataclasses.replace(linear(), params=PARAMS | {"w": w})
    for name, mesh in (("pieces", make_mesh(8)), ("one", make_mesh(devices=jax.devices()[:1]))):
        step = make_step(linear(), Distillation(teacher), OPTIMIZER, mesh=mesh)
        state = TrainState.create(KEY, PARAMS, OPTIMIZER, mesh)
        lies = [step.loss.teacher.params["w"].sharding == state.params["w"].sharding]
        _, metrics = step(state, jax.device_put(points(0), jd.training.batch_sharding(mesh)))
        found[name] = {"loss": float(metrics["loss"]), "as the state": all(lies)}
    return found


def trees():
    """Tokens, and numbers beside tokens: what a step on eight devices moves, and ten steps against one device."""
    found = {}
    for kind, (denoiser, prepare) in KINDS.items():
        params = {}
        for name, mesh in (("one", make_mesh(devices=jax.devices()[:1])), ("eight", make_mesh())):
            step = make_step(denoiser, jd.losses.Denoising(), OPTIMIZER, prepare=prepare, mesh=mesh)
            state = TrainState.create(KEY, denoiser.params, OPTIMIZER, mesh)
            put = lambda k, mesh=mesh: jax.device_put(Batches()[k], jd.training.batch_sharding(mesh))
            compiled = step.lower(state, put(0)).compile()
            for k in range(10):
                state, _ = compiled(state, put(k), *step.parts)
            params[name] = jax.tree.map(np.asarray, state.params)
        found[kind] = {
            "apart": far(params["one"], params["eight"]),
            "went": far(params["one"], jax.tree.map(np.asarray, denoiser.params)),
            "moved": moved(compiled),
            "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(denoiser.params)),
        }
    return found


PROOFS = {
    "of_a_layer": lambda folder: collectives(linear(), points),
    "of_a_unet": lambda folder: collectives(unet(), images),
    "moves": moves,
    "numbers": numbers,
    "distilled": lambda folder: distilled(),
    "trees": lambda folder: trees(),
}
_, FOLDER, *NAMES = sys.argv
print(json.dumps({name: PROOFS[name](FOLDER) for name in NAMES}))
