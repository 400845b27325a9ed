"""The diffusion transformer: its blocks beside diffusers', sizes, skips, and what it can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few

import jaxdiff as jd
from jaxdiff.networks import Cast, DiT, initialize
from jaxdiff.networks.dit import DiTBlock, JointBlock, cut, together
from jaxdiff.networks.functional import shapes

RNG = np.random.default_rng(0)
floats = lambda *shape: RNG.standard_normal(shape).astype(np.float32)


def small(rngs, **options):
    return DiT(1, **{"width": 8, "depth": 3, "heads": 2, **options}, rngs=rngs)


def built(**options):
    network, params = initialize(jax.random.key(0), functools.partial(small, **options))
    return network, jax.tree.map(lambda p: p + 0.3 * floats(*p.shape), params)


@pytest.fixture(scope="module")
def diffusers():
    pytest.importorskip("torch")
    return pytest.importorskip("diffusers.models.attention")


def weights(module):
    """{name: array} of a module of PyTorch, moved away from its initial values, dense layers [in, out]."""
    import torch

    module.eval()  # it drops labels in training
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.tensor(floats(*parameter.shape))
    return {name: array.detach().numpy().T for name, array in module.named_parameters()}


def dense(w, *names):
    return {
        "kernel": np.concatenate([w[f"{name}.weight"] for name in names], -1),
        "bias": np.concatenate([w[f"{name}.bias"] for name in names], -1),
    }


def stream(w, norm, attention, out, feed_forward, norms=()):
    """The parameters of a `Stream` of diffusers' names."""
    scales = {ours: {"scale": w[f"{theirs}.weight"]} for ours, theirs in zip(("norm_q", "norm_k"), norms)}
    mlp = {"dense_in": dense(w, f"{feed_forward}.net.0.proj"), "dense_out": dense(w, f"{feed_forward}.net.2")}
    heads = {"linear": dense(w, *(f"attn{name}" for name in attention)), **scales}
    return {"modulate": dense(w, f"{norm}.linear"), "heads": heads, "out": dense(w, out), "mlp": mlp}


def run(make, params, *inputs):
    network, structure = shapes(jax.random.key(0), make)
    assert jax.tree.structure(structure) == jax.tree.structure(params)
    return jax.jit(network)(params, *inputs)


def test_a_block_is_that_of_diffusers(diffusers):
    import torch

    kind = {"norm_type": "ada_norm_zero", "num_embeds_ada_norm": 10, "norm_elementwise_affine": False}
    theirs = diffusers.BasicTransformerBlock(
        12, 2, 6, attention_bias=True, activation_fn="gelu-approximate", norm_eps=1e-6, **kind
    )
    w = {f"attn.{n.removeprefix('attn1.')}" if n.startswith("attn1.") else n: a for n, a in weights(theirs).items()}
    params = {"stream": stream(w, "norm1", (".to_q", ".to_k", ".to_v"), "attn.to_out.0", "ff")}
    x, step, label = floats(2, 6, 12), torch.tensor([3, 700]), torch.tensor([0, 9])
    with torch.no_grad():
        embedding = theirs.norm1.emb(step, label)
        expected = theirs(torch.tensor(x), timestep=step, class_labels=label).numpy()
    embedding = jax.nn.silu(embedding.numpy())
    out, _ = run(lambda rngs: DiTBlock(12, 2, False, False, rngs=rngs), params, x, None, None, embedding)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
