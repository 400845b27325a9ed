r"""Flows and bridges between distributions in the plane: the 2-D table of [SF]²M (Tong et al. 2024, arXiv 2307.03672).

    python experiments/two_dimensions.py        17 minutes on two cores; pictures in runs/two_dimensions, the resulting
                                                table in experiments/README.md

W2: 2-Wasserstein distance between samples of the flow and the data, by exact assignment of 2,000 points, mean of three
seeds; the floor is that of two sets of data. NPE: |∫ E|v|² dt - W2²(source, data)| / W2²(source, data), over 10,000
points and 100 Euler steps. [SF]²M and DSBM are measured by their probability flow.

Settings as in the paper and its code: a 3 x 64 SELU network with time as a further input (two of them for the bridges),
AdamW at 1e-3 with weight decay 1e-5, batches of 512, 20,000 steps, σ = 0.1 for the flows and 1 for the bridges. The
data are those of the code: 8 gaussians of covariance √0.1 I on a circle of radius 5; as a source, 3x - 1 of scikit-
learn's moons with noise 0.2; from a normal source 2x - (1, 0) of its moons and 1.5x of its s-curve, noise 0.05.

Differences: pairings are drawn beforehand, 100 batches for each task and seed, and every method uses its own in random
order (a new assignment in each step would take an hour). [SF]²M takes its pairs from `couplings.Entropic`. DSBM matches
five times for 4,000 steps: first independent pairs, then the pairs that its SDE generates from one end and from the
other in turn.
"""

import dataclasses
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff import plotting
from jaxdiff.data import s_curve, two_moons
from jaxdiff.losses import BridgeMatching, FlowMatching
from jaxdiff.losses.couplings import Entropic, OptimalTransport, Paired
from jaxdiff.metrics import wasserstein

FOLDER = Path("runs/two_dimensions")
SEEDS, STEPS, BATCH, BATCHES, ROUNDS = 3, 20_000, 512, 100, 5
TEST_POINTS, EULER_STEPS, ASSIGNED = 10_000, 100, 2_000
NOISE, SIGMA = 0.1, 1.0


def normal(key, n):
    return jax.random.normal(key, (n, 2))


def eight_gaussians(key, n):
    which, around = jax.random.split(key)
    angle = jnp.pi / 4 * jax.random.randint(which, (n,), 0, 8)
    return 5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1) + 0.1**0.25 * jax.random.normal(around, (n, 2))


def wide_moons(key, n):
    return 3 * (two_moons(key, n, noise=0.2) + jnp.array([0.5, 0.25])) - 1


def moons(key, n):
    return 2 * (two_moons(key, n, noise=0.05) + jnp.array([0.5, 0.25])) - jnp.array([1.0, 0.0])


def letter_s(key, n):
    return 1.5 * s_curve(key, n)


# name: source, data, and the paper's NPE of I-CFM and OT-CFM
TASKS = {
    "normal to 8 gaussians": (normal, eight_gaussians, 0.202, 0.031),
    "moons to 8 gaussians": (wide_moons, eight_gaussians, 2.680, 0.015),
    "normal to moons": (normal, moons, 0.891, 0.083),
    "normal to s-curve": (normal, letter_s, 0.856, 0.027),
}


def perceptron(params, x, c_noise, cond):
    """An MLP with 3 x 64 SELU units on (x, t)."""
    h = jnp.concatenate([x, jax.nn.sigmoid(4 * c_noise)[:, None]], axis=1)
    *hidden, (weight, bias) = params
    for w, b in hidden:
        h = jax.nn.selu(h @ w + b)
    return h @ weight + bias


def pair(params, *inputs):
    return perceptron(params[0], *inputs), perceptron(params[1], *inputs)


def initial(key):
    """Weights and biases, uniform within ±1/√fan_in."""
    widths = [3, 64, 64, 64, 2]
    shapes = [[(a, b), (b,)] for a, b in zip(widths, widths[1:])]
    keys = jax.random.split(key, (len(shapes), 2))
    uniform = lambda key, shape, fan_in: jax.random.uniform(key, shape, minval=-1, maxval=1) / fan_in**0.5
    return [[uniform(k, s, a) for k, s in zip(*layer)] for *layer, a in zip(keys, shapes, widths)]


@functools.partial(jax.jit, static_argnames="steps")
def train(keys, params, model, loss, pools, steps):
    """Parameters after `steps` of AdamW, for each seed in turn: keys [seeds], pools [seeds, batches, n, 2, 2]."""
    optimizer = optax.adamw(1e-3, weight_decay=1e-5)

    def one(seed):
        key, params, pool = seed

        def step(carry, index):
            params, state = carry
            batch_key, loss_key = jax.random.split(jax.random.fold_in(key, index))
            pairs = pool[jax.random.randint(batch_key, (), 0, pool.shape[0])]
            value = lambda params: loss(dataclasses.replace(model, params=params), loss_key, pairs).mean()
            updates, state = optimizer.update(jax.grad(value)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[0][0]

    return jax.lax.map(one, (keys, params, pools))


@functools.partial(jax.jit, static_argnames=("source", "data"))
def pairings(keys, source, data, coupling):
    """Pairs [seeds, BATCHES, BATCH, 2, 2] for keys [seeds]."""

    def batch(key):
        data_key, pair_key = jax.random.split(key)
        pairs = jnp.stack([data(data_key, BATCH), source(pair_key, BATCH)], axis=1)
        return jnp.stack(coupling(jax.random.fold_in(pair_key, 1), pairs), axis=1)

    return jax.lax.map(lambda key: jax.lax.map(batch, jax.random.split(key, BATCHES)), keys)


def fit_dsbm(keys, params, model, pools):
    """Iterative Markovian fitting: match, transport the true source or data by the SDE in turn, and match again."""
    loss, pairs = BridgeMatching(Paired()), pools
    for k in range(ROUNDS):
        params = train(keys, params, model, loss, pairs, STEPS // ROUNDS)
        if k < ROUNDS - 1:
            bridges = [of_seed(model, params, seed) for seed in range(SEEDS)]
            step_keys = [jax.random.fold_in(key, k) for key in keys]
            pairs = jnp.stack([recoupled(*seed, k) for seed in zip(step_keys, bridges, pools)])
    return params


def of_seed(model, params, seed):
    return dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf[seed], params))


