"""Text encoders, and networks that read text through one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import DiT, Encoded, TextEncoder, initialize

RNG = np.random.default_rng(0)
floats = lambda *shape: RNG.standard_normal(shape).astype(np.float32)
IDS = np.array([[1, 4, 0, 2], [3, 3, 5, 0]])
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)


@pytest.fixture(scope="module")
def encoder():
    network, params = initialize(jax.random.key(0), lambda rngs: TextEncoder(6, 12, 2, 3, 5, rngs=rngs))
    return jax.jit(network), jax.tree.map(lambda p: p + 0.2 * floats(*p.shape), params)


def test_its_blocks_are_those_of_torch(encoder):
    torch = pytest.importorskip("torch")
    network, params = encoder
    x = params["tokens"]["embedding"][IDS] + params["positions"]["embedding"][:4]
    x = torch.tensor(np.asarray(x))
    to_torch = lambda part: torch.tensor(np.asarray(part))
    gelu = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    for block in params["blocks"].values():
        layer = torch.nn.TransformerEncoderLayer(12, 3, 48, 0.0, gelu, 1e-6, batch_first=True, norm_first=True)
        dense = {"linear1": block["mlp"]["dense_in"], "linear2": block["mlp"]["dense_out"]}
        dense |= {"self_attn.out_proj": block["out"]}
        weights = {f"{name}.weight": to_torch(part["kernel"]).T for name, part in dense.items()}
        weights |= {f"{name}.bias": to_torch(part["bias"]) for name, part in dense.items()}
        for name, part in (("norm1", block["norm_in"]), ("norm2", block["norm_out"])):
            weights |= {f"{name}.weight": to_torch(part["scale"]), f"{name}.bias": to_torch(part["bias"])}
        weights |= {"self_attn.in_proj_weight": to_torch(block["heads"]["linear"]["kernel"]).T}
        weights |= {"self_attn.in_proj_bias": torch.zeros(36)}
        layer.load_state_dict(weights)
        with torch.no_grad():
            x = layer.train()(x, src_key_padding_mask=~torch.tensor(MASK))
    norm = params["norm"]
    expected = torch.nn.functional.layer_norm(x, (12,), to_torch(norm["scale"]), to_torch(norm["bias"]), 1e-6).numpy()
    np.testing.assert_allclose(network(params, IDS, MASK)[MASK], expected[MASK], rtol=2e-5, atol=2e-5)


def test_a_token_that_is_not_read_changes_no_other_and_a_longer_text_neither(encoder):
    network, params = encoder
    tokens = network(params, IDS, MASK)
    np.testing.assert_array_equal(network(params, np.where(MASK, IDS, 5), MASK)[MASK], tokens[MASK])
    longer = network(params, np.pad(IDS, ((0, 0), (0, 1))), np.pad(MASK, ((0, 0), (0, 1))))
    np.testing.assert_allclose(longer[:, :4][MASK], tokens[MASK], rtol=1e-5, atol=1e-5)
    assert np.abs(network(params, IDS[:, [1, 0, 2, 3]], MASK) - tokens)[0].max() > 1e-2


def test_ids_that_are_in_no_row_are_refused_or_nan(encoder):
    network, params = encoder
    for ids, error, message in (
        (IDS + 3, ValueError, "label 7 is out of range; expected 0 to 5"),
        (np.zeros((2, 6), int), ValueError, r"shape \(2, 6\); expected \[batch, length\], at most 5 long"),
        (np.zeros((2, 3, 1), int), ValueError, r"shape \(2, 3, 1\); expected \[batch, length\]"),
        (floats(2, 4), TypeError, "dtype float32; expected ids of tokens"),
    ):
        with pytest.raises(error, match=message):
            network.__wrapped__(params, ids)
    assert np.isnan(network(params, IDS.clip(0, 3) + 3, None)).any()


@pytest.mark.slow
def test_a_network_that_reads_text_is_trained_with_its_encoder():
    def make(rngs):
        return Encoded(TextEncoder(6, 8, 1, 2, 5, rngs=rngs), DiT(1, 2, 8, 1, 2, classes=2, tokens=8, rngs=rngs))

    network, params = initialize(jax.random.key(0), make)
    params = jax.tree.map(lambda p: p + 0.2 * floats(*p.shape), params)
    x, cond = floats(2, 4, 4, 1), {"label": np.array([0, 1]), "tokens": IDS, "token_mask": MASK}
    network.check_cond(params, cond)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(network(params, x, 0.3, cond) ** 2)))(params)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.any(np.abs(leaf) > 0)
    ]
    assert still == []
    encoder, inner = params["encoder"], params["network"]
    tokens = initialize(jax.random.key(0), lambda rngs: make(rngs).encoder)[0](encoder, IDS, MASK)
    alone = initialize(jax.random.key(0), lambda rngs: make(rngs).network)[0](inner, x, 0.3, cond | {"tokens": tokens})
    np.testing.assert_allclose(network(params, x, 0.3, cond), alone, rtol=1e-5, atol=1e-5)
    assert network.no_label(params) == 2
    assert not network.takes_key(params)
    with pytest.raises(TypeError, match=r"cond\['tokens'\] has dtype float32; expected ids of tokens"):
        network.check_cond(params, cond | {"tokens": np.asarray(tokens)})
    with pytest.raises(TypeError, match="cond has no label"):
        network.check_cond(params, {"tokens": IDS})
