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
# # Conditions and guidance
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/conditioning.ipynb)
#
# A diffusion model of $p(x)$ draws any example. One of $p(x \mid y)$ draws examples of a given $y$. What is given, `cond`, can be a
# label, a vector of numbers, an image, a text, or several of these. This notebook trains small conditional models in
# one to two minutes on two idle cores and shows
#
# 1. a model of digits given their label,
# 2. classifier-free guidance, its scale and its price,
# 3. the model as a classifier, by Bayes' rule,
# 4. two conditions at once, each with a guidance scale of its own,
# 5. an image as the condition: super-resolution.

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
from sklearn.svm import SVC

guidance = jd.guidance

# %% [markdown]
# ## 1. Digits given their label
#
# The network gets the label beside the noised image. In training a tenth of the examples have their label replaced by
# an eleventh one, which means "no label", so that one network learns $p(x \mid y)$ and $p(x)$. For a data set with labels
# this needs only two settings, `condition` and `dropout`.

# %%
with tempfile.TemporaryDirectory() as folder:
    config = jd.runs.Config(
        data="digits",
        condition=("label",),
        dropout=0.1,
        network="unet(channels=(16, 32), blocks=1)",
        steps=450,
        batch_size=32,
        learning_rate=5e-3,
        ema_decay=0.99,
    )
    digits = jd.runs.train(config, folder, progress=False, pictures=0).denoiser

labels = np.tile(np.arange(10), 12)


def draw(denoiser, cond, event=(8, 8, 1), seed=0):
    n = len(jax.tree.leaves(cond)[0])
    return jd.sample(jax.random.key(seed), denoiser, (n, *event), steps=20, cond=cond)


strip(draw(digits, labels)[:80].reshape(8, 10, 8, 8, 1))

# %% [markdown]
# Each column has one label. Most digits are right, but some are careless.
#
# ## 2. Guidance
#
# **Classifier-free guidance** evaluates the network twice, without the label and with it, and extrapolates from the first
# prediction through the second: `scale` 0 is the model without a label, 1 the model with it, and beyond 1 the label is
# exaggerated. Rows are scales, and each column begins at the same noise.

# %%
scales = (0.0, 1.0, 2.0, 5.0, 10.0)
guided = {f"scale {scale:g}": draw(guidance.ClassifierFree(digits, scale), labels, seed=1) for scale in scales}
strip(jnp.stack([x[:10] for x in guided.values()]), names=list(guided))

# %% [markdown]
# At scale 0 the label is ignored. Around 2 every digit is easy to read, and at 10 they are so typical that the strokes
# saturate: guidance trades variety for being typical. Here is this trade in numbers, for 12 digits of each label: how
# many of them a classifier of real digits reads as the given label, and the variance of the pixels within a label,
# beside that of real digits.

# %%
train = jd.data.load_digits("train")
real = np.asarray(2 * train.image / (train.levels - 1) - 1, np.float32).reshape(len(train.image), -1)
reader = SVC().fit(real, train.label)
middle = guidance.Interval(5.0, low=0.3, high=3.0)
guided["5, 0.3 < σ/α < 3"] = draw(guidance.ClassifierFree(digits, middle), labels, seed=1)
guided["5, rescaled"] = draw(guidance.ClassifierFree(digits, 5.0, rescale=0.7), labels, seed=1)


def spread(x, label):
    return np.mean([x[label == y].var(0, ddof=1).sum() for y in range(10)])


print(f"{'':16}{'right':>7}{'variance':>12}")
for name, x in guided.items():
    x = np.asarray(x).reshape(len(labels), -1)
    print(f"{name:16}{(reader.predict(x) == labels).mean():7.0%}{spread(x, labels):12.1f}")
print(f"{'real digits':16}{'':7}{spread(real, train.label):12.1f}")

# %% [markdown]
# At 10 pixels leave their range, so that the variance rises again. Two ways to tame a large scale: guide between two noise
# levels only (`Interval`), which gives some of the variety back, or take back the contrast that guidance adds (`rescale`),
# which here lowers the variance further.
#
# ## 3. The model as a classifier
#
# A model that knows $\log p(x \mid y)$ for every label also knows $p(y \mid x)$, by Bayes' rule. `class_posterior` computes
# the likelihood of each picture under all labels. It takes the same random probes for every label, so that their noise
# cancels in the difference. Here are 12 digits that the model has not seen, and the three of which it is least sure.

# %%
test = jd.data.load_digits("test")
shown = test.image[:12]
x = jd.dequantize(jax.random.key(3), shown, test.levels)
flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
posterior = jd.likelihood.class_posterior(jax.random.key(4), digits, x, classes=10, flow=flow)
probability = np.exp(np.asarray(posterior.log_prob))
read = probability.argmax(1)
sure = probability.max(1)
lines = [f"{(read == test.label[:12]).mean():.0%} of {len(shown)} digits are read as their label; the least sure:"]
for i in sure.argsort()[:3]:
    lines.append(f"digit {i}, a {test.label[i]}, is read as {read[i]} with probability {sure[i]:.4f}")
print(*lines, sep="\n")

# %% [markdown]
# ## 4. Two conditions at once
#
# Several conditions are a dict, and a network is built with what it takes. Here are points on two rings, given which ring
# they are on, a label, and the direction in which they lie, a vector of length 1 that is known up to some error.
#
# The **null** is the value that replaces a condition that is dropped. For the label it is the number after the last, 2,
# and for the direction it is (0, 0), which is no direction. `ConditionDropout` wraps any loss. Each condition is dropped for
# four examples in ten, independently of the other, so that the model learns all four cases: both, only one, and none.

