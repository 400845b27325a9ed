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
# # Categories: discrete diffusion
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxdiff/jaxdiff/blob/main/notebooks/discrete.ipynb)
#
# Letters, the labels of a map, the levels of a pixel: data that are categories have no noise to add. What mixes is not
# the values but their distributions: a token is $x_0$ with probability $\alpha_t$, and is drawn from the noise with
# probability $\sigma_t = 1 - \alpha_t$. The rest of the library is the same for both. This notebook takes one
# to two minutes on two idle cores and shows
#
# 1. three kinds of noise,
# 2. a language whose law is known, with its likelihood and samplers,
# 3. a transformer that learns to spell: training, bits a character, samples, filling gaps.

# %%
try:
    import jaxdiff as jd
except ModuleNotFoundError:
    # %pip install --quiet "jaxdiff[cli] @ git+https://github.com/jaxdiff/jaxdiff"
    import jaxdiff as jd

import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from jaxdiff.plotting import lines, strip

losses, networks, samplers = jd.losses, jd.networks, jd.samplers

# %% [markdown]
# ## 1. Three kinds of noise
#
# A process of categories is a kernel $q(x_t \mid x_0)$ and a schedule $\alpha_t$ (`jd.schedules`). `Absorbing` replaces a
# value by a mask, `Multinomial` by any value, and `DiscretizedGaussian` moves it to its neighbours, for categories that
# are ordered, as the 17 levels of these pixels are. Below, masks are white, as the brightest level is.

# %%
digits = jd.data.load_digits("train").image[:1, :, :, 0].astype(np.int32)
times = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
processes = {
    "Absorbing": jd.Absorbing(17),
    "Multinomial": jd.Multinomial(17),
    "DiscretizedGaussian": jd.DiscretizedGaussian(17, jd.schedules.Polynomial(3.0)),
}
rows = []
for process in processes.values():
    keys = samplers.example_keys(jax.random.key(0), 1)
    noised = [process.perturb(keys, digits, t)[0][0] for t in times]
    rows.append(np.clip(2 * np.stack(noised)[..., None] / 16 - 1, -1, 1).astype(np.float32))
strip(np.stack(rows), times=times, names=list(processes))

# %% [markdown]
# ## 2. A language whose law is known
#
# A Markov chain of letters has an exact denoiser, whatever its length: $p(x_0 \mid x_t)$ follows by passing messages forward
# and backward along the chain. Its entropy is a sum. We take the pairs of letters of the documentation that comes with
# Python, and texts of 48 letters.

# %%
from pydoc_data.topics import topics

written = "".join(c if c.isalpha() and c.isascii() else " " for c in " ".join(topics.values()).lower())
written = " ".join(written.split())
ALPHABET = "abcdefghijklmnopqrstuvwxyz "
numbers = np.array([ALPHABET.index(c) for c in written])
pairs = np.histogram2d(numbers[:-1], numbers[1:], np.arange(28) - 0.5)[0] + 0.1
transition = pairs / pairs.sum(1, keepdims=True)
initial = pairs.sum(1) / pairs.sum()
LENGTH = 48

chain = jd.exact.Markov(jd.Absorbing(27), initial, transition)
entropy = float(chain.entropy(LENGTH)) / LENGTH / np.log(2)
print(f"{len(written):,} characters; the chain's entropy: {entropy:.4f} bits a letter")

# %% [markdown]
# **Likelihood, two ways.** A diffusion model of tokens has a variational bound, term by term: in continuous time the
# cross-entropy of the masked tokens at the rate $\sigma'/\sigma$. A model of masks is also an autoregressive model, in any
# order, so that the chain rule gives its exact log-probability in that order. For an exact denoiser the two are one
# number, the entropy.


# %%
def drawn(key, n):
    """Texts of the chain itself, letter by letter."""
    rng, texts = np.random.default_rng(key), np.empty((n, LENGTH), np.int32)
    for i in range(LENGTH):
        of = transition[texts[:, i - 1]] if i else np.broadcast_to(initial, (n, 27))
        texts[:, i] = (of.cumsum(1) < rng.uniform(size=(n, 1))).sum(1).clip(0, 26)
    return texts


texts = drawn(0, 256)
print("bound     ", jd.continuous_bound(jax.random.key(0), chain, texts, draws=16, batch_size=256))
print("chain rule", jd.likelihood.chain(jax.random.key(0), chain, texts, batch_size=256))

# %% [markdown]
# **Samplers.** Values that are filled in one step are drawn independently of each other: that is the error of few steps.
# `Ancestral` fills each mask with some probability, `Unmask` exactly as many as the grid says, in an order. The figure shows
# the total variation distance between the pairs of letters in samples and those of the chain; the floor is the distance of
# texts drawn from the chain itself.


