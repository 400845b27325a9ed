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
# A diffusion model draws pictures, and it can also say how probable a picture is. Here a small model learns handwritten
# digits, and we ask it about digits that it has not seen: how many bits it needs for them, how sure we can be of that
# number, and which of them it finds likely. Then we show it what is no digit at all, and see how far a likelihood can be
# trusted to tell.
#
# It takes a minute or two on a laptop and needs no GPU.

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
# The digits have 8 x 8 pixels of 17 grey levels. A thousand of them are for training, and we ask about 256 others. A
# density needs numbers on a line, not integers: `dequantize` puts every pixel somewhere in its level, at random and anew
# in each training step, and the 17 levels side by side fill [-1, 1].

# %%
test = jd.data.load_digits("test")
digits = test.image[:256]


def model_values(images):
    return 2 * (images + 0.5) / test.levels - 1


config = jd.runs.Config(
    data="digits",
    network="unet(channels=(16, 32), blocks=1)",
    steps=700,
    learning_rate=5e-3,
    ema_decay=0.99,
)
with tempfile.TemporaryDirectory() as folder:
    denoiser = jd.runs.train(config, folder, progress=False, pictures=0).denoiser

sample_grid(jd.sample(jax.random.key(2), denoiser, (16, 8, 8, 1), steps=15), columns=16)

# %% [markdown]
# A longer training would draw better ones (`jaxdiff demo` does), but for these twenty seconds they will do.
#
# ## Bits per dimension
#
# Between data and noise runs a smooth flow, and following it from a picture to its noise gives the density of the model
# at that picture. Averaged over where in their levels the pixels are put, its logarithm is a bound on that of the
# probability of the integers. The negative of it, to base 2, is how many bits it takes to write the picture down with
# this model for a code; divided by the 64 pixels, it is bits per dimension. Who knows nothing of digits needs
# $\log_2 17 = 4.09$. Fewer are better.

# %%
flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
settings = {"levels": test.levels, "flow": flow}
report = jd.bits_per_dim(jax.random.key(3), denoiser, digits, **settings)
print(report)

# %% [markdown]
# The first line is the answer with its standard error, and what it cost: `evaluations` counts how often the network was
# asked for each picture. What follows is the budget: where the error comes from, and so what to do about it.
#
# Three parts make up the standard error, their squares add up to its square:
#
# - **images**: pictures differ, some are easy and some are hard. No computing helps here, only more pictures.
# - **dequantisation**: every picture was put at one random place in its levels. Another place, another number.
# - **trace**: the flow's squeezing of space is a sum over all pixels, and is estimated by a random probe instead. The
#   mean of the estimate is right; more `probes` make it less noisy.
#
# The other lines are no noise. Repeating would not show them, so they are measured by doing better:
#
# - **solver**: the same pictures, the same noise, tolerances ten times finer. The mean moves by so much.
# - **truncation**: the flow begins a little above $t = 0$. This is what beginning ten times closer changes.
# - **arithmetic**: what full precision changes; nothing here, since a CPU computes in it.
# - **prior**: at $t = 1$ a trace of the picture is left, which the noise we compare it to does not have.
# - **round trip**: pictures to noise and back again; how far the worst pixel of all comes out from where it was.
# - **bound**: another number, found without any flow from the denoising error at random noise levels. It bounds the bits
#   of a slightly different model, one that draws fresh noise on its way, and may come out on either side of the flow's.
#   Far apart, they would say that something is wrong.

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
axes.set(xscale="log", xlabel="bits/dim")
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
picture

# %% [markdown]
# What repeating cannot show (orange) is far below the standard error, most of which comes from the pictures themselves. So
# finer tolerances would be wasted on this number. More digits would make it better, and then more probes.
#
# ## Which digits are likely?
#
# A single estimate of a single picture is too noisy to put pictures in order: as the budget says, the noise of placing
# and probing is nearly as large as the differences that we are looking for. So each digit gets four estimates, by other
# keys.

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
# The likeliest are plain strokes, white on black. The unlikeliest are tangled and grey. A likelihood does not judge
# handwriting: it counts what is left to write down when the model has said what it expects, and a plain stroke leaves
# little. Likely is what compresses well (Serrà et al. 2020).
#
# ## Does it know what is not a digit?
#
# It is tempting to turn this around and to take pictures of many bits for strange ones. So here are sixty-four digits,
# and what can be done to them. The last column is how often a changed picture takes more bits than a digit, over all
# pairs: 50 % would be a coin, and 100 % a perfect detector.

