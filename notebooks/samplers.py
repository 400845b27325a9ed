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
# # Which sampler, how many steps, how much noise?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/samplers.ipynb)
#
# You have a denoiser, perhaps [your first](first_model.ipynb). Now you want samples, and have to choose: a sampler, a
# number of steps, noise during sampling or none, guidance or none. This notebook compares these choices.
#
# Nothing is trained here. For a mixture of Gaussians the perfect denoiser is a formula, `jd.exact.Mixture`, so every error
# below is that of a sampler. Everything runs in one to two minutes on two idle cores.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import jax
import numpy as np
from jaxdiff.plotting import BLUE, DEPTHS, INK, ORANGE, Density, Picture, Points, panels

samplers, guidance = jd.samplers, jd.guidance
process = jd.VP()

# %% [markdown]
# ## The way there, and two ways back
#
# The data are numbers from a mixture of two Gaussians. Noise grows from left to right, until the starting point is
# forgotten. There are two ways back, from right to left, with the same density at every $t$ (blue). The **reverse SDE** is a
# random walk. The **probability flow** draws no noise: its paths are smooth and never cross. Everything between the two is
# possible as well; `EulerMaruyama` has the setting `noise`.

# %%
line = jd.exact.Mixture(process, [0.3, 0.7], [[1.3], [-0.8]], [[[0.02]], [[0.06]]])
steps, n = 300, 40
t = np.linspace(0, 1, steps + 1, dtype=np.float32)


def back(key, noise, n):
    sampler = samplers.EulerMaruyama(noise=noise)
    return jd.sample(key, line, (n, 1), sampler, steps, grid=jd.grids.Time(), trajectory=True)[::-1]


paths = {
    "forward": samplers.forward_paths(jax.random.key(0), process, back(jax.random.key(1), 1.0, n)[0], steps),
    "back, noise = 1: the reverse SDE": back(jax.random.key(2), 1.0, n),
    "back, noise = 0: the probability flow": back(jax.random.key(2), 0.0, n),
}

height = np.linspace(-3, 3, 121, dtype=np.float32)
across, up = (a.ravel() for a in np.meshgrid(t[3::3], height))
density = np.exp(line.log_prob(up[:, None], across)).reshape(len(height), -1)

picture = Picture(10.5, 3.2)
picture.set_layout_engine("constrained")
for axes, (name, x) in zip(picture.subplots(1, 3, sharey=True), paths.items()):
    shown = axes.imshow(density, cmap=DEPTHS, vmax=1.6, origin="lower", extent=(0, 1, -3, 3), aspect="auto")
    for path in np.asarray(x)[..., 0].T:
        axes.plot(t, path, color=ORANGE if path[0] > 0.4 else INK, linewidth=0.6)
    axes.set_title(name, loc="left", size=10, color=INK)
    axes.set(xlabel="t", ylabel="x" if name == "forward" else "", ylim=(-3, 3))
picture.colorbar(shown, ax=picture.axes, extend="max", label="density $p_t(x)$")
picture

# %% [markdown]
# Orange paths are those that are in the upper Gaussian at $t = 0$. On the flow, the starting point decides which these are:
# the highest ones. On the reverse SDE, a path can change sides until $t$ is about 0.2.
#
# ## How many steps?
#
# Few steps are large steps, with large errors. Here is a cat, made of three hundred narrow Gaussians along its lines, sampled
# by DDIM from the same noise in more and more steps. The denoiser is evaluated once in each step, so that the number of steps
# is also the cost.

# %%
strokes = jd.data.cat(jax.random.key(3), 300, noise=0.0)
cat = jd.exact.Mixture(process, np.ones(300), strokes, np.tile(0.03**2 * np.eye(2), (300, 1, 1)))


def draw(denoiser, sampler, steps):
    return Points(jd.sample(jax.random.key(4), denoiser, (1000, 2), sampler, steps))


panels({f"DDIM, {steps} steps": draw(cat, samplers.DDIM(), steps) for steps in (5, 10, 20, 50)})

# %% [markdown]
# A better sampler needs fewer steps. How far is each from the flow that it follows? `jd.decode` follows the flow with an
# adaptive solver as accurately as we like. So we can measure the root mean square distance from it, with the same noise and
# the same noise levels. From here on the data are two Gaussians in the plane. Heun evaluates the denoiser twice in each
# step, so it gets half the steps.

# %%
weights, means = np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-1.0, 0.5]])
covariances = np.array([[[0.1, 0.05], [0.05, 0.2]], [[0.3, -0.1], [-0.1, 0.1]]])
pair = jd.exact.Mixture(process, weights, means, covariances)

flow_samplers = {
    "DDIM": samplers.DDIM(),
    "Heun": samplers.Heun(),
    "DPM-Solver++ 2M": samplers.DPMSolverPP(order=2),
    "DPM-Solver++ 3M": samplers.DPMSolverPP(order=3),
    "UniPC-3": samplers.UniPC(order=3),
}
evaluations = (16, 64)
start, t_end = jax.random.normal(jax.random.key(5), (500, 2)), 1e-3
truth = jd.decode(pair, start, flow=samplers.ProbabilityFlow(rtol=1e-6, atol=1e-6), t_min=t_end)


