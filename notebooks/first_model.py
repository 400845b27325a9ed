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
# # Your first diffusion model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/first_model.ipynb)
#
# To make data out of noise, first turn data into noise, and learn the way back. That is all a diffusion model is,
# and `jaxdiff` cuts it into five parts:
#
# - a **process**: how data becomes noise,
# - a **denoiser**: what the network sees behind the noise,
# - a **loss**: how the denoiser learns,
# - a **sampler**: how noise becomes data,
# - a **likelihood**: how probable an example is.
#
# We build one of each in the plane, where everything can be seen, on data whose density we know, so that everything
# can be checked. It takes less than a minute on a laptop and needs no GPU.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import tempfile

import jax
import numpy as np
from jaxdiff.plotting import ORANGE, Density, Field, Paths, Points, panels, plane, training_curve

# %% [markdown]
# ## Data, and how it becomes noise
#
# Our data are eight small Gaussians on a circle. A process mixes each point with Gaussian noise,
# $x_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$: at $t = 0$ the point is still itself, at $t = 1$ almost nothing of it
# is left. `VP`, the process of DDPM, fades the data out as the noise comes in, so that $\alpha^2 + \sigma^2 = 1$ and data of
# variance 1 keep it.

# %%
process = jd.VP()
data = jd.data.eight_gaussians(jax.random.key(0), 20_000)

noisy = {t: jd.perturb(jax.random.key(1), process, data[:1000], t)[0] for t in (0, 0.1, 0.2, 1)}
panels({f"t = {t}": Points(x) for t, x in noisy.items()})

# %% [markdown]
# ## A network that sees through noise
#
# Given a noisy point and its $t$, many clean points could lie behind it. A denoiser answers with their average,
# $\mathbb{E}[x_0 \mid x_t]$. Here a small neural network does the guessing. What it puts out is the "v" of the
# literature, a blend of data and noise that is of the same size at every noise level.

# %%
network, params = jd.networks.initialize(
    jax.random.key(2), lambda rngs: jd.networks.MLP(2, hidden=(64, 64, 64, 64, 64), rngs=rngs)
)
denoiser = jd.Denoiser(network, params, process, parameterization="v", data_std=1.0)

# %% [markdown]
# ## Training
#
# Take a data point, add noise, let the denoiser guess, and punish the squared error. The guess is hardest, and matters
# most, while the noise is about as wide as the gaps between the Gaussians: `LogNormal` draws most of the noise levels
# from there.
#
# `train` returns the denoiser with its weights averaged over the last steps. It keeps everything about a run in one
# folder, from which a run that was cut short continues; we need ours for the curve only.

# %%
loss = jd.losses.Denoising(times=jd.losses.times.LogNormal())
batches = jd.data.batches({"x": data}, batch_size=512, seed=0)
optimizer = jd.training.clipped_adam(steps=2000, learning_rate=1e-2)

with tempfile.TemporaryDirectory() as folder:
    denoiser = jd.training.train(
        jax.random.key(3), folder, denoiser, loss, batches, steps=2000, optimizer=optimizer, progress=False
    )
    curve = training_curve(jd.training.read_metrics(f"{folder}/metrics.jsonl"))
curve

# %% [markdown]
# The loss does not go to zero, and should not: a noisy point does not tell where it came from, and no network can know.
#
# ## What it learned: a field of arrows
#
# The average clean point shows which way the data lie. The difference to it, over the variance of the noise, is the
# **score**: $\nabla \log p_t(x) = (\alpha\,\mathbb{E}[x_0 \mid x_t = x] - x)/\sigma^2$, the direction in which the density of
# the noisy data rises fastest. For a mixture of Gaussians
# the score has a closed form, so here is the truth to hold the network to: arrows over the density $p_t$ they climb.
# An arrow's direction is exact, and its length is on a logarithmic scale, since far from the data a score is a thousand
# times longer than at a mode.

# %%
truth = jd.exact.Mixture(process, *jd.data.eight_gaussians_mixture())


def climb(model, t):
    return [Density(lambda x: truth.log_prob(x, t), 80), Field(lambda x: jd.score(model, x, t), 13)]


times = (0.2, 0.1, 0.05)
panels(
    {f"learned, t = {t}": climb(denoiser, t) for t in times} | {f"exact, t = {t}": climb(truth, t) for t in times},
    columns=3,
)

# %% [markdown]
# ## From noise to data, three ways
#
# A sampler starts from pure noise and walks back to $t = 0$, asking the denoiser at every step. Three classics: DDIM
# follows the field along a smooth curve; DPM-Solver++ follows the same curve but remembers its last answer, and
# gets by with fewer steps; ancestral sampling, DDPM's own, adds a little fresh noise at every step and forgives the
# network more. The lines show the second half of a few walks, the orange dots where they end.

# %%
samplers = {
    "DPM-Solver++, 15 steps": (jd.samplers.DPMSolverPP(), 15),
    "DDIM, 50 steps": (jd.samplers.DDIM(), 50),
    "Ancestral, 100 steps": (jd.samplers.Ancestral(), 100),
}
walks = {
    name: jd.sample(jax.random.key(4), denoiser, (1000, 2), sampler, steps, trajectory=True)
    for name, (sampler, steps) in samplers.items()
}
panels({name: [Paths(walk[len(walk) // 2 :, :20], color=ORANGE), Points(walk[-1])] for name, walk in walks.items()})

# %% [markdown]
# ## How probable is a point?
#
# Between noise and data runs a smooth flow, and a flow carries density along: where it squeezes space, density rises.
# Adding up the squeezing on the way from a point to the noise gives the exact density of the model at that point.
# Here it is on the whole plane, beside the true one.

# %%
side, extent = 64, 2.0
settings = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4), "trace": jd.likelihood.Exact()}
likelihood = jd.log_likelihood(jax.random.key(5), denoiser, plane(extent, side), **settings)

panels({"learned density": Density(likelihood.log_prob), "true density": Density(truth.log_prob, side)}, extent=extent)

# %% [markdown]
# Nobody told the model that a density must integrate to one; the flow sees to it. And on data the model has never
# seen, its log-density can be compared with the truth point by point. The mean of the difference estimates the
# Kullback-Leibler divergence, the nats that are lost by taking the model for the truth.

# %%
unseen = jd.data.eight_gaussians(jax.random.key(6), side**2)
model = jd.log_likelihood(jax.random.key(7), denoiser, unseen, **settings)
assert model.converged.all()
true = truth.log_prob(unseen, t=1e-5)  # log_likelihood reads its points at this t, a hair from the data
difference = np.asarray(true - model.log_prob)

mass = np.exp(likelihood.log_prob).sum() * (2 * extent / side) ** 2
print(f"mass of the learned density on the plane: {mass:.3f}")
print(f"log p(x) of unseen data, true:    {true.mean():.3f} nats")
print(f"                         learned: {model.log_prob.mean():.3f} nats")
print(f"mean |difference|: {np.abs(difference).mean():.3f} nats")
print(f"KL(truth, model):  {difference.mean():.3f} ± {difference.std() / len(difference) ** 0.5:.3f} nats")

# %% [markdown]
# ## Your turn
#
# Every part can be exchanged for another. Try `jd.Flow()` for the process, `jd.samplers.Heun()` for a sampler; halve the
# steps, or give the network a day. Other data, such as `jd.data.two_moons`, train as well, but `truth` and `unseen` are
# those of the eight Gaussians: leave out what is compared with them. Images go the same way, with a U-Net for the network: `jaxdiff demo` does it on handwritten digits.
