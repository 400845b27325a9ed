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
# # The figures of the lectures
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/lectures.ipynb)
#
# Lectures and textbooks on diffusion models share a few figures. This notebook draws them from code, so that you can change
# a number and see what happens:
#
# 1. many $x_0$ for one $x_t$, and their mean
# 2. the density over $(x, t)$ in one dimension, with trajectories
# 3. Langevin dynamics on two Gaussians: where it fails, and how noise levels help
# 4. one-step denoising at every $t$
# 5. four steps: deterministic, stochastic and mixed
# 6. many outputs from one start
# 7. the score of real pictures
#
# Books write $z_t$ or $z_n$ for the noised data; here it is $x_t$, and $x_0$ is the data. Figures 1 to 3 and 7 use models
# whose denoiser is known in closed form. Figures 4 to 6 train a small network on digits. All of it takes one to
# two minutes on two idle cores.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxdiff.plotting import BLUE, DEPTHS, GREY, INK, ORANGE, Density, Paths, Picture, Points, panels, strip
from PIL import Image, ImageDraw, ImageFont

process = jd.VP()

# %% [markdown]
# ## 1. Many $x_0$ for one $x_t$, and their mean
#
# A noised point could have been made from many data points. The denoiser learns the mean of all of them,
# $\mathbb{E}[x_0 \mid x_t]$. We take 2,000 points of two moons as the whole data set. Then
# $p(x_0 \mid x_t)$ is a softmax over the data of $-|x_t - \alpha x_0|^2 / 2\sigma^2$, and can be sampled exactly.
#
# The cross is $x_t / \alpha$, the orange points are draws of $x_0$ given $x_t$, and the ring is their mean as the
# denoiser gives it.

# %%
moons = np.asarray(jd.data.two_moons(jax.random.key(0), 2000))
exact = jd.exact.Empirical(process, moons)
place = np.array([[0.1, 0.15]], np.float32)  # x_t / alpha, the same at every t


def posterior_draws(t, n=60):
    alpha, sigma = (float(c) for c in process.marginal(t))
    logits = -np.sum((alpha * place - alpha * moons) ** 2, axis=1) / (2 * sigma**2)
    chosen = jax.random.categorical(jax.random.key(1), jnp.asarray(logits), shape=(n,))
    mean = exact(jnp.asarray(alpha * place), t).data
    return moons[np.asarray(chosen)], np.asarray(mean)


def one_to_many(t):
    draws, mean = posterior_draws(t)
    lines = np.stack([np.broadcast_to(place, draws.shape), draws])
    return [Points(moons, color=GREY), Paths(lines, color=ORANGE)], mean


times = (0.05, 0.15, 0.3, 0.6)
drawn = {t: one_to_many(t) for t in times}
picture = panels({f"t = {t}": layers for t, (layers, _) in drawn.items()}, extent=1.7)
for axes, (_, mean) in zip(picture.axes, drawn.values()):
    axes.plot(*place.T, "x", color=INK, markersize=8, markeredgewidth=2)
    axes.plot(*mean.T, "o", color="white", markeredgecolor=BLUE, markersize=9, markeredgewidth=2.5)
picture

# %% [markdown]
# With little noise there is only one moon that $x_t$ can have come from, and the mean lies on it. With more noise both
# moons are possible and the mean lies between them, where there are no data at all. This is why one-step denoising gives
# blurred pictures, and why sampling takes several steps.
#
# ## 2. The density over $(x, t)$, with trajectories
#
# Three Gaussians on a line. Each column of the picture is the density $p_t(x)$, and time runs from data on the left to
# noise on the right. Paths of the probability flow never cross. Paths of the reverse SDE do, and have the same density at
# every $t$.

# %%
line = jd.exact.Mixture(process, [0.25, 0.45, 0.3], [[-1.5], [0.2], [1.6]], [[[0.02]], [[0.05]], [[0.03]]])
steps = 300
t = np.linspace(0, 1, steps + 1, dtype=np.float32)


def paths_back(noise):
    sampler = jd.samplers.EulerMaruyama(noise=noise)
    return jd.sample(jax.random.key(2), line, (30, 1), sampler, steps, grid=jd.grids.Time(), trajectory=True)[::-1]


height = np.linspace(-3, 3, 161, dtype=np.float32)
across, up = (a.ravel() for a in np.meshgrid(t[3::3], height))
density = np.exp(line.log_prob(up[:, None], across)).reshape(len(height), -1)

picture = Picture(10.5, 3.4)
picture.set_layout_engine("constrained")
both = {"the probability flow": paths_back(0.0), "the reverse SDE": paths_back(1.0)}
for axes, (name, x) in zip(picture.subplots(1, 2, sharey=True), both.items()):
    shown = axes.imshow(density, cmap=DEPTHS, vmax=1.0, origin="lower", extent=(0, 1, -3, 3), aspect="auto")
    axes.plot(t, np.asarray(x)[..., 0], color=ORANGE, linewidth=0.6)
    axes.set_title(name, loc="left", size=10, color=INK)
    axes.set(xlabel="t", ylabel="x" if name.endswith("flow") else "", ylim=(-3, 3))