def test_a_joint_block_is_that_of_stable_diffusion_3(diffusers, last, qk_norm):
    import torch

    theirs = diffusers.JointTransformerBlock(12, 2, 6, context_pre_only=last, qk_norm=qk_norm)
    w = weights(theirs)
    norms = lambda *names: [f"attn.{name}" for name in names] if qk_norm else []
    image = stream(w, "norm1", (".to_q", ".to_k", ".to_v"), "attn.to_out.0", "ff", norms("norm_q", "norm_k"))
    if last:  # scale, shift there; its queries are made, and lead nowhere
        turned = {n: np.concatenate(np.split(a, 2, -1)[::-1], -1) for n, a in dense(w, "norm1_context.linear").items()}
        keys = {"linear": dense(w, "attn.add_k_proj", "attn.add_v_proj")}
        keys |= {"norm_k": {"scale": w["attn.norm_added_k.weight"]}} if qk_norm else {}
        text = {"modulate": turned, "heads": keys}
    else:
        added = norms("norm_added_q", "norm_added_k")
        parts = (".add_q_proj", ".add_k_proj", ".add_v_proj")
        text = stream(w, "norm1_context", parts, "attn.to_add_out", "ff_context", added)
    x, tokens, embedding = floats(2, 6, 12), floats(2, 5, 12), floats(2, 12)
    with torch.no_grad():
        expected = theirs(*(torch.tensor(array) for array in (x, tokens, embedding)))
    make = lambda rngs: JointBlock(12, 2, qk_norm is not None, last, rngs=rngs)
    params, mask = {"image": image, "text": text}, np.ones((2, 5), bool)
    out = run(make, params, x, tokens, mask, jax.nn.silu(embedding))
    np.testing.assert_allclose(out[0], expected[1], rtol=2e-5, atol=2e-5)
    if not last:
        np.testing.assert_allclose(out[1], expected[0], rtol=2e-5, atol=2e-5)


EVERYTHING = {"classes": 3, "vector": 2, "image": 2, "level": True, "tokens": 4, "skips": True}
COND = {"label": np.arange(3), "vector": floats(3, 2), "image": floats(3, 4, 6, 2), "level": floats(3)}
COND |= {"tokens": floats(3, 5, 4)}


LEARNING = {"DiT": (EVERYTHING, 2), "MM-DiT": ({"tokens": 4, "joint": True, "depth": 2}, 3)}


@pytest.mark.parametrize("case", few(LEARNING, "DiT"))
def test_it_begins_at_zero_and_all_of_it_learns_after_two_updates(case):
    """First the last layer has a gradient, then the gates, then all. Text needs the image's gates first: one more."""
    options, updates = case
    network, params = initialize(jax.random.key(0), functools.partial(small, **options))
    taken = [name for name in options if name in COND] + ["label"] * ("classes" in options)
    cond = {name: COND[name] for name in taken}
    x, c_noise, target = floats(3, 4, 6, 1), jnp.array([-1.0, 0.2, 2.0]), floats(3, 4, 6, 1)

    @jax.jit
    def step(params):
        out, pull = jax.vjp(lambda params: network(params, x, c_noise, cond), params)
        (gradient,) = pull(out - target)
        return out, gradient, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    out, first, params = step(params)
    assert not np.any(out)
    still = lambda gradient: [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.any(np.abs(leaf) > 0)
    ]
    assert len(still(first)) == len(jax.tree.leaves(first)) - 2  # those of the last layer
    for _ in range(updates - 1):
        params = step(params)[2]
    assert still(step(params)[1]) == []


def test_every_size_that_patches_divide_is_taken_and_of_others_the_nearest_is_named():
    network, params = shapes(jax.random.key(0), functools.partial(small, patch=4))
    for shape in ((1, 4, 4, 1), (2, 12, 8, 1)):
        assert jax.eval_shape(network, params, jnp.ones(shape), 0.0).shape == shape
    message = "images of 30 x 3 cannot be cut into patches of 4 x 4; the nearest sizes are 28 or 32 by 4"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network, params, jnp.ones((1, 30, 3, 1)), 0.0)
    with pytest.raises(ValueError, match="the nearest sizes are 8 by 8 or 12"):
        jax.eval_shape(network, params, jnp.ones((1, 8, 9, 1)), 0.0)


def test_patches_are_put_together_as_they_were_cut_and_each_holds_its_pixels():
    x = floats(2, 4, 6, 3)
    patches = cut(jnp.asarray(x), 2)
    np.testing.assert_array_equal(patches[:, 4], x[:, 2:, 2:4].reshape(2, -1))  # the second of the second row of three
    np.testing.assert_array_equal(together(patches, [2, 3], 2), x)


