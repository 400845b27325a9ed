# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Flows and bridges
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/flows_and_bridges.ipynb)
#
# Flow matching and Schrödinger bridges are close relatives of diffusion models: each replaces one part of them.
#
# - **flow matching**: connect noise and data by straight lines, and learn to follow them,
# - **optimal transport**: choose the lines well, and a few steps suffice,
# - **any source**: start from something other than noise,
# - **Schrödinger bridges**: fixed at both ends, noise in between.
#
# All data here are points in the plane, so that results can be seen and checked. It takes one to two minutes on two
# idle cores.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jaxdiff.losses import BridgeMatching, FlowMatching
from jaxdiff.losses.couplings import Entropic, Independent, OptimalTransport
from jaxdiff.plotting import ORANGE, Density, Paths, Points, panels, plane

# %% [markdown]
# ## A straight line between noise and data
#
# Take a data point $x_0$ and a noise point $x_1$, and walk from one to the other on a straight line,
# $x_t = (1 - t)\,x_0 + t\,x_1$, with the constant velocity $x_1 - x_0$. Do so with many pairs. Where their lines cross, a
# network that sees only $x_t$ and $t$ cannot know which line it is on, and its best prediction is the mean velocity,
# $\mathbb{E}[x_1 - x_0 \mid x_t]$. The mean is enough: the flow along it carries the distribution of the noise to that of the
# data. This is flow matching.
#
# The line is the process `Flow`, the network's output is a `"velocity"`, and a **coupling** says which data point is paired
# with which noise point. The first coupling pairs them at random.
#
# Left: such pairs. Middle: the flow that the network has learned, in a hundred small steps. Two points of a flow cannot be at
# one place at the same time, so that its paths bend where the lines would cross.

# %%
data = jd.data.eight_gaussians(jax.random.key(0), 20_000)

network, params = jd.networks.initialize(
    jax.random.key(1), lambda rngs: jd.networks.MLP(2, hidden=(64, 64, 64, 64, 64), rngs=rngs)
)
untrained = jd.Denoiser(network, params, jd.Flow(), "velocity", data_std=1.0)


def fit(model, loss, data=data, steps=800):
    batches = jd.data.batches({"x": data}, batch_size=128, seed=0)
    optimizer = jd.training.clipped_adam(steps, learning_rate=1e-2)
    with tempfile.TemporaryDirectory() as folder:
        return jd.training.train(
            jax.random.key(2), folder, model, loss, batches, steps=steps, optimizer=optimizer, progress=False
        )


def draw_pairs(coupling):
    x0, x1 = coupling(jax.random.key(3), data[:128])
    return Paths(jnp.stack([x1, x0]), color=ORANGE)


def follow(flow, start, steps):
    euler = jd.samplers.DDIM()  # which is Euler's method where the process is a line
    return jd.sample(
        jax.random.key(4), flow, start.shape, euler, steps, x_start=start, grid=jd.grids.Time(), trajectory=True
    )


def show(coupling, paths):
    drawn = Paths(paths[:, :128], color=ORANGE)
    return panels({"pairs": draw_pairs(coupling), "paths": drawn, "samples": Points(paths[-1])})


random_pairs = Independent()
random_flow = fit(untrained, FlowMatching(random_pairs))

noise = jax.random.normal(jax.random.key(5), (1000, 2))
random_paths = follow(random_flow, noise, 100)
show(random_pairs, random_paths)

# %% [markdown]
# ## Better pairs, straighter paths
#
# Pairs need not be random. In each batch, pair every data point with a noise point nearby, such that the sum of all squared
# distances is as small as possible. The distributions of data and noise stay the same, only the pairs are new. The lines of
# such an **optimal transport** do not meet at any $t$, so that the paths need not bend.

# %%
optimal_pairs = OptimalTransport()
optimal_flow = fit(untrained, FlowMatching(optimal_pairs))

optimal_paths = follow(optimal_flow, noise, 100)
show(optimal_pairs, optimal_paths)

# %% [markdown]
# Why does it matter? Along straight paths large steps are accurate. The number beside each name is the Wasserstein distance
# from unseen data: how far, in the root mean square, the points must be moved to become them.

