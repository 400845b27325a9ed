"""Fused attention beside the softmax written out, in values and every derivative, and what it becomes on a GPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import an_h100, few

from jaxdiff.networks import attention as module
from jaxdiff.networks import attention_kernels as kernels
from jaxdiff.networks.attention import dot_product_attention


def written_out(q, k, v, mask=None):
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1])
    weights = jax.nn.softmax(scores if mask is None else jnp.where(mask[:, None, None], scores, -1e30))
    return jnp.einsum("bhij,bjhd->bihd", weights, v)


@jax.jit
def expected(x, dx, g, *given):
    """Values, their move and the three gradients of the softmax written out."""
    of = lambda *x: written_out(*x, *given)
    return *jax.jvp(of, x, dx), *jax.vjp(of, *x)[1](g)


def draws(batch, queries, keys, heads, width, dtype="float64", seed=0):
    """((q, k, v), their tangents, a cotangent, a mask that leaves every example a key)."""
    rng = np.random.default_rng(seed)
    by_query, by_key = (batch, queries, heads, width), (batch, keys, heads, width)
    drawn = [jnp.asarray(rng.standard_normal(s), dtype) for s in (by_query, by_key, by_key) * 2 + (by_query,)]
    mask = jnp.asarray(rng.random((batch, keys)) < 0.6).at[:, 0].set(True)
    return tuple(drawn[:3]), tuple(drawn[3:6]), drawn[6], mask


def derivatives(f, x, dx):
    """Every product and gradient of f at x, and of its derivatives."""
    bent = lambda *x: jnp.sin(f(*x)).sum()
    gradient = jax.grad(bent, (0, 1, 2))
    forward = lambda *x: jax.jvp(f, x, dx)[1]
    scaled = lambda a: jax.jvp(f, x, tuple(a * part for part in dx))[1]
    turn = lambda q, _: (jax.checkpoint(f)(q, *x[1:]), None)
    twice = lambda q: jnp.sin(jax.lax.scan(turn, q, None, length=2)[0]).sum()
    return {
        "values": f(*x),
        "forward": forward(*x),
        "forward of one": jax.jvp(lambda k: f(x[0], k, x[2]), x[1:2], dx[1:2])[1],
        "backward": gradient(*x),
        "backward of one": jax.grad(lambda v: bent(*x[:2], v))(x[2]),
        "forward over backward": jax.jvp(gradient, x, dx)[1],
        "backward over forward": jax.grad(lambda *x: jnp.sin(forward(*x)).sum(), (0, 1, 2))(*x),
        "backward in the tangents": jax.grad(lambda *dx: jnp.sin(jax.jvp(f, x, dx)[1]).sum(), (0, 1, 2))(*dx),
        "backward over backward": jax.grad(lambda *x: sum(jnp.sin(g).sum() for g in gradient(*x)), (0, 1, 2))(*x),
        "mapped": jax.vmap(scaled)(jnp.arange(3.0)),
        "mapped over a later axis": jax.vmap(lambda q: jax.grad(bent)(q, *x[1:]), 1)(jnp.stack([x[0], 2 * x[0]], 1)),
        "linearized": jax.vmap(jax.linearize(f, *x)[1])(*(jnp.stack([part, 2 * part]) for part in dx)),
        "computed again in a loop": jax.grad(twice)(x[0]),
    }


@pytest.mark.parametrize("masked", few({"whole": False, "masked": True}, "masked"))
def test_values_and_all_derivatives_are_those_of_the_softmax_written_out(x64, monkeypatch, masked):
    monkeypatch.setattr(module, "_WEIGHTS", 2 * 2 * 9 * 7)  # two examples at a time, and a rest
    x, dx, _, mask = draws(3, 9, 7, 2, 4)
    given = (mask,) if masked else ()
    found, expected = (
        jax.jit(lambda of=of: derivatives(lambda *x: of(*x, *given), x, dx))()
        for of in (dot_product_attention, written_out)
    )
    for name, tree in expected.items():
        for right, got in zip(jax.tree.leaves(tree), jax.tree.leaves(found[name]), strict=True):
            np.testing.assert_allclose(got, right, atol=1e-13 * np.abs(right).max(), err_msg=name)


CASES = {
    "whole blocks": ((1, 128, 128, 2, 64), False),
    "narrow heads, a rest": ((2, 100, 70, 1, 8), False),
    "keys of another length": ((2, 65, 20, 2, 24), True),
    "one short block": ((1, 5, 3, 1, 2), True),
    "wide heads": ((1, 40, 64, 1, 256), False),
}


@pytest.mark.parametrize("case", few(CASES, "keys of another length"))
def test_kernels_are_the_softmax_written_out(case):
    """Run as Python: sums in float32 of up to 256 terms, in another order."""
    shape, masked = case
    (q, k, v), tangents, g, mask = draws(*shape, dtype="float32")
    given = (mask,) if masked else ()
    with jax.default_matmul_precision("highest"):
        value, moved, *pulled = expected((q, k, v), tangents, g, *given)
    how = {"precision": "highest", "interpret": True}
    o, norm = kernels.forward(q, k, v, *given, **how)
    found = [o, *kernels.tangent(q, k, v, *tangents, o, norm, *given, **how)]
    found += kernels.cotangent(q, k, v, g, o, norm, *given, **how)
    for got, right in zip(found, [value, moved, *pulled], strict=True):
        np.testing.assert_allclose(got, right, atol=5e-6 * np.abs(right).max())


def test_kernels_in_bfloat16_are_right_to_its_rounding():
    x, dx, g, _ = draws(1, 96, 80, 1, 16, dtype="bfloat16")
    wide = lambda tree: jax.tree.map(lambda part: part.astype(jnp.float32), tree)
    value, moved, *pulled = expected(wide(x), wide(dx), wide(g))
    how = {"precision": None, "interpret": True}
    o, norm = kernels.forward(*x, **how)
    found = [o, *kernels.tangent(*x, *dx, o, norm, **how), *kernels.cotangent(*x, g, o, norm, **how)]
    for got, right in zip(found, [value, moved, *pulled], strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.asarray(wide(got)) - right
        assert np.sqrt(np.mean(error**2)) < 2**-8 * np.sqrt(np.mean(right**2))


@pytest.mark.parametrize(
    "attend", [dot_product_attention, lambda *x: kernels.forward(*x, precision=None, interpret=True)[0]]
)
def test_a_query_without_a_key_reads_zero(attend):
    (q, k, v), _, _, mask = draws(2, 6, 5, 1, 4, dtype="float32")
    mask = mask.at[0].set(False)
    np.testing.assert_array_equal(attend(q, k, v, mask)[0], 0)
    np.testing.assert_allclose(attend(q, k, v, mask)[1], written_out(q, k, v, mask)[1], atol=1e-6)
    gradients = jax.grad(lambda *x: jnp.sin(dot_product_attention(*x, mask)).sum(), (0, 1, 2))(q, k, v)
    assert all((gradient[0] == 0).all() and jnp.isfinite(gradient).all() for gradient in gradients)


LENGTH, KEYS = 96, 80


def lowered(dtype, width, precision=None):
    """The program for a GPU of values, a mapped product forward and a gradient."""
    x, dx, g, mask = draws(2, LENGTH, KEYS, 2, width, dtype=dtype)
    several = jax.tree.map(lambda part: jnp.stack([part, part]), dx)

    def programs(x, several, g):
        f = lambda *x: dot_product_attention(*x, mask)
        return jax.vmap(lambda *dx: jax.jvp(f, x, dx))(*several), jax.vjp(f, *x)[1](g)

    with jax.default_matmul_precision(precision), an_h100():
        return jax.jit(programs).trace(x, several, g).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("dtype", "width", "fused"),
    [("bfloat16", 8, True), ("float32", 64, True), ("float16", 256, True), ("float32", 257, False)],
)
def test_on_a_gpu_no_array_has_a_number_for_every_query_and_key(dtype, width, fused):
    text = lowered(dtype, width)
    assert len(re.findall(r"custom_call @__gpu\$xla.gpu.triton", text)) == 5 * fused
    assert bool(re.search(rf"tensor<[\dx]*{LENGTH}x{KEYS}x", text)) is not fused


def test_a_kernel_that_cannot_be_lowered_gives_way_and_says_so(monkeypatch):
    def refuses(*arrays, **how):
        raise RuntimeError("no such GPU")

    monkeypatch.setattr(kernels, "tangent", refuses)
    with pytest.warns(UserWarning, match=r"arrays of \[queries, keys\], since its kernel .*: no such GPU"):
        text = lowered("float32", 16)
    assert re.search(rf"tensor<[\dx]*{LENGTH}x{KEYS}x", text)


def test_kernels_multiply_as_exactly_as_they_are_asked_to():
    assert "attention_tangent_exact" in lowered("float32", 16, "highest")
    assert "attention_tangent_exact" not in lowered("float32", 16)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda q, k, v, mask: (q[0], k, v), ValueError, "expected q [batch, queries, heads, d]"),
        (lambda q, k, v, mask: (q, k, v[:, 1:]), ValueError, "q, k and v have shapes (2, 4, 1, 2), (2, 3, 1, 2) and"),
        (lambda q, k, v, mask: (q[..., :1], k, v), ValueError, "expected q [batch, queries, heads, d]"),
        (lambda q, k, v, mask: (q, k.astype(int), v), TypeError, "expected floating values"),
        (lambda q, k, v, mask: (q, k, v, mask.astype(float)), TypeError, "expected bool, True where a key may be read"),
        (lambda q, k, v, mask: (q, k, v, mask[:, 1:]), ValueError, "mask has shape (2, 2); expected [batch, keys] ="),
    ],
)
def test_what_does_not_belong_together_is_refused(change, error, words):
    (q, k, v), _, _, mask = draws(2, 4, 3, 1, 2, dtype="float32")
    with pytest.raises(error, match=re.escape(words)):
        dot_product_attention(*change(q, k, v, mask))