@pytest.mark.slow
def test_long_skips_read_the_block_or_its_opposite():
    """By one half of its weights alone the last of three blocks reads the one before, by the other half the first."""
    network, params = built(skips=True)
    plain, shorter = built()[0], built(depth=2)[0]
    x = floats(2, 4, 4, 1)
    blocks = params["blocks"]
    without = {name: part for name, part in params.items() if name != "skips"} | {"skips": {}}
    linear = lambda kernel: {"skips": {0: {"kernel": kernel, "bias": np.zeros(8, np.float32)}}}
    eye, zero = np.eye(8, dtype=np.float32), np.zeros((8, 8), np.float32)
    before = network(params | linear(np.concatenate([eye, zero])), x, 0.3)
    np.testing.assert_allclose(before, plain(without, x, 0.3), rtol=1e-5, atol=1e-5)
    opposite = network(params | linear(np.concatenate([zero, eye])), x, 0.3)
    first_and_last = without | {"blocks": {0: blocks[0], 1: blocks[2]}}
    np.testing.assert_allclose(opposite, shorter(first_and_last, x, 0.3), rtol=1e-5, atol=1e-5)
    assert np.abs(opposite - before).max() > 1e-2


@pytest.mark.slow
def test_blocks_computed_twice_give_the_same_gradient_and_bfloat16_a_rounded_answer():
    network, params = built(tokens=4, joint=True, depth=1)
    x, cond = floats(2, 4, 4, 1), {"tokens": floats(2, 3, 4)}
    again = built(tokens=4, joint=True, depth=1, remat=True)[0]
    gradient = lambda network: jax.jit(jax.grad(lambda params: jnp.sum(network(params, x, 0.3, cond) ** 2)))(params)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * (1 + np.abs(b).max()))
    jax.tree.map(close, gradient(again), gradient(network))
    full, half = network(params, x, 0.3, cond), Cast(network, jnp.bfloat16)(params, x, 0.3, cond)
    error = np.sqrt(np.mean((half - full) ** 2) / np.mean(full**2))
    assert 2**-12 < error < 0.05  # eight bits, and some twenty roundings one after another


def test_structures_that_cannot_be_are_refused():
    for options, message in (
        ({"heads": 3}, "heads = 3 does not divide width = 8"),
        ({"joint": True}, "joint = True, but tokens = 0; give the width of the tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            built(**options)


@pytest.mark.slow
def test_it_learns_the_denoiser_of_a_labelled_mixture(tmp_path):
    """Images of 4 x 4 from a Gaussian a class: E[x_0 | x_t, class], known in closed form, to 5 %."""
    process, n = jd.VP(), 20_000
    means = 0.5 * floats(3, 16)
    roots = 0.15 * floats(3, 16, 16) / 4 + 0.2 * np.eye(16, dtype=np.float32)
    label = RNG.integers(0, 3, n)
    x0 = means[label] + np.einsum("nij,nj->ni", roots[label], floats(n, 16))
    exact = [jd.exact.Gaussian(process, means[k], roots[k] @ roots[k].T) for k in range(3)]
    make = lambda rngs: DiT(1, 2, 64, 3, 4, classes=3, rngs=rngs)
    denoiser = jd.Denoiser(*initialize(jax.random.key(0), make), process, data_std=float(x0.std()))
    data = {"x": x0.reshape(-1, 4, 4, 1).astype(np.float32), "cond": label}
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 1500))
    settings = {"optimizer": optimizer, "progress": False, "ema_decay": 0.99}
    batches = jd.data.batches(data, 128, 0)
    loss = jd.losses.Denoising()
    trained = jd.training.train(jax.random.key(1), tmp_path, denoiser, loss, batches, steps=1500, **settings)
    errors, sizes = [], []
    for t in (0.1, 0.3, 0.5, 0.8):
        for k in range(3):
            clean = means[k] + floats(500, 16) @ roots[k].T
            x, _ = jd.perturb(jax.random.key(7), process, jnp.asarray(clean), t)
            expected = exact[k](x, t).data
            found = trained(x.reshape(-1, 4, 4, 1), t, np.full(500, k)).data.reshape(-1, 16)
            errors.append(np.mean((found - expected) ** 2))
            sizes.append(np.mean(expected**2))
    assert np.sqrt(np.mean(errors) / np.mean(sizes)) < 0.05
