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
# # How probable is this picture?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/likelihood.ipynb)
#
# A diffusion model draws pictures, and also tells how probable a picture is. Here a small model learns handwritten digits, and
# scores digits that it has not seen: how many bits they need, how certain this number is, and which of them are likely. Then
# it scores pictures that are no digits, which shows how far a likelihood can be trusted to tell them from digits.
#
# It takes one to two minutes on two idle cores and needs no GPU.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import tempfile

import jax
import numpy as np
from jaxdiff.plotting import BLUE, GREY, ORANGE, Picture, lines, sample_grid, strip

# %% [markdown]
# ## A small model of digits
#
# The digits have 8 x 8 pixels of 17 grey levels. A thousand of them are for training, and 96 others are scored. A
# density needs numbers on a line, not integers: `dequantize` puts every pixel somewhere in its level, at random and anew
# in each training step, and the 17 levels side by side fill [-1, 1].

# %%
test = jd.data.load_digits("test")
digits = test.image[:96]


def model_values(images):
    return 2 * (images + 0.5) / test.levels - 1


config = jd.runs.Config(
    data="digits",
    network="unet(channels=(16, 32), blocks=1)",
    steps=450,
    batch_size=32,
    learning_rate=5e-3,
    ema_decay=0.99,
)
with tempfile.TemporaryDirectory() as folder:
    denoiser = jd.runs.train(config, folder, progress=False, pictures=0).denoiser

sample_grid(jd.sample(jax.random.key(2), denoiser, (16, 8, 8, 1), steps=15), columns=16)

# %% [markdown]
# Longer training gives better digits (`jaxdiff demo` does), but these are good enough here.
#
# ## Bits per dimension
#
# The probability flow connects data and noise. Following it from a picture to its noise gives the model's density at that
# picture. The mean of its logarithm over the random places of the pixels in their levels is a lower bound on the
# log-probability of the integers. Its negative, to base 2, is the number of bits that a code built on this model needs for the
# picture; divided by the 64 pixels, it is bits per dimension. Without any knowledge of digits it is $\log_2 17 = 4.09$. Lower
# is better.

# %%
flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
settings = {"levels": test.levels, "flow": flow, "trace": jd.likelihood.Hutchinson(2), "batch_size": 32}
report = jd.bits_per_dim(jax.random.key(3), denoiser, digits, budget=32, **settings)
print(report)

# %% [markdown]
# The first line is the result with its standard error, and its cost: `evaluations` is the number of evaluations of the
# network for each picture. The budget follows: where the error comes from, and so how to reduce it.
#
# Three parts make up the standard error; their squares add up to its square:
#
# - **images**: some pictures need more bits than others. Only more pictures reduce this part.
# - **dequantisation**: every picture was evaluated at one random place in its levels, and another place gives another number.
# - **trace**: the flow's change of volume is a sum over all pixels, and is estimated from random probes, here two for each
#   picture. The estimate is unbiased; more `probes` make it less noisy.
#
# The other lines are systematic errors, which repeating would not show. Each is the change under a better computation:
#
# - **solver**: the mean at tolerances ten times finer, with the same pictures and the same noise.
# - **truncation**: the flow starts at a small $t$ and ignores the little noise that is there. This is the change if there
#   were none, extrapolated from twice that noise.
# - **arithmetic**: the change in full precision; zero here, since a CPU always computes in it.
# - **prior**: at $t = 1$ a trace of the picture is left, which the prior ignores.
# - **round trip**: pictures are encoded and decoded; this is the largest error of any pixel.
# - **bound**: the variational bound, computed without a flow, from the denoising error at random noise levels. It bounds the
#   bits of a slightly different model, that of the reverse SDE, and may be on either side of the flow's. A large difference
#   would be a sign of an error.

# %%
budget = report.budget
noise = {"images": budget.images, "dequantisation": budget.dequantisation, "trace": budget.trace}
shifts = {"solver": abs(budget.solver.mean), "truncation": abs(budget.truncation.mean), "prior": budget.prior}

