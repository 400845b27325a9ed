r"""The Schrödinger bridge N(-0.1, I) to N(0.1, I), σ = 1, learned in 5, 20 and 50 dimensions ([SF]²M, table of KL).

    python experiments/gaussian_bridge.py        3 minutes on two cores

Expect KL 0.001, 0.018, 0.094 at the end, and 0.001, 0.025, 0.133 with minibatch pairs alone.

KL: that of a Gaussian fitted to 10,000 points of the learned flow from the exact marginal
N(0.2 t - 0.1, [(1 - t)² + t² + t (1 - t) √(4 + σ⁴)] I), averaged over the flow's 21 times. The floor is the value for
10,000 exact points, (d + d (d + 1)/2)/20,000 to first order. Published (Tong et al. 2024, arXiv 2307.03672, [SF]²M):
0.007, 0.029, 0.124.

The first pairs are those of minibatches, which in many dimensions are far from the exact plan. The covariance of x_0
and x_1, which is (√(4 + σ⁴) - σ²)/2 = 0.618 in each dimension of the plan, is printed with the KL. Then, as in DSBM,
each round matches the pairs that the learned SDE generates from fresh points of one end, and in turn of the other.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.losses import BridgeMatching
from jaxdiff.losses.couplings import Entropic, Paired

SHIFT, SIGMA = 0.1, 1.0
STEPS, BATCH, PAIRS, ROUNDS = 2_000, 256, 40_960, 4
POINTS, TIMES = 10_000, 20
PUBLISHED = {5: 0.007, 20: 0.029, 50: 0.124}


def perceptron(params, x, c_noise, cond):
    """w and -n s by 3 x 256 SELU on (x, t)."""
    h = jnp.concatenate([x, jax.nn.sigmoid(4 * c_noise)[:, None]], axis=1)
    *hidden, (weight, bias) = params
    for w, b in hidden:
        h = jax.nn.selu(h @ w + b)
    return tuple(jnp.split(h @ weight + bias, 2, axis=1))


def end(mean, key, n, d):
    return mean + jax.random.normal(key, (n, d))


def initial(key, d):
    widths = [d + 1, 256, 256, 256, 2 * d]
    keys = jax.random.split(key, len(widths))
    params = [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, widths, widths[1:])]
    return jd.Bridge(perceptron, params, SIGMA, data_std=1.0)


@functools.partial(jax.jit, static_argnames="n")
def minibatch_pairs(key, n, data, source):
    pairs = jnp.stack([data, source], axis=1).reshape(-1, n, 2, data.shape[1])
    couple = lambda batch: Entropic(SIGMA, Paired())(*batch)
    pairs = jax.lax.map(couple, (jax.random.split(key, len(pairs)), pairs))
    return [x.reshape(data.shape) for x in pairs]


@jax.jit
def match(key, bridge, data, source):
    """The bridge after STEPS training steps on batches of the pairs."""
    loss, optimizer = BridgeMatching(Paired()), optax.adamw(optax.cosine_decay_schedule(2e-3, STEPS), weight_decay=1e-5)
    pairs = jnp.stack([data, source], axis=1)

    def step(carry, index):
        params, state = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, index))
        batch = pairs[jax.random.randint(batch_key, (BATCH,), 0, len(pairs))]
        value = lambda params: loss(dataclasses.replace(bridge, params=params), loss_key, batch).mean()
        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (bridge.params, optimizer.init(bridge.params)), jnp.arange(STEPS))
    return dataclasses.replace(bridge, params=params)


def divergence(x, t):
    """KL of the Gaussian with the moments of x [n, d] from the bridge's marginal at t."""
    d = x.shape[1]
    variance = (1 - t) ** 2 + t**2 + t * (1 - t) * np.sqrt(4 + SIGMA**4)
    covariance, mean = np.cov(x.T) / variance, x.mean(0) - (2 * t - 1) * SHIFT
    return (np.trace(covariance) + mean @ mean / variance - d - np.linalg.slogdet(covariance)[1]) / 2


def flow_divergence(bridge, d):
    start = end(SHIFT, jax.random.key(1), POINTS, d)
    grid = dict(grid=jd.grids.Time(), t_end=0.0, x_start=start, trajectory=True)
    path = jd.sample(jax.random.key(2), bridge, start.shape, jd.samplers.Heun(), TIMES, **grid)
    return np.mean([divergence(np.asarray(x, float), t) for x, t in zip(path, np.linspace(1, 0, TIMES + 1))])


def main():
    for d, published in PUBLISHED.items():
        began = time.time()
        bridge = initial(jax.random.key(d), d)
        floor = (d + d * (d + 1) / 2) / (2 * POINTS)
        print(f"d = {d:2d}: floor {floor:.4f}, published {published}", flush=True)
        for k in range(ROUNDS):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), k), 4)
            data, source = end(-SHIFT, keys[0], PAIRS, d), end(SHIFT, keys[1], PAIRS, d)
            if k == 0:
                data, source = minibatch_pairs(keys[2], BATCH, data, source)
            elif k % 2:
                data = jd.cross(keys[2], bridge, source, to="data")
            else:
                source = jd.cross(keys[2], bridge, data, to="source")
            covariance = float(jnp.mean((data + SHIFT) * (source - SHIFT)))
            bridge = match(keys[3], bridge, data, source)
            found = flow_divergence(bridge, d)
            print(f"    round {k}: pairs {covariance:.3f}, KL {found:.4f}, {time.time() - began:4.0f} s", flush=True)


if __name__ == "__main__":
    main()
