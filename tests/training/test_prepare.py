"""What of a batch reaches the loss: all of it, or it is refused."""

import jax
import numpy as np
import pytest

import jaxdiff as jd

X, Y = np.zeros((8, 3), np.float32), np.arange(8) % 2


@pytest.mark.parametrize("name", ["label", "cond"])
def test_a_condition_reaches_the_model_under_either_name(name, tmp_path):
    x, cond = jd.training.prepare_as_given(jax.random.key(0), {"x": X, name: Y})
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(cond, Y)
    seen = []

    def network(params, x, c_noise, cond):
        seen.append(cond)
        return params["w"] * x

    denoiser = jd.Denoiser(network, {"w": np.ones(3, np.float32)}, jd.VP())
    batches = jd.data.batches({"x": X, name: Y}, 8, seed=0)
    settings = {"steps": 1, "checkpoint_every": 1, "progress": False}
    jd.training.train(jax.random.key(0), tmp_path, denoiser, jd.losses.Denoising(), batches, **settings)
    assert seen
    assert all(cond is not None and cond.shape == (8,) for cond in seen)


def test_named_parts_reach_the_model_as_a_dictionary_and_a_label_alone_as_it_is():
    parts = {"label": Y, "tokens": X[:, None], "token_mask": X[:, :1] == 0, "vector": X}
    x, cond = jd.training.prepare_as_given(jax.random.key(0), {"x": X} | parts)
    assert x is X
    assert cond == parts
    assert jd.training.prepare_as_given(jax.random.key(0), {"x": X, "vector": X})[1].keys() == {"vector"}


@pytest.mark.parametrize(
    ("more", "unread"),
    [
        ({"y": Y}, "'y'"),
        ({"label": Y, "cond": Y}, "'label'"),
        ({"label": Y, "noise": X, "index": Y}, "'index', 'noise'"),
    ],
)
def test_what_nothing_would_read_is_refused(more, unread):
    with pytest.raises(ValueError, match=rf"\[{unread}\] would not be read.*give train a `prepare`"):
        jd.training.prepare_as_given(jax.random.key(0), {"x": X, **more})