# %%
rng = np.random.default_rng(0)
ring = rng.integers(2, size=20_000)
angle = rng.uniform(0, 2 * np.pi, len(ring))
compass = lambda angle: np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
points = (np.array([0.8, 1.8])[ring, None] * compass(angle) + 0.08 * rng.standard_normal((len(ring), 2))).astype(
    np.float32
)
given = {"label": ring, "vector": compass(angle + 0.3 * rng.standard_normal(len(ring)))}
null = {"label": 2, "vector": np.zeros(2, np.float32)}

network, params = jd.networks.initialize(
    jax.random.key(5), lambda rngs: jd.networks.MLP(2, hidden=(128, 128, 128), classes=2, vector=2, rngs=rngs)
)
untrained = jd.Denoiser(network, params, jd.VP(), data_std=float(points.std()))
loss = jd.losses.ConditionDropout(jd.losses.Denoising(), null, rate={"label": 0.4, "vector": 0.4})
batches = jd.data.batches({"x": points, **given}, batch_size=256, seed=0)
optimizer = jd.training.clipped_adam(2000, learning_rate=5e-3)
with tempfile.TemporaryDirectory() as folder:
    rings = jd.training.train(
        jax.random.key(6), folder, untrained, loss, batches, steps=2000, optimizer=optimizer, progress=False
    )

# %% [markdown]
# We draw points of the outer ring and points in the north-east. A condition that is left out is given as its null.

# %%
n = 600
outer, north_east = np.full(n, 1), np.tile(compass(np.pi / 4), (n, 1))
no_ring, nowhere = np.full(n, 2), np.zeros((n, 2), np.float32)
asked = {
    "nothing": {"label": no_ring, "vector": nowhere},
    "the outer ring": {"label": outer, "vector": nowhere},
    "the north-east": {"label": no_ring, "vector": north_east},
    "both": {"label": outer, "vector": north_east},
}
panels({name: Points(draw(rings, cond, event=(2,), seed=7), color=ORANGE) for name, cond in asked.items()})

# %% [markdown]
# Each condition can have a guidance scale of its own. The conditions are added one after another, in the order of the dict:
# from none to the ring, and from the ring to both (Brooks et al. 2023). A scale of 0 leaves a condition out.

# %%
scales = {
    "ring 1, direction 1": {"label": 1.0, "vector": 1.0},
    "ring 1, direction 0": {"label": 1.0, "vector": 0.0},
    "ring 1, direction 4": {"label": 1.0, "vector": 4.0},
    "ring 4, direction 1": {"label": 4.0, "vector": 1.0},
}
by_parts = {name: guidance.ClassifierFree(rings, scale, null=null) for name, scale in scales.items()}
panels({name: Points(draw(model, asked["both"], (2,), seed=7), color=ORANGE) for name, model in by_parts.items()})

# %% [markdown]
# The null of guidance can also be what samples should not be. `ClassifierFree(rings, 2.0, null={"label": 0, "vector": (0, 0)})`
# guides away from the inner ring: a **negative prompt**.
#
# ## 5. An image as the condition
#
# The condition of a super-resolution model is the small picture, enlarged: here digits of 4 x 4 pixels, from which those
# of 8 x 8 are to be drawn. The network gets its channels beside those of the noised image.


# %%
def enlarged(x):
    """The 4 x 4 means of a digit, as 8 x 8 pixels."""
    small = x.reshape(len(x), 4, 2, 4, 2, 1).mean((2, 4))
    return small.repeat(2, 1).repeat(2, 2)


images = real.reshape(-1, 8, 8, 1)
network, params = jd.networks.initialize(
    jax.random.key(8), lambda rngs: jd.networks.UNet(1, (16,), blocks=1, image=1, rngs=rngs)
)
untrained = jd.Denoiser(network, params, jd.VP(), data_std=float(images.std()))
batches = jd.data.batches({"x": images, "image": enlarged(images)}, batch_size=32, seed=0)
with tempfile.TemporaryDirectory() as folder:
    optimizer = jd.training.clipped_adam(300, learning_rate=5e-3)
    upscaler = jd.training.train(
        jax.random.key(9),
        folder,
        untrained,
        jd.losses.Denoising(),
        batches,
        steps=300,
        optimizer=optimizer,
        ema_decay=0.99,
        progress=False,
    )

unseen = np.asarray(2 * test.image[:10] / (test.levels - 1) - 1, np.float32)
low = {"image": enlarged(unseen)}
drawn = [draw(upscaler, low, seed=seed) for seed in (10, 11, 12)]
strip(jnp.stack([low["image"], *drawn, unseen]), names=["given", "drawn", "drawn", "drawn", "truth"])

# %% [markdown]
# Do the samples agree with what was given? Their 4 x 4 means should be the given ones, and where the given picture leaves
# something open, samples should differ from each other.

# %%
error = np.sqrt(np.mean([(enlarged(x) - low["image"]) ** 2 for x in drawn]))
differ = np.sqrt(np.mean((np.asarray(drawn[0]) - np.asarray(drawn[1])) ** 2))
print(f"4 x 4 means miss by {error:.2f}, two samples differ by {differ:.2f} (root mean square, pixels in -1..1)")

# %% [markdown]
# ## Your turn
#
# Train with `dropout=0` in the first part and look at what guidance does then (it warns you). Give `rings` a
# direction shorter than 1, as a mean of several would be. Give `upscaler` the picture of a letter. Texts are given in the
# same way: tokens and their mask are two more names in the dict, and `UNet(tokens=...)` and `DiT(tokens=...)` read them by
# cross-attention or jointly.