picture = Picture(6.4, 2.6)
picture.set_layout_engine("constrained")
axes = picture.subplots()
for bars, color in ((noise, BLUE), (shifts, ORANGE)):
    axes.barh(list(bars), list(bars.values()), color=color, height=0.6)
axes.axvline(report.standard_error, color=GREY, linestyle="--", linewidth=1)
axes.set_title("standard error", loc="right", color=GREY, size=9)
axes.set(xscale="log", xlabel="bits/dim (log scale)", ylabel="where the error comes from")
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
picture

# %% [markdown]
# The systematic errors (orange) are far below the standard error, to which all three parts contribute. So finer tolerances
# would be wasted on this number. More digits would improve it, and so would more probes.
#
# ## Which digits are likely?
#
# A single estimate is too noisy to order pictures: by the budget, dequantisation and trace together vary nearly as much as
# pictures do. So each digit gets four estimates, with different keys.

# %%
estimates = [report.per_example] + [
    jd.bits_per_dim(jax.random.key(seed), denoiser, digits, budget=0, **settings).per_example for seed in (4, 5, 6)
]
bits = np.mean(estimates, axis=0)
order = np.argsort(bits)

ends = {"likeliest": order[:10], "unlikeliest": order[-10:]}
for name, index in ends.items():
    print(f"{name:12}", *(f"{b:.2f}" for b in bits[index]))
strip(model_values(digits[np.stack(list(ends.values()))]), names=list(ends))

# %% [markdown]
# The likeliest are plain strokes, white on black. The unlikeliest are tangled and grey. A likelihood does not measure how good
# the handwriting is, but how well the model can compress the picture, and plain strokes compress well (Serrà et al. 2020).
#
# ## Does it know what is not a digit?
#
# Can we conclude that a picture of many bits is not a digit? Here are thirty-two digits, and changed versions of them. The
# last column is the share of all pairs in which the changed picture takes more bits than the digit: 50 % would be chance,
# and 100 % a perfect detector.

# %%
some = digits[:32].astype(int)
rng = np.random.default_rng(0)
padded = np.pad(some, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
changed = {
    "digits": some,
    "a pixel to the right": np.roll(some, 1, axis=2),
    "upside down": some[:, ::-1],
    "upper half only": np.where(np.arange(8).reshape(8, 1, 1) < 4, some, 0),
    "half the contrast": some // 2,
    "blurred": sum(padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)) // 9,
    "inverted": 16 - some,
    "noise": rng.integers(0, 17, some.shape),
    "one grey": np.arange(32).reshape(32, 1, 1, 1) % 17 + np.zeros_like(some),
}
asked = jd.bits_per_dim(jax.random.key(7), denoiser, np.concatenate(list(changed.values())), budget=0, **settings)
answers = dict(zip(changed, asked.per_example.reshape(len(changed), 32)))
for name, answer in answers.items():
    above = (answer[:, None] > answers["digits"]).mean()
    spread = f"from {answer.min():.2f} to {answer.max():.2f}"
    print(f"{name:21}{answer.mean():5.2f} bits/dim, {spread}; above a digit {above:5.0%}")
strip(model_values(np.stack([images[:10] for images in changed.values()])), names=list(changed))

# %% [markdown]
# Blurred and inverted digits and noise are always detected, plain greys nearly always. Do not rely on it: a model of small
# photographs of animals and cars finds photographs of house numbers likelier than its own test pictures, as they are
# smoother (Nalisnick et al. 2019). Our digits have hard edges, so that here it is smooth pictures that are unlike the data.
#
# But turn a digit upside down, which a child would notice, and in three of ten pairs it takes fewer bits than an upright
# digit; for half digits it is one in three. The differences between digits are larger than what the change costs.
# The means of many pictures are clearly apart; the bits of a single picture say little.
#
# ## The likeliest picture is not typical
#
# One reason is that the likeliest pictures are not typical ones. To find pictures that are likelier than any digit, encode
# some digits, shrink their noise, and decode it. Shorter noise is likelier noise. The numbers are the density at the picture
# itself, in the same units as above.