# %%
def distance(texts):
    counts = np.histogram2d(texts[:, :-1].ravel(), texts[:, 1:].ravel(), np.arange(28) - 0.5)[0]
    return 0.5 * np.abs(counts / counts.sum() - pairs / pairs.sum()).sum()


steps = np.array([4, 12, 48])
curves = {}
for name, sampler in {
    "Ancestral": samplers.Ancestral(),
    "Unmask, random": samplers.Unmask(),
    "Unmask, confidence": samplers.Unmask("confidence"),
}.items():
    found = [jd.sample(jax.random.key(1), chain, (256, LENGTH), sampler, steps=int(n)) for n in steps]
    curves[name] = steps, np.array([distance(np.asarray(texts)) for texts in found])
floor = distance(drawn(1, 256))
lines({"masks": curves}, x="steps", y="total variation of pairs", floors={"masks": floor})

# %% [markdown]
# ## 3. A transformer that learns to spell
#
# `jd.data.text` reads a file as windows of characters, with blocks set aside for testing. A `Transformer` has an
# embedding for the mask, and no output for it. With `noise=False` it does not get $t$, which the number of masks shows, so
# that `chain` and the bound evaluate the same model. `Bound` is the continuous bound as a loss; `AnyOrder` draws the number of
# masks instead of $t$, which has the same mean and less variance.

# %%
folder = Path(tempfile.mkdtemp())
(folder / "python.txt").write_text(written)
train, test = (jd.data.text(folder / "python.txt", LENGTH, split) for split in ("train", "test"))

network, params = networks.initialize(
    jax.random.key(0), lambda rngs: networks.Transformer(27, LENGTH, 64, 2, 4, noise=False, rngs=rngs)
)
denoiser = jd.training.train(
    jax.random.key(1),
    folder / "run",
    jd.Denoiser(network, params, jd.Absorbing(27)),
    losses.AnyOrder(),
    jd.data.batches(train.examples, 32, seed=0),
    steps=800,
    optimizer=optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 8e-3, 100, 800)),
    ema_decay=0.99,
    progress=False,
)

# %%
scored = test.tokens[:256]
print("bound     ", jd.continuous_bound(jax.random.key(0), denoiser, scored, draws=16, batch_size=256))
print("chain rule", jd.likelihood.chain(jax.random.key(0), denoiser, scored, order="random", batch_size=256))

# %% [markdown]
# Samples, as they come and at a temperature of 0.7. `Temperature`, `TopK` and `Nucleus` wrap a denoiser and give a denoiser,
# as guidance does.

# %%
for name, model in (("as it is", denoiser), ("temperature 0.7", jd.guidance.Temperature(denoiser, 0.7))):
    print(name)
    for text in train.decode(jd.sample(jax.random.key(2), model, (4, LENGTH), samplers.Unmask(), steps=LENGTH)):
        print("   ", text)

# %% [markdown]
# One text during sampling, with masks shown as `_`. `Unmask("confidence")` fills the most certain tokens first.

# %%
path = jd.sample(
    jax.random.key(4), denoiser, (1, LENGTH), samplers.Unmask("confidence"), steps=LENGTH, trajectory=True
)
for step in (0, 6, 12, 24, 36, 48):
    print(f"{step:3}", train.decode(path[step])[0])

# %% [markdown]
# **Filling gaps** needs no other sampler: the values of `x_start` that are not masks are kept.

# %%
gaps = train.encode(["the value of the ______ is ________ by the method"[:LENGTH].ljust(LENGTH)])
print(train.decode(gaps)[0])
for text in train.decode(
    jd.sample(jax.random.key(5), denoiser, (4, LENGTH), samplers.Unmask(), steps=20, x_start=np.repeat(gaps, 4, 0))
):
    print(text)

# %% [markdown]
# ## Your turn
#
# Train with `jd.Multinomial(27)` in place of `jd.Absorbing(27)`: it takes `losses.Bound()` and a network with `noise=True`, and
# samples come from `samplers.Ancestral()`. Compare the bounds. Draw with 4 steps in place of 48, and read what becomes of the
# words. Hide every second letter of a text and fill the gaps.
#
# Where to go on: `experiments/text.py` trains on the King James Bible and on WordNet, beside n-grams and a compressor;
# `experiments/swiss_roll_discrete.py`, `digits_discrete.py` and `maps.py` have pixels and maps; `experiments/joint_digits.py`
# has an image and its label in one model, either given the other.