def error(sampler, steps):
    x = jd.sample(
        jax.random.key(6), pair, start.shape, sampler, steps, grid=jd.grids.LogSNR(), t_end=t_end, x_start=start
    )
    return float(np.sqrt(np.sum((x - truth) ** 2, axis=1).mean()))


print(f"{'evaluations':16}", *(f"{e:9}" for e in evaluations))
for name, sampler in flow_samplers.items():
    print(f"{name:16}", *(f"{error(sampler, e // 2 if name == 'Heun' else e):9.1e}" for e in evaluations))

# %% [markdown]
# Four times the evaluations divide the error of DDIM, a method of first order, by about four, and those of Heun and 2M, of
# second, by a little more than sixteen. 3M and UniPC gain even more. The error of DDIM at 64 evaluations is about that of
# 2M, 3M and UniPC at 16. So 15 to 30 steps of one of these are a good start; `jd.sample` takes 50 steps of 2M unless told
# otherwise.
#
# ## Deterministic or stochastic?
#
# Why add noise at all? Because a real denoiser makes errors, and noise can correct them. To see this, start every sample
# one standard deviation off, at $z + 1$. The mixture's mean and variance are known exactly. The table has the errors of both,
# from the right start and from the wrong one: the distance of the means, and the variance of the samples minus the exact
# one, at 40 evaluations each (`ReverseSDE` and the corrector evaluate twice in each step). The mean of this many samples has
# a standard error of about 0.01.

# %%
n = 10_000
mean = weights @ means
variance = weights @ (np.trace(covariances, axis1=1, axis2=2) + (means**2).sum(1)) - (mean**2).sum()
right = jax.random.normal(jax.random.key(7), (n, 2))


def misses(sampler, steps):
    for start in (right, right + 1):
        x = np.asarray(jd.sample(jax.random.key(8), pair, (n, 2), sampler, steps, x_start=start))
        square = ((x - mean) ** 2).sum(1)
        yield f"{np.linalg.norm(x.mean(0) - mean):8.3f}{square.mean() - variance:+10.3f} ± {square.std() / n**0.5:.3f}"


def compare(several):
    print(f"{'':34}{'right start':^26}{'wrong start':^26}\n{'':34}" + f"{'mean':>8}{'variance':>10}{'':8}" * 2)
    for name, (sampler, steps) in several.items():
        print(f"{name:34}", *misses(sampler, steps), sep="")


compare(
    {
        "DPM-Solver++ 2M": (samplers.DPMSolverPP(), 40),
        "DDIM": (samplers.DDIM(), 40),
        "DDIM, corrected by Langevin": (samplers.PredictorCorrector(samplers.DDIM(), snr=0.4), 20),
        "Ancestral": (samplers.Ancestral(), 40),
        "EulerMaruyama": (samplers.EulerMaruyama(), 40),
        "ReverseSDE": (samplers.ReverseSDE(), 20),
        "AnnealedLangevin, 400 evaluations": (samplers.AnnealedLangevin(steps_per_level=10, epsilon=0.8), 40),
    }
)

# %% [markdown]
# The two samplers without noise keep the error of the start; the others lose nearly all of it. From the right start all have
# the right mean, but at this number of steps the variance of DDIM, Ancestral and ReverseSDE is too small.
# `PredictorCorrector` corrects any sampler by Langevin steps, for one more evaluation in each step. Annealed Langevin
# dynamics, the oldest of them, takes ten times the evaluations and its variance is still too large.
#
# The amount of noise can be chosen: `ReverseSDE` has the setting `noise`. And `Switch` uses one sampler above a noise level
# and another below it, such as a stochastic one first and a deterministic one at the end.

# %%
dial = {f"ReverseSDE, noise = {noise}": (samplers.ReverseSDE(noise=noise), 10) for noise in (0.0, 0.5, 1.0, 2.0)}
compare(dial | {"ReverseSDE, from t = 0.3 Heun": (samplers.Switch(samplers.ReverseSDE(), samplers.Heun(), t=0.3), 10)})

# %% [markdown]
# More noise removes more of the start's error, but at ten steps much noise makes the variance wrong. The switch removes
# nearly as much as `noise = 1`, with about half its error of the variance.
#
# ## From data to noise
#
# A deterministic sampler can be run backwards: `jd.samplers.invert` takes the same steps from data to noise, and finds the
# noise from which an example would be sampled. `jd.encode` and `jd.decode` do so with the adaptive solver.

# %%
pet = jd.data.cat(jax.random.key(9), 500)


def there_and_back(sampler, steps):
    noise = samplers.invert(cat, pet, sampler, steps)
    back = jd.sample(jax.random.key(0), cat, pet.shape, sampler, steps, t_end=1e-5, x_start=noise)
    return noise, back