picture.colorbar(shown, ax=picture.axes, extend="max", label="density $p_t(x)$")
picture

# %% [markdown]
# ## 3. Langevin dynamics on two Gaussians, and noise levels
#
# Langevin dynamics needs nothing but the score, $\nabla \log p(x)$. Here it is given the exact score of two Gaussians, of
# which the upper right has 80 % of the probability (Song and Ermon 2019, section 3.2). It still fails: between the two
# the density is practically 0, so that a chain in one of them never reaches the other, and each keeps the half of the chains
# that started near it. The number over each panel is the share of points in the upper right.
#
# Noise fills the gap. Annealed Langevin dynamics begins with so much noise that the two Gaussians are one, and lowers the
# noise level by level, in 1,000 steps as before. Chains choose their Gaussian while the two still overlap.

# %%
means, shares = np.array([[-1.3, -1.3], [1.3, 1.3]]), np.array([0.2, 0.8])
levels = jd.VE(sigma_min=0.05, sigma_max=5.0)
two = jd.exact.Mixture(levels, shares, means, np.tile(0.05 * np.eye(2), (2, 1, 1)))
start = jax.random.uniform(jax.random.key(3), (1280, 2), minval=-2.5, maxval=2.5)

plain = jd.samplers.langevin(jax.random.key(4), lambda x: jd.score(two, x, 0.0), start, step_size=0.02, steps=1000)
annealed = jd.sample(jax.random.key(5), two, start.shape, jd.samplers.AnnealedLangevin(steps_per_level=40), steps=25)
truth = jax.random.choice(jax.random.key(6), jnp.asarray(means), (1280,), p=jnp.asarray(shares))
truth += 0.05**0.5 * jax.random.normal(jax.random.key(7), truth.shape)


chains = {"the two Gaussians": truth, "Langevin": plain, "annealed Langevin": annealed}
behind = Density(lambda x: two.log_prob(x))
in_upper = {name: float((x.sum(1) > 0).mean()) for name, x in chains.items()}
panels({f"{name}: {in_upper[name]:.0%}": [behind, Points(x, color=ORANGE)] for name, x in chains.items()}, columns=3)

# %% [markdown]
# ## 4. One-step denoising at every $t$
#
# Now a network, trained on 1,000 handwritten digits of 8 x 8 pixels. One digit is noised to each $t$ (upper row) and
# denoised in a single step (lower row): the network's prediction of $\mathbb{E}[x_0 \mid x_t]$.

# %%
with tempfile.TemporaryDirectory() as folder:
    config = jd.runs.Config(
        data="digits",
        network="unet(channels=(16, 32), blocks=1)",
        steps=400,
        batch_size=32,
        learning_rate=5e-3,
        ema_decay=0.99,
    )
    digits = jd.runs.train(config, folder, progress=False, pictures=0).denoiser

test = jd.data.load_digits("test")
shape = (1, 8, 8, 1)
four = jd.dequantize(jax.random.key(8), test.image[test.label == 4][:1], test.levels)
times = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], np.float32)
noised, _ = jd.perturb(jax.random.key(9), process, jnp.repeat(four, len(times), 0), times)
strip(jnp.stack([noised, digits(noised, times).data]), times=times, names=["x_t", "E[x_0 | x_t]"])

# %% [markdown]
# With little noise the prediction is the four. From $t$ of about 0.3 on it is blurred, since more and more digits fit $x_t$.
# At $t = 1$ nothing is left of the four, and the prediction is the mean of all digits.
#
# ## 5. Four steps: deterministic, stochastic and mixed
#
# Sampling from pure noise in only four steps. Deterministic: each step keeps the noise that the network predicts (DDIM,
# $\eta = 0$). Stochastic: each step replaces much of it by new noise ($\eta = 1$, ancestral sampling). Mixed: $\eta = 0.5$,
# or first stochastic, then deterministic. The columns are $x_t$ after each step; the last is the sample.

# %%
samplers = {
    "η = 0": jd.samplers.DDIM(eta=0.0),
    "η = 1": jd.samplers.DDIM(eta=1.0),
    "η = 0.5": jd.samplers.DDIM(eta=0.5),
    "η = 1, then 0": jd.samplers.Switch(jd.samplers.DDIM(eta=1.0), jd.samplers.DDIM(eta=0.0), t=0.5),
}
begin = jax.random.normal(jax.random.key(10), shape)


def four_steps(sampler):
    path = jd.sample(jax.random.key(11), digits, shape, sampler, 4, x_start=begin, trajectory=True)
    return path[:, 0]


strip(jnp.stack([four_steps(sampler) for sampler in samplers.values()]), names=list(samplers))

