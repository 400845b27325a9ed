"""Attention on a CUDA device: kernels that hold a block of queries and one of keys at a time (Dao et al. 2022).

With the notation of `attention`. The forward kernel keeps the running maximum of a row and the sums over its keys, and
returns l, the logarithm of the sum of exp(s). All other kernels recompute p = exp(s - l) from it. There are two
backward kernels: in one a block of keys meets all queries for gk and gv, in the other a block of queries all keys for
gq, and no two programs add to one location.

Each program of the grid handles one head of one example. A tile of a product has at least 16 columns, a power of two,
so that widths and lengths are padded with zeros when they are read; memory holds the arrays without padding.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

_LOW = -1e30  # below every score but finite, so that a row without keys gives exp(-inf - _LOW) = 0
_INEXACT = {None, "default", "fastest", "bfloat16", "high", "tensorfloat32", "bfloat16_3x", "TF32_TF32_F32"}


@dataclasses.dataclass(frozen=True)
class Rows:
    """`length` rows of `width` values, which a program reads and writes a block at a time."""

    length: int
    width: int
    block: int

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return pl.cdiv(self.length, self.block)

    @property
    def spec(self) -> pl.BlockSpec:
        """All rows of one head, in an array [batch, length, heads, width]."""
        shape = None, self.blocks * self.block, None, _tile(self.width)
        return pl.BlockSpec(shape, lambda i, head, example: (example, 0, head, 0))

    @property
    def number_spec(self) -> pl.BlockSpec:
        """One number per row, in an array [batch, heads, length]."""
        return pl.BlockSpec((None, None, self.blocks * self.block), lambda i, head, example: (example, head, 0))

    @property
    def shared_spec(self) -> pl.BlockSpec:
        """One number per row, the same for every head, in an array [batch, length]."""
        return pl.BlockSpec((None, self.blocks * self.block), lambda i, head, example: (example, 0))

    def _there(self, i) -> jax.Array | None:
        if self.length % self.block == 0:
            return None
        return i * self.block + jnp.arange(self.block) < self.length

    def _mask(self, i) -> jax.Array | None:
        rows, columns = self._there(i), None
        if self.width < _tile(self.width):
            columns = (jnp.arange(_tile(self.width)) < self.width)[None]
        if rows is None or columns is None:
            return columns if rows is None else rows[:, None]
        return rows[:, None] & columns

    def read(self, ref, i) -> jax.Array:
        """Block i, [block, width], with zeros beyond the last row."""
        mask = self._mask(i)
        return triton.load(ref.at[pl.ds(i * self.block, self.block), :], mask=mask, other=None if mask is None else 0.0)

    def write(self, ref, i, values) -> None:
        """Store block i."""
        triton.store(ref.at[pl.ds(i * self.block, self.block), :], values.astype(ref.dtype), mask=self._mask(i))

    def numbers(self, ref, i, beyond: float = 0.0) -> jax.Array:
        """One number per row of block i, [block]."""
        mask = self._there(i)
        return triton.load(ref.at[pl.ds(i * self.block, self.block)], mask=mask, other=None if mask is None else beyond)

    def write_numbers(self, ref, i, values) -> None:
        """Store one number per row of block i."""
        triton.store(ref.at[pl.ds(i * self.block, self.block)], values, mask=self._there(i))

    def hide(self, scores, i, bias) -> jax.Array:
        """Scores [queries, block] of block i of keys, -inf at keys that may not be read."""
        if bias:
            return scores + self.numbers(bias[0], i, -jnp.inf)[None]
        there = self._there(i)
        return scores if there is None else jnp.where(there[None], scores, -jnp.inf)


def _tile(width: int) -> int:
    return max(16, pl.next_power_of_2(width))


def _rows(array: jax.Array, together: int) -> Rows:
    """Blocks of an array [batch, length, heads, width]; a program holds `together` of them in 32 KiB."""
    _, length, _, width = array.shape
    room = 2**15 // (together * _tile(width) * array.dtype.itemsize)
    return Rows(length, width, min(max(16, min(64, room)), max(16, pl.next_power_of_2(length))))


_zeros = functools.partial(jnp.zeros, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Products:
    """Products of tiles, summed in float32: in TF32 if the precision allows it, or in float32."""

    scale: float
    precision: str | None

    def __call__(self, a, b, **transposed) -> jax.Array:
        return triton.dot(a.astype(b.dtype), b, allow_tf32=self.precision in _INEXACT, **transposed)

    def scores(self, q, k) -> jax.Array:
        return self(q, k, trans_b=True) * self.scale


def _forward(products, queries, keys, q, k, v, *refs):
    *bias, o, l = refs
    i = pl.program_id(0)
    Q = queries.read(q, i)

    def body(j, carry):
        top, total, mixed = carry
        s = keys.hide(products.scores(Q, keys.read(k, j)), j, bias)
        higher = jnp.maximum(top, s.max(1))
        fade, weights = jnp.exp(top - higher), jnp.exp(s - higher[:, None])
        mixed = mixed * fade[:, None] + products(weights, keys.read(v, j))
        return higher, total * fade + weights.sum(1), mixed

    start = _zeros(Q.shape[:1]) + _LOW, _zeros(Q.shape[:1]), _zeros(Q.shape)
    top, total, mixed = jax.lax.fori_loop(0, keys.blocks, body, start)
    read = total > 0
    total = jnp.where(read, total, 1.0)
    queries.write(o, i, mixed / total[:, None])
    queries.write_numbers(l, i, jnp.where(read, top + jnp.log(total), 0.0))


def _tangent(products, queries, keys, q, k, v, dq, dk, dv, o, l, *refs):
    *bias, do = refs
    i = pl.program_id(0)
    Q, DQ, norm = queries.read(q, i), queries.read(dq, i), queries.numbers(l, i)[:, None]

    def body(j, carry):
        mean, mixed = carry
        K, V = keys.read(k, j), keys.read(v, j)
        p = jnp.exp(keys.hide(products.scores(Q, K), j, bias) - norm)
        moved = p * (products.scores(DQ, K) + products.scores(Q, keys.read(dk, j)))
        return mean + moved.sum(1), mixed + products(moved, V) + products(p, keys.read(dv, j))

    start = _zeros(Q.shape[:1]), _zeros(Q.shape)
    mean, mixed = jax.lax.fori_loop(0, keys.blocks, body, start)
    queries.write(do, i, mixed - mean[:, None] * queries.read(o, i))


def _cotangent_of_queries(products, queries, keys, q, k, v, g, l, along, *refs):
    *bias, gq = refs
    i = pl.program_id(0)
    Q, G = queries.read(q, i), queries.read(g, i)
    norm, mean = queries.numbers(l, i)[:, None], queries.numbers(along, i)[:, None]

    def body(j, mixed):
        K = keys.read(k, j)
        p = jnp.exp(keys.hide(products.scores(Q, K), j, bias) - norm)
        return mixed + products(p * (products(G, keys.read(v, j), trans_b=True) - mean), K)

    mixed = jax.lax.fori_loop(0, keys.blocks, body, _zeros(Q.shape))
    queries.write(gq, i, mixed * products.scale)


def _cotangent_of_keys(products, queries, keys, q, k, v, g, l, along, *refs):
    *bias, gk, gv = refs
    j = pl.program_id(0)
    K, V = keys.read(k, j), keys.read(v, j)

    def body(i, carry):
        of_k, of_v = carry
        Q, G = queries.read(q, i), queries.read(g, i)
        # rows beyond the last have q = g = 0 and contribute nothing for any p
        p = jnp.exp(keys.hide(products.scores(Q, K), j, bias) - queries.numbers(l, i)[:, None])
        moved = p * (products(G, V, trans_b=True) - queries.numbers(along, i)[:, None])
        return of_k + products(moved, Q, trans_a=True), of_v + products(p, G, trans_a=True)

    of_k, of_v = jax.lax.fori_loop(0, queries.blocks, body, (_zeros(K.shape), _zeros(K.shape)))
    keys.write(gk, j, of_k * products.scale)
    keys.write(gv, j, of_v)


def _run(kernel, over: Rows, queries: Rows, keys: Rows, arguments, results, precision, interpret):
    """Run `kernel` once for each block of `over`, head and example; arguments and results come with their specs."""
    (arrays, read), (shapes, written) = zip(*arguments), zip(*results)
    batch, _, heads, width = arrays[0].shape
    where: dict = {"interpret": True}
    if not interpret:
        where = {"compiler_params": triton.CompilerParams(num_warps=4 if width <= 64 else 8, num_stages=2)}
    return pl.pallas_call(
        functools.partial(kernel, _Products(1 / math.sqrt(width), precision), queries, keys),
        grid=(over.blocks, heads, batch),
        in_specs=read,
        out_specs=written,
        out_shape=shapes,
        name="attention" + kernel.__name__ + ("" if precision in _INEXACT else "_exact"),
        **where,
    )(*arrays)


def _biases(masks, keys: Rows):
    return [(jnp.where(mask, 0.0, -jnp.inf).astype(jnp.float32), keys.shared_spec) for mask in masks]


def forward(q, k, v, *masks, precision, interpret=False):
    """(o, l) of q, k, v [batch, length, heads, width] and masks of keys, none or one."""
    queries, keys = _rows(q, 2), _rows(k, 2)
    arguments = [(q, queries.spec), (k, keys.spec), (v, keys.spec), *_biases(masks, keys)]
    batch, length, heads, _ = q.shape
    numbers = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    results = [(jax.ShapeDtypeStruct(q.shape, q.dtype), queries.spec), (numbers, queries.number_spec)]
    return _run(_forward, queries, queries, keys, arguments, results, precision, interpret)


def tangent(q, k, v, dq, dk, dv, o, l, *masks, precision, interpret=False):
    """[do], the product forward."""
    queries, keys = _rows(q, 4), _rows(k, 4)
    q, dq, o = ((array, queries.spec) for array in (q, dq, o))
    k, v, dk, dv = ((array, keys.spec) for array in (k, v, dk, dv))
    arguments = [q, k, v, dq, dk, dv, o, (l, queries.number_spec), *_biases(masks, keys)]
    return _run(_tangent, queries, queries, keys, arguments, [_like(q)], precision, interpret)


def cotangent(q, k, v, g, o, l, *masks, precision, interpret=False):
    """[gq, gk, gv], the product backward."""
    queries, keys = _rows(q, 2), _rows(k, 2)
    along = jnp.sum(g.astype(jnp.float32) * o, -1).swapaxes(1, 2)
    q, g = ((array, queries.spec) for array in (q, g))
    k, v = ((array, keys.spec) for array in (k, v))
    numbers = [(l, queries.number_spec), (along, queries.number_spec)]
    arguments = [q, k, v, g, *numbers, *_biases(masks, keys)]
    run = functools.partial(_run, queries=queries, keys=keys, arguments=arguments, precision=precision)
    of_queries = run(_cotangent_of_queries, queries, results=[_like(q)], interpret=interpret)
    return of_queries + run(_cotangent_of_keys, keys, results=[_like(k), _like(v)], interpret=interpret)


def _like(argument):
    array, spec = argument
    return jax.ShapeDtypeStruct(array.shape, array.dtype), spec