# %%
some = digits[:64].astype(int)
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
    "one grey": np.arange(64).reshape(64, 1, 1, 1) % 17 + np.zeros_like(some),
}
asked = jd.bits_per_dim(jax.random.key(7), denoiser, np.concatenate(list(changed.values())), budget=0, **settings)
answers = dict(zip(changed, asked.per_example.reshape(len(changed), 64)))
for name, answer in answers.items():
    above = (answer[:, None] > answers["digits"]).mean()
    spread = f"from {answer.min():.2f} to {answer.max():.2f}"
    print(f"{name:21}{answer.mean():5.2f} bits/dim, {spread}; above a digit {above:5.0%}")
strip(model_values(np.stack([images[:10] for images in changed.values()])), names=list(changed))

# %% [markdown]
# Smears, negatives and noise are told without fail, plain greys nearly so. Do not rely on it: a model of small photographs
# of animals and cars finds photographs of house numbers likelier than its own test pictures, as they are smoother
# (Nalisnick et al. 2019). Our digits are hard-edged, so that here the smooth pictures are the ones that were never seen.
#
# But turn a digit upside down, which a child would notice, and in nearly one of four pairs it takes fewer bits than a
# digit that stands upright; of half digits it is one of seven. Digits simply differ by more than the change costs. Over
# many pictures the means leave no doubt. About a single picture, its bits say little.
#
# ## The likeliest picture is not typical
#
# There is a reason not to be surprised. Let us go and look for pictures that the model finds likelier than any digit: take
# the noise that belongs to some digits, shrink it, and follow the flow back to pictures. Shorter noise is likelier noise.
# What is printed is the density at the picture itself, in the same units as above.

# %%
per_dim = 64 * np.log(2)
x = jd.dequantize(jax.random.key(8), digits[:64], test.levels)
factors = np.array([1.0, 0.7, 0.4, 0.0])
z = jd.encode(denoiser, x, flow=flow)[:16]
shrunk = jd.decode(denoiser, (factors.reshape(4, 1, 1, 1, 1) * z).reshape(x.shape), flow=flow)
found = jd.log_likelihood(jax.random.key(9), denoiser, shrunk, flow=flow)
density = np.log2(test.levels / 2) - np.asarray(found.log_prob).reshape(4, 16) / per_dim

for factor, values in zip(factors, density):
    print(f"noise times {factor:.1f}: {values.mean():5.2f} bits/dim, from {values.min():5.2f} to {values.max():5.2f}")
strip(shrunk.reshape(4, 16, 8, 8, 1)[:, :10], names=[f"noise times {factor:.1f}" for factor in factors])

# %% [markdown]
# A little less than half the noise, and every picture takes fewer bits than any of the digits above it. They are smoother,
# fainter, more alike. With no noise at all they are one and the same picture, a smudge that nobody wrote (its bits
# differ by the probes only), and still likelier than all that we have of real ones.
#
# It is no fault of the model. Noise of 64 numbers has a length close to $\sqrt{64} = 8$ and practically never one below 5,
# although zero is its likeliest value: there is so much more room further out. Pictures likewise are found where there are
# many of them, not where a single one is likeliest. Models of photographs keep cartoons and blurs there (Karczewski et al.
# 2025). A likelihood compares models on the same pictures. It is no detector of what is new, and no judge of what is good.
#
# ## How the error falls
#
# Back to the mean over all digits, and what makes it more certain. On the left, the noise that the probes leave in one
# picture, measured by ten estimates at one place in the levels; on the right, the standard error of the mean over so many
# pictures, estimated once and four times each.

# %%
probed = np.stack(
    [jd.log_likelihood(jax.random.key(seed), denoiser, x, flow=flow).log_prob / per_dim for seed in range(10, 20)]
)
probes, counts = np.array([1, 2, 5]), np.array([16, 32, 64, 128, 256])


def error_of_probes(m):
    means = probed.reshape(10 // m, m, 64).mean(1)
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
# Both fall like one over the square root: four times as many for half the error. Four estimates of each
# picture cost as much as four times the pictures, and gain less, for they leave the differences between pictures as they
# are: if there are more pictures, take them. `bits_per_dim(target_error=...)` does it in this order, pictures first and
# repeats after, and stops when the error is as small as you asked.
#
# ## Your turn
#
# Train for longer, or ask with `trace=jd.likelihood.Exact()`: which line of the budget goes to zero, and what does it
# cost? Train on the zeros alone, by `data=None` in the config and `jd.runs.train(config, folder, data=zeros)`, and ask about
# the ones. A run of the command line can be asked alike: `denoiser = jd.runs.load("runs/demo").denoiser`.
