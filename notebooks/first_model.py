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
# A diffusion model turns data into noise step by step, and learns the way back. In `jaxdiff` it has five parts:
#
# - a **process**: how data becomes noise,
# - a **denoiser**: what the data were, as the network predicts from $x_t$,
# - a **loss**: how the denoiser learns,
# - a **sampler**: how noise becomes data,
# - a **likelihood**: how probable an example is.
#
# This notebook builds one of each for points in the plane, so that everything can be seen. The density of the data is known,
# so that everything can be checked. It takes about a minute on two cores and needs no GPU.

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
from jaxdiff.plotting import GREY, ORANGE, Density, Field, Paths, Points, panels, plane, training_curve

# %% [markdown]
# ## Data, and how it becomes noise
#
# The data are eight small Gaussians on a circle. A process mixes each point with Gaussian noise,
# $x_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$: at $t = 0$ there is no noise, and at $t = 1$ almost nothing else. `VP`, the
# process of DDPM, has $\alpha^2 + \sigma^2 = 1$, so that data of variance 1 keep this variance at every $t$.

# %%
process = jd.VP()
data = jd.data.eight_gaussians(jax.random.key(0), 20_000)

noisy = {t: jd.perturb(jax.random.key(1), process, data[:1000], t)[0] for t in (0, 0.1, 0.2, 1)}
panels({f"t = {t}": Points(x) for t, x in noisy.items()})

# %% [markdown]
# ## A network that predicts the data
#
# A noised point $x_t$ can come from many clean points. A denoiser predicts their mean, $\mathbb{E}[x_0 \mid x_t]$. Here a
# small neural network does so. Its output is the "v" of the literature, a blend of data and noise that has the same size at
# every noise level.

# %%
network, params = jd.networks.initialize(
    jax.random.key(2), lambda rngs: jd.networks.MLP(2, hidden=(64, 64, 64, 64, 64), rngs=rngs)
)
denoiser = jd.Denoiser(network, params, process, parameterization="v", data_std=1.0)

# %% [markdown]
# ## Training
#
# The loss takes a data point, adds noise, and measures the squared error of the prediction. The prediction is hardest while
# the noise is about as wide as the gaps between the Gaussians: `LogNormal` draws most noise levels there.
#
# `train` returns the denoiser with its weights averaged over the last steps. It keeps a run in a folder, from which the same
# call continues after an interruption; here the folder is needed for the curve only. The dashed line is the loss of the exact
# denoiser, which is known for these data.

# %%
truth = jd.exact.Mixture(process, *jd.data.eight_gaussians_mixture())
loss = jd.losses.Denoising(times=jd.losses.times.LogNormal())
batches = jd.data.batches({"x": data}, batch_size=512, seed=0)
optimizer = jd.training.clipped_adam(steps=2000, learning_rate=1e-2)

with tempfile.TemporaryDirectory() as folder:
    denoiser = jd.training.train(
        jax.random.key(3), folder, denoiser, loss, batches, steps=2000, optimizer=optimizer, progress=False
    )
    curve = training_curve(jd.training.read_metrics(f"{folder}/metrics.jsonl"))
errors_of_v = jd.losses.Denoising(lambda denoiser, t: jnp.ones_like(t), loss.times)  # as the loss of a "v" network
floor = float(errors_of_v(truth, jax.random.key(8), jnp.tile(data, (10, 1))).mean())
(axes,) = curve.axes
axes.axhline(floor, color=GREY, linestyle="--")
axes.text(50, floor + 0.005, f"exact denoiser: {floor:.2f}", color=GREY)
axes.set_ylim(bottom=floor - 0.03)
curve

# %% [markdown]
# The loss does not go to zero, not even that of the exact denoiser: a noised point does not determine where it came from.
#
# ## What it learned: the score
#
# The prediction gives the **score**, $\nabla \log p_t(x) = (\alpha\,\mathbb{E}[x_0 \mid x_t = x] - x)/\sigma^2$, the direction in
# which the density of the noised data rises fastest. For a mixture of Gaussians the score has a closed form, so that the
# network can be compared with it. The arrows are the score, over the density $p_t$. Their directions are exact, and their
# lengths are on a logarithmic scale, since far from the data a score is a thousand times longer than at a mode.


# %%
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
# A sampler starts from pure noise and goes back to $t = 0$ in steps, each of which evaluates the denoiser. Three classics:
# DDIM follows a smooth curve, the probability flow; DPM-Solver++ follows the same curve, also uses the previous prediction,
# and needs fewer steps; ancestral sampling, that of DDPM, adds a little noise in every step, which corrects errors of the
# network. The grey lines are the second half of a few paths, and the orange points their ends.

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
# The probability flow connects noise and data, and where it compresses space, the density rises. The sum of this compression
# on the way from a point to its noise gives the exact density of the model at that point. Here it is on the whole plane,
# beside the true one.

# %%
side, extent = 64, 2.0
settings = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4), "trace": jd.likelihood.Exact()}
likelihood = jd.log_likelihood(jax.random.key(5), denoiser, plane(extent, side), **settings)

panels({"learned density": Density(likelihood.log_prob), "true density": Density(truth.log_prob, side)}, extent=extent)

# %% [markdown]
# The density of a flow integrates to one, whatever the network has learned. On data that the model has not seen, its
# log-density can be compared with the truth at each point. The mean of the difference estimates the Kullback-Leibler
# divergence, the nats that are lost when the model is used in place of the truth.

# %%
unseen = jd.data.eight_gaussians(jax.random.key(6), side**2)
model = jd.log_likelihood(jax.random.key(7), denoiser, unseen, **settings)
assert model.converged.all()
true = truth.log_prob(unseen, t=1e-5)  # the t at which log_likelihood takes its points
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
# Every part can be replaced by another. Try `jd.Flow()` as the process, `jd.samplers.Heun()` as a sampler, half the steps, or
# a larger network. With other data, such as `jd.data.two_moons`, leave out the comparisons with `truth`, which is that of the
# eight Gaussians. Images need only another network, a U-Net: `jaxdiff demo` trains one on handwritten digits.
