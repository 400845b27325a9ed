"""What training does with numbers: averages in half precision, data far from 0, strict promotion, other keys."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.training import TrainState, load_params, make_step, train

KEY = jax.random.key(0)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Weights:
    params: Any


def inner_product(model, key, x0, cond):
    """Its gradient in w is the mean of x0, whatever w is."""
    return x0 @ model.params["w"].astype(x0.dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_of_half_precision_are_kept_in_float32(tmp_path, dtype):
    """w = k after k steps, a whole number that half precision has; its average it has not, and would stand still."""
    batches = [{"x": -np.ones((4, 1), np.float32)}] * 200
    model = Weights({"w": jnp.zeros(1, dtype)})
    mean = 0.0
    for k in range(200):
        decay = min(0.999, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * (k + 1)
    settings = {"steps": 200, "optimizer": optax.sgd(1.0), "progress": False}
    trained = train(KEY, tmp_path, model, inner_product, batches, **settings)
    assert trained.params["w"].dtype == dtype
    np.testing.assert_allclose(np.float64(trained.params["w"][0]), mean, rtol=float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(load_params(tmp_path, {"w": jnp.zeros(1)})["w"], [mean], rtol=1e-5)


def points(shift=(0.0, 0.0), scale=0.5, n=16):
    x = np.random.default_rng(0).standard_normal((n, 2)) * scale + np.asarray(shift)
    return [{"x": x.astype(np.float32)}]


def go(folder, batches, process=jd.VP(), data_std=0.5, key=KEY, steps=1, loss=jd.losses.Denoising(), **more):
    model = jd.Denoiser(lambda params, x, c, cond: params["w"] * x, {"w": jnp.ones(())}, process, data_std=data_std)
    return train(key, folder, model, loss, batches, steps=steps, optimizer=optax.adam(1e-3), progress=False, **more)


def test_data_far_from_zero_are_warned_of(tmp_path):
    for i, shift in enumerate([(5.0, 5.0), (5.0, -5.0)]):
        with pytest.warns(
            UserWarning, match=r"a mean of size [45]\.\d+ .* standard deviation of 0\.\d+.*Subtract the mean"
        ):
            go(tmp_path / str(i), points(shift))
    go(tmp_path / "near", points((1.0, -1.0)))
    go(tmp_path / "few", points((5.0, 5.0), n=4))  # of which nothing is known


def test_data_that_the_noise_does_not_cover_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"VP does not cover data of data_std = 100: alpha\(1\) data_std = 0\.65"):
        go(tmp_path / "wide", points(scale=100.0), data_std=100.0)
    with pytest.warns(UserWarning, match="VE does not cover data of data_std = 20"):
        go(tmp_path / "ve", points(scale=20.0), jd.VE(), data_std=20.0)
    go(tmp_path / "flow", points(scale=100.0), jd.Flow(), data_std=100.0)  # alpha(1) = 0


@pytest.mark.slow
def test_training_holds_under_strict_promotion_of_types_and_ranks(tmp_path):
    network, params = initialize(KEY, lambda rngs: MLP(2, hidden=(4,), classes=2, rngs=rngs))
    loss = jd.losses.ConditionDropout(jd.losses.Denoising(times=jd.losses.times.Uniform()))
    batches = [{"x": points()[0]["x"], "label": np.arange(16) % 2}] * 4
    settings = {"steps": 4, "accumulate": 2, "progress": False}
    models = (
        jd.Denoiser(network, params, jd.VP()),
        jd.Denoiser(jd.networks.Cast(network, jnp.bfloat16), jax.tree.map(jnp.bfloat16, params), jd.VP()),
    )
    for i, model in enumerate(models):
        loose = train(KEY, tmp_path / f"loose {i}", model, loss, batches, **settings)
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            strict = train(KEY, tmp_path / f"strict {i}", model, loss, batches, **settings)
        jax.tree.map(np.testing.assert_array_equal, strict.params, loose.params)


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_a_run_with_other_keys_resumes_bitwise(tmp_path, impl):
    key = jax.random.key(0, impl=impl)
    whole = go(tmp_path / "a", points() * 20, key=key, steps=20)
    go(tmp_path / "b", points() * 20, key=key, steps=10)
    np.testing.assert_array_equal(go(tmp_path / "b", points() * 20, key=key, steps=20).params["w"], whole.params["w"])
    assert whole.params["w"] != go(tmp_path / "c", points() * 20, steps=20).params["w"]


def test_weights_in_another_byte_order_are_read_rightly():
    optimizer = optax.sgd(1.0)
    weights = np.array([1.0, 2.0, 3.0], np.float32)
    state = TrainState.create(KEY, {"w": weights.astype(">f4")}, optimizer)
    np.testing.assert_array_equal(state.params["w"], weights)
    step = make_step(Weights({"w": weights.astype(">f4")}), inner_product, optimizer)
    state, _ = step(state, {"x": np.ones((4, 3), np.float32)})
    np.testing.assert_array_equal(state.params["w"], weights - 1)
