"""Training on tokens, and on products, whose x0 is a tree of numbers and tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.training import Diverged, train

KEY = jax.random.key(0)
SHARES = np.array([0.5, 0.25, 0.25])
TOKENS = np.tile([0, 0, 1, 2], 16)  # in these shares


def says(params, x, c_noise, cond):
    """One distribution for all tokens."""
    return jnp.broadcast_to(params["logits"], (*x.shape, 3))


def scales_and_says(params, x, c_noise, cond):
    shown = c_noise["number"][:, None]
    number = params["w"] * x["number"] + params["c"] * shown
    return {"number": number, "token": says(params, x["token"], c_noise, cond)}


class Batches:
    """64 tokens for any step, in an order drawn from the step, and as many numbers; `special` replaces some."""

    def __init__(self, **special):
        self.special = special

    def __getitem__(self, step):
        rng = np.random.default_rng(step)
        token = rng.permutation(TOKENS)[:, None].astype(np.uint8)
        number = (rng.standard_normal((64, 2)) / 2).astype(np.float32)
        return {"token": token, "number": number} | (self.special if step == 7 else {})


NOTHING = {"logits": jnp.zeros(3), "w": jnp.zeros(()), "c": jnp.zeros(())}
KINDS = {
    "tokens": (
        jd.Denoiser(says, {"logits": jnp.zeros(3)}, jd.Absorbing(3)),
        lambda key, batch: (batch["token"], None),
    ),
    "product": (
        jd.Denoiser(scales_and_says, NOTHING, jd.Product({"number": jd.VP(), "token": jd.Absorbing(3)})),
        lambda key, batch: (dict(batch), None),
    ),
}


def go(folder, kind="product", batches=None, steps=100, **settings):
    denoiser, prepare = KINDS[kind]
    settings = {"optimizer": optax.adam(0.05), "ema_decay": 0.95, "accumulate": 2, "prepare": prepare} | settings
    every = {"log_every": 10, "checkpoint_every": 50, "progress": False}
    batches = Batches() if batches is None else batches
    loss = settings.pop("loss", jd.losses.Denoising())
    return train(KEY, folder, denoiser, loss, batches, steps=steps, **settings, **every)


@pytest.mark.parametrize("kind", [pytest.param("tokens", marks=pytest.mark.slow), "product"])
def test_tokens_and_products_are_learned_and_a_resumed_run_is_the_same_to_the_bit(tmp_path, kind):
    """The best distribution of tokens that are drawn alike is their shares; half of 64 are masked in a step, and some
    twenty steps are averaged over, so that the standard error of a share is sqrt(1/4 / 640) = 0.02."""
    whole = go(tmp_path / "whole", kind)
    go(tmp_path / "parts", kind, steps=50)
    parts = go(tmp_path / "parts", kind)
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(jax.nn.softmax(whole.params["logits"]), SHARES, atol=4 * 0.02)
    if kind == "product":  # the numbers have learned too
        assert abs(whole.params["w"]) > 0.02


def test_parts_of_a_batch_are_checked_before_the_first_step(tmp_path):
    token, number = (Batches()[0][name] for name in ("token", "number"))
    bad = np.where(np.arange(64)[:, None] == 5, 3, token)
    for kind, first, error, message in (
        ("tokens", {"token": bad}, ValueError, r"x0 \(batches\[0\], prepared\)\[5, 0\] = 3 is out of range"),
        ("tokens", {"token": number}, TypeError, "x0 .* has dtype float32; expected integer categories 0 to 2"),
        ("product", {"token": bad}, ValueError, r"x0 .*\['token'\]\[5, 0\] = 3 is out of range"),
        ("product", {"number": 100 * number}, ValueError, "x0 .* has root mean square .*data_std = 0.5"),
        ("product", {"number": number * np.nan}, ValueError, r"x0 .*\['number'\]\[0\] holds a NaN"),
    ):
        with pytest.raises(error, match=message):
            go(tmp_path / "first", kind, [{"token": token, "number": number} | first], steps=1)
    missing = lambda key, batch: ({"number": batch["number"]}, None)
    with pytest.raises(ValueError, match="x0 .*has another form than the product of"):
        go(tmp_path / "first", prepare=missing)


@pytest.mark.slow
def test_the_part_in_which_a_step_fails_is_named(tmp_path):
    token, number = (Batches()[0][name] for name in ("token", "number"))
    bad = np.where(np.arange(64)[:, None] == 5, 3, token)
    hole = np.where(np.arange(64)[:, None] == 9, np.float32("nan"), number)
    for special, where in (
        ({"number": hole}, "example 9 of its batch, in the data"),
        ({"token": bad}, r"the data of its batch: x0\['token'\]\[5, 0\] = 3 is out of range"),
    ):
        with pytest.raises(Diverged, match=f"step 7 is not finite, first in {where}"):
            go(tmp_path / str(len(special)) / next(iter(special)), batches=Batches(**special), steps=20)


def test_the_lengths_of_a_product_must_be_shared(tmp_path):
    with pytest.raises(ValueError, match="a batch of 64 is not a multiple of accumulate x devices = 3 x 1"):
        go(tmp_path, accumulate=3)


def test_labels_beside_a_tree_are_checked_and_dropped(tmp_path):
    """Of a product whose denoiser has no label for none, dropping is refused; a tree of conditions is no label."""
    _, prepare = KINDS["product"]
    labelled = lambda key, batch: (prepare(key, batch)[0], {"label": batch["token"][:, 0]})
    go(tmp_path / "a", prepare=labelled, steps=1)
    with pytest.raises(ValueError, match="the network has no label that means none"):
        go(tmp_path / "b", prepare=labelled, steps=1, loss=jd.losses.ConditionDropout(jd.losses.Denoising()))


def test_a_run_that_drew_its_noise_otherwise_does_not_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdiff.training.identity.DRAWS", "one key a batch")
    go(tmp_path, steps=10)
    monkeypatch.undo()
    for allow, steps in (((), 20), (("draws",), 20), ((), 10)):
        with pytest.raises(
            ValueError, match="began before noise was drawn by one key an example.*Finish it .*load_params"
        ):
            go(tmp_path, steps=steps, allow=allow)