# %%
unseen = jd.data.eight_gaussians(jax.random.key(6), 64**2)
few = {
    f"{name} pairs, {steps} step{'s' * (steps > 1)}": follow(flow, noise, steps)[-1]
    for name, flow in {"random": random_flow, "optimal": optimal_flow}.items()
    for steps in (1, 2, 5, 20)
}


def distance(start, end):
    return jnp.linalg.norm(end - start, axis=-1)


def detour(path):
    return distance(path[:-1], path[1:]).sum() / distance(path[0], path[-1]).sum() - 1


print(f"paths of random pairs:  {detour(random_paths):5.1%} longer than a straight line")
print(f"paths of optimal pairs: {detour(optimal_paths):5.1%}")
print(f"Wasserstein distance of two sets of data: {jd.metrics.wasserstein(data[:1000], unseen[:1000]):.2f}")
panels({f"{name}: {jd.metrics.wasserstein(x, unseen[:1000]):.2f}": Points(x) for name, x in few.items()})

# %% [markdown]
# One step along the mean of random lines ends in the middle, where there are no data. Along optimal lines it comes close.
# (Two sets of a thousand data points are apart as well, by chance. Samples at about this distance cannot be told from data.)
#
# ## Start anywhere
#
# Flow matching does not need Gaussian noise at the other end of the line. Any distribution from which you can draw will do.
# Here two moons become eight Gaussians.

# %%
source = jd.data.two_moons
moons = source(jax.random.key(7), 1000)

moon_pairs = OptimalTransport(Independent(source))
moon_flow = fit(untrained, FlowMatching(moon_pairs))

moon_paths = follow(moon_flow, moons, 20)
show(moon_pairs, moon_paths)

# %% [markdown]
# With the log-density of the source, `log_likelihood` returns that of the model. (The density of the moons is the mean of
# many small Gaussians along their arcs.)

# %%
arcs = source(jax.random.key(8), 2000, noise=0.0)
truth = jd.exact.Mixture(jd.Flow(), *jd.data.eight_gaussians_mixture())


def source_log_prob(x):
    squares = jnp.sum((x[:, None] - arcs) ** 2, axis=-1)
    return jax.nn.logsumexp(-squares / 0.02, axis=1) - jnp.log(len(arcs) * 0.02 * jnp.pi)


def log_prob(x):
    settings = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3), "trace": jd.likelihood.Exact()}
    found = jd.log_likelihood(jax.random.key(9), moon_flow, x, **settings, source=source_log_prob)
    assert found.converged.all()
    return np.asarray(found.log_prob)


side, extent = 64, 2.0
learned = log_prob(plane(extent, side))
difference = np.asarray(truth.log_prob(unseen)) - log_prob(unseen)
print(f"mass of the learned density on the plane: {np.exp(learned).sum() * (2 * extent / side) ** 2:.3f}")
print(f"KL(truth, model): {difference.mean():.3f} ± {difference.std() / len(difference) ** 0.5:.3f} nats")
panels(
    {
        "source": Density(source_log_prob),
        "learned density": Density(learned),
        "true density": Density(truth.log_prob, side),
    },
    extent=extent,
)

# %% [markdown]
# The faint threads between the Gaussians are there because a smooth flow can stretch the moons, but cannot tear them.
#
# ## Noise in between
#
# In 1931 Schrödinger asked: many particles in Brownian motion of variance $\sigma^2$ had one distribution, and a unit of
# time later quite another. What did they most probably do in between? The answer is the random process that has these two
# distributions at its ends and is otherwise as close to Brownian motion as possible: the **Schrödinger bridge**. For small
# $\sigma$ it is optimal transport; the larger $\sigma$, the less its end depends on its start.
#
# Two things change. The coupling, `Entropic(sigma)`, pairs the ends as those particles would. And the model predicts two
# things, the mean difference of the ends and the score; here two copies of the network do so.
#
# There are then three ways from one end to the other: a random walk from the source to the data, another from the data to the
# source, and a flow, which has no noise but the same distribution at every time.


