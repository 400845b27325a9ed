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
# # Inverse problems
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/inverse_problems.ipynb)
#
# A diffusion model knows what data look like. A measurement $y = A(x_0) + s\,n$ says a part of what one example looks like:
# a blurred picture, a picture with a hole, the magnitudes of its Fourier transform. Together they give the posterior
# $p(x_0 \mid y)$, and a model that was trained once, without any measurement, can draw from it. This notebook takes one
# to two minutes on two idle cores and shows
#
# 1. guidance by a measurement beside an exact posterior,
# 2. digits deblurred, and completed from their upper half,
# 3. an operator that differs by example,
# 4. measurements that are not linear,
# 5. noise of unknown size,
# 6. a classifier as a measurement: sevens from a model that never saw a label.

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
from jaxdiff.plotting import ORANGE, Points, panels, strip
from sklearn.linear_model import LogisticRegression

guidance, operators, samplers = jd.guidance, jd.guidance.operators, jd.samplers

# %% [markdown]
# ## 1. A measurement in the plane
#
# Points lie on one of eight Gaussians, and what is measured is the sum of their two coordinates, with noise of standard
# deviation $s = 0.2$. Given $y$, a mixture of Gaussians is again a mixture of Gaussians: the exact posterior is known.
#
# `Observed(denoiser, operator, noise_std)` is a denoiser of $p(x_0 \mid y)$: every sampler takes it, and `cond` is $y$. It
# moves the prediction $\hat x_0 = E[x_0 \mid x_t]$ by
#
# $$W H^\top (s^2 I + H U H^\top)^{-1} (y - A(\hat x_0)),$$
#
# where $H$ is the derivative of $A$, and $U$ says how far the data may still be from $\hat x_0$. The methods of the
# literature differ in $W$ and $U$, the `spread`: `Moment()` uses the model's own covariance, from the derivative of the
# network, and is exact for Gaussian data. `Isotropic` takes a multiple of the identity, and `Proximal` needs no derivative.

# %%
process = jd.VP()
angles = np.arange(8) * np.pi / 4
means, width = np.stack([np.cos(angles), np.sin(angles)], 1), 0.01
prior = jd.exact.Mixture(process, np.ones(8), means, width * np.tile(np.eye(2), (8, 1, 1)))

s, y = 0.2, 0.6
row = np.ones((1, 2))  # the sum, as a matrix
gain = width * row.T / (2 * width + s**2)
left = means @ row.T - y
weights = np.exp(-(left[:, 0] ** 2) / (2 * (2 * width + s**2)))
covariance = width * (np.eye(2) - gain @ row)
posterior = jd.exact.Mixture(process, weights + 1e-30, means - left @ gain.T, np.tile(covariance, (8, 1, 1)))

n = 1000


def draw(denoiser, cond=None, seed=0):
    return jd.sample(jax.random.key(seed), denoiser, (n, 2), samplers.Ancestral(), steps=100, cond=cond)


def measure(x):
    return x.sum(keepdims=True)


spreads = {
    "Moment": guidance.Moment(),
    "Isotropic": guidance.Isotropic(0.7),
    "Proximal": guidance.Proximal(1.0),
}
given = np.full((n, 1), y, np.float32)
truth = draw(posterior)
drawn = {"exact, again": draw(posterior, seed=1)}
for name, spread in spreads.items():
    drawn[name] = draw(guidance.Observed(prior, measure, s, spread), given, seed=1)
apart = {name: jd.metrics.sliced_wasserstein(jax.random.key(1), x, truth).value for name, x in drawn.items()}
panels(
    {"prior": Points(draw(prior)), "exact posterior": Points(truth, ORANGE)}
    | {f"{name}: {apart[name]:.3f}": Points(x) for name, x in drawn.items()},
    columns=3,
)

# %% [markdown]
# The numbers are sliced Wasserstein distances to the exact posterior; that of a second draw of it is the floor. A mixture
# is not Gaussian, so that no row is exact here: at high noise, where the mode is decided, each takes one Gaussian for what
# is a mixture. Measure before you believe.
#
# ## 2. Digits
#
# A small network, trained on whole digits for less than a minute. It will see no measurement in training.