trips = {"DDIM, 50 steps": there_and_back(samplers.DDIM(), 50), "Heun, 25 steps": there_and_back(samplers.Heun(), 25)}
latent = jd.encode(cat, pet)
trips["encode, decode"] = latent, jd.decode(cat, latent)
for name, (_, back) in trips.items():
    print(f"{name:16} misses by {np.median(np.linalg.norm(back - pet, axis=1)):.1e} in the median")


def halves(x):
    left = np.asarray(pet[:, 0] < 0)
    return [Points(x[left]), Points(x[~left], color=ORANGE)]


back = {f"back: {name}": halves(trips[name][1]) for name in ("DDIM, 50 steps", "encode, decode")}
panels({"a cat": halves(pet), "its noise": halves(latent)} | back)

# %% [markdown]
# The noise of a cat looks like any other noise, but its left half is still on the left: the flow is continuous, so that
# neighbours stay neighbours.
#
# ## Guidance
#
# The two Gaussians are two classes now, and the label is `cond`. `ClassifierFree` combines the predictions with the label and
# without it: scale 0 ignores the label, 1 is the conditional model, and above 1 the label is exaggerated. The density of
# class 1, which samples should follow, is blue.

# %%
n = 2000
label = jax.numpy.ones(n, int)


def noisy_classifier(x, t, label):
    return pair.log_responsibilities(x, t)[np.arange(len(x)), label]


def clean_classifier(x, label):
    return noisy_classifier(x, 0.0, label)


guided = {f"scale {scale:g}": guidance.ClassifierFree(pair, scale) for scale in (0.0, 1.0, 4.0)}
guided["scale 4, where 0.3 < σ/α < 3"] = guidance.ClassifierFree(pair, guidance.Interval(4.0, low=0.3, high=3.0))
guided["CFG++, scale 0.1"] = guidance.ClassifierFreePP(pair, 0.1)
guided["CFG++, scale 0.6"] = guidance.ClassifierFreePP(pair, 0.6)
guided["Classifier, scale 1"] = guidance.Classifier(pair, noisy_classifier, 1.0)
guided["TweedieClassifier, scale 1"] = guidance.TweedieClassifier(pair, clean_classifier, 1.0)
drawn = {
    name: jd.sample(jax.random.key(10), denoiser, (n, 2), samplers.DDIM(), 50, cond=label)
    for name, denoiser in guided.items()
}

print(f"{'class 1 itself':28}  mean ({means[1, 0]:.2f}, {means[1, 1]:.2f})  variance {np.trace(covariances[1]):.2f}")
for name, x in drawn.items():
    a, b = np.mean(x, 0)
    print(f"{name:28}  mean ({a:.2f}, {b:.2f})  variance {np.var(x, 0).sum():.2f}")

behind = Density(lambda x: pair.log_prob(x, cond=1))
panels({name: [behind, Points(x, color=ORANGE)] for name, x in drawn.items()}, extent=3.0)

# %% [markdown]
# Scale 1 is the class, a little too narrow, as DDIM was above. Scale 4 goes beyond it, to where class 1 is most unlike
# class 0, and loses variety. Guidance at the middle noise levels only moves the mean less, but gives no variety back here.
# CFG++ has a scale from 0 to 1; at 50 steps its 0.6 has more effect than a scale of 4.
#
# The classifiers turn an unconditional model into a conditional one. The exact classifier of noised data at scale 1 is
# Bayes' rule, and gives the numbers of scale 1 above. `TweedieClassifier` applies a classifier of clean data to the
# denoiser's prediction. This is an approximation, and here it shows: many points end on an arc between the classes.
#
# ## One model, another process
#
# The cat's denoiser belongs to `VP`. `OnProcess` makes it a denoiser of any other process, and does the same for a network
# that was trained on `VP`. All three panels are drawn with the same key.

# %%
processes = {"VP": process, "VE": jd.VE(), "Flow": jd.Flow()}
panels(
    {
        f"on {name}, 2M, 20 steps": draw(jd.denoisers.OnProcess(cat, other), samplers.DPMSolverPP(), 20)
        for name, other in processes.items()
    }
)

# %% [markdown]
# The three cats are the same but for the error of 20 steps: all these processes have the same probability flow.
#
# ## So which?
#
# - To begin with: DPM-Solver++ 2M, 20 to 50 steps. With little time: UniPC or 3M, 15 steps.
# - For a denoiser with errors, if there is time: `EulerMaruyama`, which has the smallest errors above, a corrector, or a
#   `Switch`.
# - From data to noise: `encode`, or `invert` with Heun.
# - Guidance: begin with scale 1, and raise it while you look at the variety.
#
# ## Your turn
#
# Put your own denoiser in the place of `pair` and `cat`: every line works as it is, except those that need the exact
# density. Try `samplers.Heun(churn=20)`, another grid from `jd.grids`, or a start that is wrong by 3.