# %%
def twice(params, *inputs):
    return network(params[0], *inputs), network(params[1], *inputs)


bridges = {
    sigma: fit(jd.Bridge(twice, (params, params), sigma), BridgeMatching(Entropic(sigma, moon_pairs, sweeps=1)))
    for sigma in (0.2, 0.6)
}
walks = {sigma: jd.cross(jax.random.key(10), bridge, moons, trajectory=True) for sigma, bridge in bridges.items()}
returns = {
    sigma: jd.cross(jax.random.key(11), bridge, unseen[:1000], to="source", trajectory=True)
    for sigma, bridge in bridges.items()
}
flows = {sigma: follow(bridge, moons, 50) for sigma, bridge in bridges.items()}
panels(
    {
        f"σ = {sigma}, {way}": [Paths(paths[sigma][:, :25], color=ORANGE), Points(paths[sigma][-1])]
        for sigma in bridges
        for way, paths in {"to the data": walks, "to the source": returns, "flow to the data": flows}.items()
    },
    columns=3,
)

# %% [markdown]
# The more noise, the further the ends are from those of optimal transport, and the nearer to random pairs. Halfway, walk and
# flow have the same distribution: their distance is that of two halves of the walkers from each other.


# %%
def rms(start, end):
    return jnp.sqrt(jnp.mean(distance(start, end) ** 2))


print("root mean square distance from start to end")
print(f"    optimal transport:  {rms(moons, moon_paths[-1]):.2f}")
for sigma, walk in walks.items():
    print(f"    bridge of σ = {sigma}:  {rms(moons, walk[-1]):.2f}")
print(f"    random pairs:       {rms(moons, data[:1000]):.2f}")

for sigma, bridge in bridges.items():
    walk = jd.cross(jax.random.key(12), bridge, moons, grid=jd.grids.Time(), trajectory=True)[25]
    flow = follow(bridge, moons, 50)[25]
    apart = jd.metrics.wasserstein(walk[:500], flow[500:]), jd.metrics.wasserstein(walk[:500], walk[500:])
    print("Wasserstein distance halfway, σ = {}: walk to flow {:.2f}, walk to walk {:.2f}".format(sigma, *apart))

# %% [markdown]
# ## Is it the right bridge?
#
# Between two Gaussians the answer is known. From $N(0.1, I)$ to $N(-0.1, I)$ the covariance of start and end is
# $c = (\sqrt{4 + \sigma^4} - \sigma^2)/2$ in each coordinate, and halfway the variance is $(1 + c)/2 + \sigma^2/4$. Here
# is one more bridge, trained like the others and crossed both ways.


# %%
def right(key, n):
    return 0.1 + jax.random.normal(key, (n, 2))


left = right(jax.random.key(13), 5000) - 0.2
loss = BridgeMatching(Entropic(1.0, Independent(right), sweeps=1))
bridge = fit(jd.Bridge(twice, (params, params), 1.0, data_std=1.0), loss, data=left, steps=600)

n, c = len(left), (5**0.5 - 1) / 2
for to, start in {"data": right(jax.random.key(14), n), "source": left}.items():
    path = jd.cross(jax.random.key(15), bridge, start, to, grid=jd.grids.Time(), trajectory=True)
    first, middle, last = (path[i] - path[i].mean(0) for i in (0, 25, 50))
    print(f"to the {to + ':':7} covariance {jnp.mean(first * last):.3f}, variance halfway {jnp.mean(middle**2):.3f}")
print(f"exact:          covariance {c:.3f}, variance halfway {(1 + c) / 2 + 1 / 4:.3f}")

# %% [markdown]
# ## Your turn
#
# Take other ends: `jd.data.pinwheel`, `jd.data.swiss_roll`, or any `source(key, n)` of your own. For data that come in pairs
# there is the coupling `jd.losses.couplings.Paired()`. A batch of images is too small to contain good pairs; a bridge can make
# its own: cross it with `jd.cross`, take starts and ends for the new pairs, and train again. This is DSBM;
# `jaxdiff.losses.bridge_matching` has it in two lines.