# %%
config = jd.runs.Config(
    data="digits",
    network="unet(channels=(16, 32), blocks=1)",
    steps=450,
    batch_size=32,
    learning_rate=5e-3,
    ema_decay=0.99,
)
with tempfile.TemporaryDirectory() as folder:
    digits = jd.runs.train(config, folder, progress=False, pictures=0).denoiser
test = jd.data.load_digits("test")
truth = np.asarray(digits.process.clean(test.image[:10], test.levels), np.float32)
rng = np.random.default_rng(0)


def measured(operator, x0, noise_std=0.1):
    y = np.asarray(jax.vmap(operator)(x0))
    return (y + noise_std * rng.standard_normal(y.shape)).astype(np.float32)


def solve(denoiser, cond, sampler=samplers.Ancestral(), seed=0):
    return jd.sample(jax.random.key(seed), denoiser, (10, 8, 8, 1), sampler, steps=30, cond=cond)


# %% [markdown]
# Two linear measurements: a blur, and the upper half. Below each measurement are two draws of what the digit may have
# been. Where the measurement says little, as below the upper half, draws differ: that is what a posterior is for.
#
# `operators.masked` takes its mask beside $y$. The spread is `Isotropic(0.5)`, for pixels with a standard deviation of
# about 0.5. It takes one product with the network's derivative, where `Moment` takes one in every iteration of a linear
# solver.

# %%
spread = guidance.Isotropic(0.5)
blur = operators.blur(np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]) / 81)
deblurring = guidance.Observed(digits, blur, 0.1, spread)
painting = guidance.Observed(digits, operators.masked, 0.1, spread)


def masked(mask):
    """The digits where the mask is true, with noise, as a cond of `painting`."""
    y = np.where(mask, truth + 0.1 * rng.standard_normal(truth.shape), 0)
    return {"y": y.astype(np.float32), "operator": np.broadcast_to(mask, truth.shape)}


upper = np.arange(8).reshape(8, 1, 1) < 4
blurred, half = measured(blur, truth), masked(upper)
rows = {
    "digit": truth,
    "blurred": blurred,
    "a draw": solve(deblurring, blurred),
    "another draw": solve(deblurring, blurred, seed=1),
    "upper half": half["y"],
    "a draw of the whole": solve(painting, half),
    "another of the whole": solve(painting, half, seed=1),
}
strip(jnp.stack(list(rows.values())), names=list(rows))

# %% [markdown]
# For values that are known without noise there is an older way, `RePaint`: a sampler that puts the known values back at
# every level, noised to it, and goes back and forth between two levels so that the rest can adapt. It costs `repeats`
# times as many evaluations. What is known comes as `cond`.

# %%
known = {"known": truth, "mask": upper}
strip(jnp.stack([truth, solve(digits, known, samplers.RePaint())]), names=["digit", "RePaint"])

# %% [markdown]
# ## 3. An operator that differs by example
#
# What travels beside $y$ may differ by example. Here every digit misses another block of 4 by 4 pixels. Other masks, noise
# levels and scales run the same compiled program.

# %%
corner = rng.integers(0, 5, (10, 2))
index = np.arange(8)
inside = (index >= corner[:, :, None]) & (index < corner[:, :, None] + 4)
missing = masked(~(inside[:, 0, :, None] & inside[:, 1, None, :])[..., None])
strip(jnp.stack([truth, missing["y"], solve(painting, missing)]), names=["digit", "measured", "a draw"])

# %% [markdown]
# ## 4. Measurements that are not linear
#
# An operator may be any function. `Observed` linearises it at the present prediction, which is right where it is nearly
# linear over what is still uncertain: for pictures whose cosine transform was rounded, as in JPEG, it works well. The
# magnitudes of a Fourier transform are far from linear; a digit and the same digit turned around have equal ones. `DAPS`
# draws $x_0$ anew at every level by Langevin steps, and may correct at one level what went wrong at another.