# %% [markdown]
# All rows start from the same noise. To see which of them gives the best digits takes many samples: here is the Fréchet
# distance of 300 samples to the training digits, in the space of pixels, at 4 and at 16 steps.

# %%
train = jd.data.load_digits("train")
real = np.asarray(jd.dequantize(jax.random.key(12), train.image, train.levels)).reshape(len(train.image), -1)


def distance(sampler, steps):
    x = jd.sample(jax.random.key(13), digits, (300, 8, 8, 1), sampler, steps)
    found = jd.metrics.frechet_distance(np.asarray(x).reshape(300, -1), real)
    return f"{found.value:8.2f} ± {found.standard_error:.2f}"


table = [f"{name:16}{distance(sampler, 4)}{distance(sampler, 16)}" for name, sampler in samplers.items()]
print(f"{'':16}{'4 steps':>15}{'16 steps':>15}", *table, sep="\n")

# %% [markdown]
# With few steps the deterministic sampler is best: a large step with new noise loses more of the prediction. With more steps
# the difference shrinks.
#
# ## 6. Many outputs from one start
#
# The reverse SDE adds noise during sampling, so that one start has many ends. How different they are depends on the $t$ of
# the start. Each row starts from one $x_t$, the four above noised to that $t$, and is sampled eight times with different
# noise. The first column is the start.


# %%
def many_ends(t, n=8):
    x_t, _ = jd.perturb(jax.random.key(14), process, four, t)
    same = jnp.repeat(x_t, n, 0)
    ends = jd.sample(jax.random.key(15), digits, same.shape, jd.samplers.Ancestral(), 50, x_start=same, t_start=t)
    return jnp.concatenate([x_t, ends])


starts = (0.1, 0.2, 0.3, 0.4, 1.0)
strip(jnp.stack([many_ends(t) for t in starts]), names=[f"t = {t}" for t in starts])

# %% [markdown]
# From $t = 0.1$ all ends are the four. The higher the start, the less of it they keep, and from $t = 1$ they are any digit.
# Every row uses the same noise, so that a column shows one path from several starts. SDEdit and other ways of editing
# pictures with a diffusion model choose this $t$.
#
# ## 7. The score of real pictures
#
# What does a score look like for pictures? The data set is the ten cats among the emoji. A sum over them gives the exact
# score of the noised data set, $\nabla \log p_t(x)$, one number for every pixel and colour. The columns are the noise levels
# σ = 0.05, 0.2, 0.5, 1, 5, 10, 20, 40 and 100. The rows are a noised cat, its score times σ (grey is 0), and
# $x + \sigma^2 \nabla \log p_t(x)$, which is $\mathbb{E}[x_0 \mid x_t]$ by Tweedie's formula.

# %%
fonts = sorted(Path("/usr/share/fonts").rglob("NotoColorEmoji.ttf"))


def emoji(character, size=32):
    page = Image.new("RGB", (136, 136), "white")
    font = ImageFont.truetype(fonts[0], 109)  # the one size that the font has
    ImageDraw.Draw(page).text((0, 4), character, font=font, embedded_color=True)
    return np.asarray(page.resize((size, size), Image.Resampling.BOX), np.float32) / 127.5 - 1


if fonts:
    pictures = np.stack([emoji(cat) for cat in "😺😸😹😻😼😽🙀😿😾🐱"])
else:
    print("the font NotoColorEmoji is not here (apt install fonts-noto-color-emoji): ten digits in place of the cats")
    pictures = np.asarray(2 * train.image[:10] / (train.levels - 1) - 1, np.float32)

noise_levels = jd.VE(sigma_min=0.01, sigma_max=100.0)
data = jd.exact.Empirical(noise_levels, pictures.reshape(len(pictures), -1))
sigmas = np.array([0.05, 0.2, 0.5, 1.0, 5.0, 10.0, 20.0, 40.0, 100.0], np.float32)
times = noise_levels.time_at_log_snr(-2 * np.log(sigmas))

clean = jnp.repeat(pictures[:1].reshape(1, -1), len(sigmas), 0)
x, _ = jd.perturb(jax.random.key(16), noise_levels, clean, times)
score = jd.score(data, x, times)
width = sigmas[:, None]
rows = [x / np.maximum(1, width), score * width / 3, x + width**2 * score]
names = ["x_t", "score", "E[x_0 | x_t]"]
strip(jnp.stack([row.reshape(-1, *pictures.shape[1:]) for row in rows]), names=names)

# %% [markdown]
# The score looks like noise, because it is the best estimate of the noise that was added, with its sign changed. It points
# from the noised picture to a mean of clean ones. While σ is small compared with the distance between two pictures, which in
# 3,072 dimensions is large, this is the one cat. At the largest σ it is the mean of all cats.
#
# ## Your turn
#
# Move `place` in figure 1, give the two Gaussians of figure 3 more distance, or take other emoji in figure 7. Conditions
# and guidance have [their own notebook](conditioning.ipynb), samplers [theirs](samplers.ipynb).