# %%
per_dim = 64 * np.log(2)
x = jd.dequantize(jax.random.key(8), digits[:32], test.levels)
factors = np.array([1.0, 0.7, 0.4, 0.0])
z = jd.encode(denoiser, x, flow=flow)[:8]
shrunk = jd.decode(denoiser, (factors.reshape(4, 1, 1, 1, 1) * z).reshape(x.shape), flow=flow)
found = jd.log_likelihood(jax.random.key(9), denoiser, shrunk, flow=flow)
density = np.log2(test.levels / 2) - np.asarray(found.log_prob).reshape(4, 8) / per_dim

for factor, values in zip(factors, density):
    print(f"noise times {factor:.1f}: {values.mean():5.2f} bits/dim, from {values.min():5.2f} to {values.max():5.2f}")
strip(shrunk.reshape(4, 8, 8, 8, 1), names=[f"noise times {factor:.1f}" for factor in factors])

# %% [markdown]
# A little less than half the noise, and every picture takes fewer bits than any of the digits above it. They are smoother
# and fainter. With no noise at all they are one and the same picture, which nobody wrote (its bits differ by the probes
# only), and still likelier than all that we have of real ones. It is not the likeliest of these rows, although no noise is
# likelier than zero: the density of a picture also counts how far the flow has stretched space on its way.
#
# This is not an error of the model. Noise of 64 numbers has a length close to $\sqrt{64} = 8$ and practically never one
# below 5, although zero is its likeliest value, because there is much more volume further out. In the same way, samples come
# from where there are many pictures, not from where a single one is likeliest. In models of photographs, the likeliest
# pictures are cartoons and blurs (Karczewski et al. 2025). A likelihood compares models on the same pictures. It does not
# detect what is new, and it does not measure quality.
#
# ## How the error falls
#
# Back to the mean over all digits, and how to make it more precise. Left: the standard error that the probes cause in one
# picture, measured by ten estimates at one place in the levels. Right: the standard error of the mean over a number of
# pictures, with one and with four estimates of each.

# %%
probed = np.stack(
    [jd.log_likelihood(jax.random.key(seed), denoiser, x, flow=flow).log_prob / per_dim for seed in range(10, 20)]
)
probes, counts = np.array([1, 2, 5]), np.array([6, 12, 24, 48, 96])


def error_of_probes(m):
    means = probed.reshape(10 // m, m, 32).mean(1)
    return np.sqrt(means.var(axis=0, ddof=1).mean())


def error_of_mean(values):
    return np.array([values[:n].std(ddof=1) / n**0.5 for n in counts])


lines(
    {
        "error of one picture": {"probes": (probes, [error_of_probes(m) for m in probes])},
        "error of the mean": {
            "pictures": (counts, error_of_mean(estimates[0])),
            "pictures, four times each": (counts, error_of_mean(bits)),
        },
    },
    x="how many",
    y="bits/dim",
)

# %% [markdown]
# Both fall like one over the square root: four times as many halve the error. Four estimates of each picture cost as much as
# four times the pictures, and gain less, since the differences between pictures remain: if there are more pictures, take
# them. `bits_per_dim(target_error=...)` does so, first more pictures and then more estimates, and stops when the error is
# small enough.
#
# ## Your turn
#
# Train for longer, or set `trace=jd.likelihood.Exact()`: which line of the budget becomes zero, and what does it cost?
# Train on the zeros alone, by `data=None` in the config and `jd.runs.train(config, folder, data=zeros)`, and score the ones.
# A run of the command line can be scored in the same way: `denoiser = jd.runs.load("runs/demo").denoiser`.