# %%
step = 0.5
rounded, magnitudes = operators.quantise(step, block=4), operators.phase_retrieval()
noise = step / 12**0.5  # the standard deviation of rounding
y_rounded, y_magnitudes = measured(rounded, truth, noise), measured(magnitudes, truth, 0.1)
by_observed = solve(guidance.Observed(digits, rounded, noise, spread), y_rounded)
by_daps = solve(digits, y_magnitudes, samplers.DAPS(magnitudes, 0.1, inner=samplers.LangevinDraw()))

for name, operator, x, y, noise_std in (
    ("rounded, by Observed", rounded, by_observed, y_rounded, noise),
    ("magnitudes, by DAPS", magnitudes, by_daps, y_magnitudes, 0.1),
):
    away = jnp.sqrt(jnp.mean((jax.vmap(operator)(x) - y) ** 2))
    print(f"{name:20}: draws miss the measurement by {away:.2f}, its noise is {noise_std:.2f}")
strip(jnp.stack([truth, by_observed, by_daps]), names=["digit", "rounded, by Observed", "magnitudes, by DAPS"])

# %% [markdown]
# ## 5. Noise of unknown size
#
# Guidance needs $s$. Where it is not known, `estimate_noise` finds the one under which the measurements are most probable,
# $\max_s \sum_i \log p(y_i)$: it draws $x_0$ under the present $s$, takes the mean square of $y - A(x_0)$ for the next
# $s^2$, and repeats (expectation and maximisation). Here are 64 digits, of which the means of blocks of four pixels are
# measured with noise 0.1, and a first guess that is three times too large.

# %%
many = np.asarray(digits.process.clean(test.image[:64], test.levels), np.float32)
y = measured(operators.average(2), many)
observed = guidance.Observed(digits, operators.average(2), noise_std=0.3, spread=spread)
found = samplers.estimate_noise(jax.random.key(0), observed, many.shape, y, rounds=10, steps=15)
print("rounds:", *(f"{s:.3f}" for s in found.rounds))
print(f"noise {found.noise_std:.3f} ± {found.standard_error:.3f}, settled: {found.converged}")

# %% [markdown]
# The standard error is that of the measurements and of the draws. What is wrong with the posterior is not in it: the model
# has not seen these digits, `Isotropic` is an approximation, and what both miss of $y$ counts as noise. On data of a known
# law and under `Moment` the estimate is right within its error (`experiments/inverse_problems.py`).
#
# ## 6. A classifier as a measurement
#
# A label measures a picture too. The model of digits was trained without labels. Here is a classifier of digits, a logistic
# regression of scikit-learn, which has never seen a noised picture. `TweedieClassifier` applies it to the prediction
# $\hat x_0$, and guides to sevens by the gradient of $\log p(y = 7 \mid \hat x_0)$ with respect to $x_t$.

# %%
train = jd.data.load_digits("train")
pixels = np.asarray(digits.process.clean(train.image, train.levels), np.float32).reshape(len(train.image), -1)
reader = LogisticRegression(max_iter=1000).fit(pixels, train.label)
weights, bias = reader.coef_.T.astype(np.float32), reader.intercept_.astype(np.float32)


def log_probability(x0, label):
    logits = x0.reshape(len(x0), -1) @ weights + bias
    return jax.nn.log_softmax(logits)[jnp.arange(len(x0)), label]


seven = np.full(10, 7)
by_scale = {scale: guidance.TweedieClassifier(digits, log_probability, scale) for scale in (0.0, 1.0, 3.0)}
strip(
    jnp.stack([solve(guided, seven) for guided in by_scale.values()]), names=[f"scale {scale:g}" for scale in by_scale]
)

# %% [markdown]
# At scale 0 the columns are any digits, at 1 most of them have become sevens, and at 3 nearly all. The classifier is
# applied to the mean of all digits that $x_t$ may come from, which is an approximation, as `Observed` is. A
# `jd.NoisyClassifier`, which is trained on noised pictures, reads $x_t$ itself. `conditioning.ipynb` continues with labels.
#
# ## Your turn
#
# Hide other parts of the digits, or measure only their sum. Give `Observed` a noise that is ten times too small and look at
# the draws. Write an operator of your own, any function of one picture, and try `Moment`, `Isotropic` and `Proximal` on it.