def recoupled(key, bridge, pool, k):
    data, source = (pool[:, :, end].reshape(-1, 2) for end in (0, 1))
    if k % 2:
        source = jd.cross(key, bridge, data, to="source")
    else:
        data = jd.cross(key, bridge, source, to="data")
    return jnp.stack([data, source], axis=1).reshape(pool.shape)


def methods(source):
    """{name: (the model without parameters, its coupling, and its fit)}."""
    flow = jd.Denoiser(perceptron, None, jd.Flow(), "velocity", data_std=1.0)
    bridge = jd.Bridge(pair, None, SIGMA, data_std=1.0)
    fit = lambda loss: lambda keys, params, model, pools: train(keys, params, model, loss, pools, STEPS)
    chosen = {
        "I-CFM": (flow, Paired(), fit(FlowMatching(Paired(), NOISE))),
        "OT-CFM": (flow, OptimalTransport(Paired()), fit(FlowMatching(Paired(), NOISE))),
        "[SF]²M": (bridge, Entropic(SIGMA, Paired()), fit(BridgeMatching(Paired()))),
        "DSBM": (bridge, Paired(), fit_dsbm),
    }
    if source is normal:
        lipman = dataclasses.replace(flow, process=jd.Flow(NOISE))
        chosen["FM"] = (lipman, Paired(), fit(FlowMatching(Paired())))
    return chosen


def euler(key, model, start):
    """The path of the flow from `start`, [steps + 1, n, 2], and ∫ E|v|² dt along it."""
    path = jd.sample(
        key,
        model,
        start.shape,
        jd.samplers.DDIM(),
        EULER_STEPS,
        grid=jd.grids.Time(),
        t_end=0.0,
        x_start=start,
        trajectory=True,
    )
    return path, float(EULER_STEPS * jnp.sum(jnp.diff(path, axis=0) ** 2) / start.shape[0])


def run(task):
    source, data, *published = TASKS[task]
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(jnp.arange(SEEDS))
    many = lambda law, stream, n: [np.asarray(law(jax.random.fold_in(key, stream), n)) for key in keys]
    starts, targets = many(source, 1, TEST_POINTS), many(data, 2, TEST_POINTS)
    others = many(data, 3, ASSIGNED)
    floor = [wasserstein(x[:ASSIGNED], y) for x, y in zip(targets, others)]
    parts = [slice(k * ASSIGNED, (k + 1) * ASSIGNED) for k in range(2)]
    cost = np.mean([wasserstein(x[part], y[part]) ** 2 for x, y in zip(starts, targets) for part in parts])
    print(f"{task}: W2 floor {np.mean(floor):.3f}, W2 between the ends {cost**0.5:.3f}", flush=True)
    panels = {"source": plotting.Points(starts[0][:2000]), "data": plotting.Points(targets[0][:2000])}
    for name, (model, coupling, fit) in methods(source).items():
        began = time.time()
        pools = pairings(keys, source, data, coupling)
        if isinstance(model, jd.Bridge):
            params = jax.vmap(lambda key: [initial(k) for k in jax.random.split(key)])(keys)
        else:
            params = jax.vmap(initial)(keys)
        params = fit(keys, params, model, pools)
        distances, energies = [], []
        for seed, key in enumerate(keys):
            trained = of_seed(model, params, seed)
            path, energy = euler(key, trained, jnp.asarray(starts[seed]))
            distances.append(wasserstein(path[-1, :ASSIGNED], targets[seed][:ASSIGNED]))
            energies.append(abs(energy - cost) / cost)
            if seed == 0:
                panels[name] = plotting.Paths(path[:, :400])
                if name in ("[SF]²M", "DSBM"):
                    walk = jd.cross(key, trained, jnp.asarray(starts[seed][:400]), steps=100, trajectory=True)
                    panels[f"{name}, SDE"] = plotting.Paths(walk)
        known = dict(zip(("I-CFM", "OT-CFM"), published)).get(name)
        print(
            f"{task}: {name:8s} W2 {np.mean(distances):.3f} ± {np.std(distances):.3f}   NPE {np.mean(energies):.3f} ± "
            f"{np.std(energies):.3f}{f' (published {known:.3f})' if known else '':20s} {time.time() - began:4.0f} s",
            flush=True,
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    extent = 1.1 * max(np.abs(starts[0]).max(), np.abs(targets[0]).max())
    plotting.panels(panels, FOLDER / f"{task.replace(' ', '_')}.png", extent, title=task)


if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:  # one fit keeps about one core busy
        list(pool.map(run, TASKS))
