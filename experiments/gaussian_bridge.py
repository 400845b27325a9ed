r"""The Schrödinger bridge N(-0.1, I) to N(0.1, I), σ = 1, learned in 5, 20 and 50 dimensions ([SF]²M, table of KL).

    python experiments/gaussian_bridge.py        TIME on two cores

EXPECT

KL is that of the Gaussian fitted to 10,000 points of the learned flow from the exact marginal
N(0.2 t - 0.1, [(1 - t)² + t² + t (1 - t) √(4 + σ⁴)] I), mean over the flow's times; the floor is what 10,000 exact
points would give, (d + d (d + 1)/2)/20,000 to first order. Published: 0.007, 0.029, 0.124.
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
from jaxdiff.losses.couplings import Entropic, Independent

SHIFT, SIGMA = 0.1, 1.0
STEPS, BATCH, POINTS, TIMES = 4_000, 256, 10_000, 20
PUBLISHED = {5: 0.007, 20: 0.029, 50: 0.124}


def perceptron(params, x, c_noise, cond):
    """w and -n s by 3 x 64 SELU on (x, t)."""
    h = jnp.concatenate([x, jax.nn.sigmoid(4 * c_noise)[:, None]], axis=1)
    *hidden, (weight, bias) = params
    for w, b in hidden:
        h = jax.nn.selu(h @ w + b)
    return tuple(jnp.split(h @ weight + bias, 2, axis=1))


def source(d):
    return lambda key, n: SHIFT + jax.random.normal(key, (n, d))


@functools.partial(jax.jit, static_argnames="d")
def train(key, d):
    widths = [d + 1, 64, 64, 64, 2 * d]
    keys = jax.random.split(key, len(widths))
    params = [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, widths, widths[1:])]
    bridge = jd.Bridge(perceptron, params, SIGMA, data_std=1.0)
    loss = BridgeMatching(Entropic(SIGMA, Independent(source(d)), sweeps=1))
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, STEPS), weight_decay=1e-5)

    def step(carry, index):
        params, state = carry
        data_key, loss_key = jax.random.split(jax.random.fold_in(keys[-1], index))
        x0 = jax.random.normal(data_key, (BATCH, d)) - SHIFT
        value = lambda params: loss(dataclasses.replace(bridge, params=params), loss_key, x0).mean()
        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))
    return dataclasses.replace(bridge, params=params)


def divergence(x, t):
    """KL of the Gaussian with the moments of x [n, d] from the bridge's marginal at t."""
    d = x.shape[1]
    variance = (1 - t) ** 2 + t**2 + t * (1 - t) * np.sqrt(4 + SIGMA**4)
    covariance, mean = np.cov(x.T) / variance, x.mean(0) - (2 * t - 1) * SHIFT
    return (np.trace(covariance) + mean @ mean / variance - d - np.linalg.slogdet(covariance)[1]) / 2


def main():
    for d, published in PUBLISHED.items():
        began = time.time()
        bridge = train(jax.random.key(d), d)
        start = source(d)(jax.random.key(1), POINTS)
        path = jd.sample(
            jax.random.key(2),
            bridge,
            start.shape,
            jd.samplers.Heun(),
            TIMES,
            grid=jd.grids.Time(),
            t_end=0.0,
            x_start=start,
            trajectory=True,
        )
        times = np.linspace(1, 0, TIMES + 1)
        found = np.mean([divergence(np.asarray(x, np.float64), t) for x, t in zip(path, times)])
        floor = (d + d * (d + 1) / 2) / (2 * POINTS)
        seconds = time.time() - began
        print(f"d = {d:2d}: KL {found:.4f}, floor {floor:.4f}, published {published}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
