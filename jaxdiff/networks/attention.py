"""softmax(q kᵀ/√d) v (Vaswani et al. 2017, eq. 1), whose derivatives, forward and backward, store no [length, length].

With s = q kᵀ/√d, p = softmax(s) = exp(s - l), l the logarithm of the sum of exp(s), and o = p v, the product forward
and its transpose are

    ds = (dq kᵀ + q dkᵀ)/√d        do = (p ∘ ds) v + p dv - r o,                  r the sum of p ∘ ds over keys
    gs = p ∘ (g vᵀ - g · o)        gq = gs k/√d,    gk = gsᵀ q/√d,    gv = pᵀ g

so that a derivative receives o and l, one number per row, and recomputes p. Values, products forward and products
backward are three primitives. The derivative of the first is the second, the transpose of the second is the third, and
a mapped axis joins the batch, so that every transformation of JAX applies. Derivatives of the second and third in q, k
and v are those of their formulas, with arrays of [length, length].

The program of a primitive is chosen when it is lowered for a platform:

    CUDA    kernels that hold a block of rows at a time, `attention_kernels`; widths that they do not support, and
            float64, as on TPU
    CPU     products of matrices; a derivative takes a few examples at a time, so that their weights fit in the cache:
            with 256 pixels, 8 heads of 8 channels and 16 images, two cores took 28 ms in place of 62 for the gradient,
            and 19 in place of 36 for a product forward (values alone, of all images at once, 5)
    TPU     products of matrices
"""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

from jaxdiff.arrays import as_array, chosen_precision, with_dtype
from jaxdiff.arrays.dtypes import working_dtype

_WEIGHTS = 2**21
"""The number of weights that a derivative on CPU holds at once: 8 MiB."""


def dot_product_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Dot-product attention softmax(q kᵀ/√d) v, whose derivatives do not store the weights `[queries, keys]`.

    The softmax is computed in float32 or wider, and products as exactly as `jax.default_matmul_precision` says. Under a
    current mesh with axes of type Auto the batch is sharded over it. On CUDA kernels are used, which round the width of
    a head up in registers; any number of queries and keys is possible:

        width       1 to 16   17 to 32   33 to 64   65 to 128   129 to 256   above, and float64
        computed as    16        32         64         128          256      arrays of [queries, keys]

    If Pallas cannot lower the kernels (a GPU or a JAX that it does not support), a warning says so, and all widths use
    arrays of [queries, keys].

    Args:
        q: queries, `[batch, queries, heads, d]`.
        k: keys, `[batch, keys, heads, d]`.
        v: values, of the shape of k.
        mask: bool `[batch, keys]`, which keys may be read; None for all. A query that may read no key gives 0.

    Returns:
        The weighted mean of the values for each query, of the shape of q.

    Raises:
        TypeError: if an array is not floating, the dtypes differ, or the mask is not bool.
        ValueError: if the shapes do not match.

    Source:
        Vaswani et al. 2017, "Attention is all you need", eq. 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> q, k = jnp.ones((1, 1, 1, 2)), jnp.ones((1, 2, 1, 2))  # one query, two equal keys
        >>> v = jnp.array([0.0, 0.0, 1.0, 3.0]).reshape(1, 2, 1, 2)
        >>> jd.networks.dot_product_attention(q, k, v).ravel().tolist()  # the mean of both values
        [0.5, 1.5]
    """
    q, k, v = (_floating(name, array) for name, array in (("q", q), ("k", k), ("v", v)))
    if q.ndim != 4 or k.shape != v.shape or q.shape[:1] + q.shape[2:] != k.shape[:1] + k.shape[2:]:
        raise ValueError(
            f"q, k and v have shapes {q.shape}, {k.shape} and {v.shape}; expected q [batch, queries, heads, d], k "
            "and v [batch, keys, heads, d]"
        )
    if 0 in q.shape + k.shape:
        raise ValueError(f"q and k have shapes {q.shape} and {k.shape}; expected at least one value of each")
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; expected one dtype")
    masks = () if mask is None else (as_array(mask),)
    for given in masks:
        if given is None or given.dtype != bool:
            raise TypeError(f"{with_dtype('mask', mask)}; expected bool, True where a key may be read")
        if given.shape != k.shape[:2]:
            raise ValueError(f"mask has shape {given.shape}; expected [batch, keys] = {k.shape[:2]}")
    attend = lambda *arrays: forward_p.bind(*arrays, precision=chosen_precision())[0]
    mesh = jax.sharding.get_abstract_mesh()
    if set(mesh.axis_types) == {AxisType.Auto} and mesh.size > 1 and len(q) % mesh.size == 0:
        split = PartitionSpec(mesh.axis_names)  # without shard_map XLA would gather the arguments of a kernel
        attend = jax.shard_map(attend, in_specs=split, out_specs=split, check_vma=False)
    return attend(q, k, v, *masks)


def _floating(name: str, value) -> jax.Array:
    array = as_array(value)
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{with_dtype(name, value)}; expected floating values")
    return jnp.asarray(array)


def _scores(q, k, precision):
    """q kᵀ/√d [batch, heads, queries, keys], in float32 at least."""
    # so that the gradient of k is a product of [d, length] and [length, length], three times as fast as its transpose
    k = jax.lax.optimization_barrier(jnp.moveaxis(k, -3, -1))
    q = (q / math.sqrt(q.shape[-1])).swapaxes(-3, -2)
    return jnp.matmul(q, k, precision=precision, preferred_element_type=working_dtype(q))


def _hidden(scores, masks):
    return functools.reduce(lambda s, mask: jnp.where(mask[..., None, None, :], s, -jnp.inf), masks, scores)


def _mix(weights, v, precision):
    """weights v [batch, queries, heads, d], of weights [batch, heads, queries, keys]."""
    mixed = jnp.matmul(weights.astype(v.dtype), v.swapaxes(-3, -2), precision=precision)
    return mixed.swapaxes(-3, -2)


def _a_row(numbers):
    """[batch, heads, queries] in the layout of [batch, queries, heads, d]."""
    return numbers.swapaxes(-2, -1)[..., None]


def _forward(q, k, v, *masks, precision):
    """[o, l]"""
    s = _hidden(_scores(q, k, precision), masks)
    top = s.max(-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0) if masks else top)
    weights = jnp.exp(s - top)
    total = weights.sum(-1)
    total = jnp.where(total == 0, 1.0, total) if masks else total
    return [(_mix(weights, v, precision) / _a_row(total)).astype(v.dtype), top[..., 0] + jnp.log(total)]


def _tangent(q, k, v, dq, dk, dv, o, l, *masks, precision):
    """[do]"""
    p = jnp.exp(_hidden(_scores(q, k, precision), masks) - l[..., None])
    moved = p * (_scores(dq, k, precision) + _scores(q, dk, precision))
    do = _mix(moved, v, precision) + _mix(p, dv, precision) - _a_row(moved.sum(-1)) * o
    return [do.astype(v.dtype)]


def _cotangent(q, k, v, g, o, l, *masks, precision):
    """[gq, gk, gv]"""
    return jax.linear_transpose(lambda *d: _tangent(q, k, v, *d, o, l, *masks, precision=precision)[0], q, k, v)(g)


def _a_few_at_once(function):
    """`function` of a few examples at a time, so that their weights fit in the cache."""

    def run(q, k, *arrays, precision):
        weights = q.shape[2] * q.shape[1] * k.shape[1]
        some = lambda arrays: function(*arrays, precision=precision)
        return jax.lax.map(some, (q, k, *arrays), batch_size=max(1, _WEIGHTS // weights))

    return run


def _takes(q) -> bool:
    """Whether the kernels support heads of this width and dtype."""
    return q.shape[-1] <= 256 and q.dtype in (jnp.float32, jnp.bfloat16, jnp.float16)


def _primitive(name: str, function, on_cpu, kernel: str) -> Primitive:
    """A primitive on arrays [batch, ...] that treats each example separately; its lowering depends on the platform."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    @functools.cache
    def compiled(precision):
        return jax.jit(functools.partial(primitive.bind, precision=precision))

    def batched(arrays, axes, *, precision):
        size = next(array.shape[axis] for array, axis in zip(arrays, axes) if axis is not None)
        first = lambda array, axis: (
            jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        )
        together = [first(array, axis) for array, axis in zip(arrays, axes)]
        results = primitive.bind(*(array.reshape(-1, *array.shape[2:]) for array in together), precision=precision)
        return [result.reshape(size, -1, *result.shape[1:]) for result in results], [0] * len(results)

    primitive.def_impl(lambda *arrays, precision: compiled(precision)(*arrays))
    primitive.def_abstract_eval(lambda *arrays, precision: _types(function, arrays, precision))
    batching.primitive_batchers[primitive] = batched
    lower = functools.partial(mlir.lower_fun, multiple_results=True)

    def lower_on_cuda(context, *arrays, **how):
        exported = context.module_context.lowering_parameters.for_export  # kernels are not portable
        if _takes(context.avals_in[0]) and not exported:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # Pallas's Triton backend, from JAX 0.12 on
                    from jaxdiff.networks import attention_kernels  # slow to import: Pallas

                    return lower(getattr(attention_kernels, kernel))(context, *arrays, **how)
            except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
                warnings.warn(
                    f"attention uses arrays of [queries, keys], since its kernel cannot be lowered: {error}",
                    stacklevel=2,
                )
        return lower(function)(context, *arrays, **how)

    mlir.register_lowering(primitive, lower(function))
    mlir.register_lowering(primitive, lower(on_cpu), "cpu")
    mlir.register_lowering(primitive, lower_on_cuda, "cuda")
    return primitive


def _types(function, arrays, precision):
    return [jax.typeof(x) for x in jax.eval_shape(functools.partial(function, precision=precision), *arrays)]


forward_p = _primitive("attention", _forward, _forward, "forward")
tangent_p = _primitive("attention_tangent", _tangent, _a_few_at_once(_tangent), "tangent")
cotangent_p = _primitive("attention_cotangent", _cotangent, _a_few_at_once(_cotangent), "cotangent")


def _zero(tangent) -> bool:
    return type(tangent) is ad.Zero


def _sum(*parts):
    """The sum of lists of arrays; None stands for zeros."""
    return functools.reduce(lambda one, other: [a + b for a, b in zip(one, other)], filter(None, parts))


def _forward_jvp(arrays, tangents, **how):
    q, k, v, *masks = arrays
    o, l = forward_p.bind(*arrays, **how)
    moved = tangent_p.bind(q, k, v, *map(ad.instantiate_zeros, tangents[:3]), o, l, *masks, **how)
    return [o, l], [*moved, jnp.zeros_like(l)]  # the derivatives that read l treat it as a function of q and k


def _derivative_jvp(primitive, function, given: int):
    """The derivative of the second or third map, which is linear in the `given` arrays after q, k and v.

    In these arrays it is the map itself; in q, k and v, on which o and l depend, it is the derivative of its formula.
    """

    def jvp(arrays, tangents, **how):
        inputs, linear, (o, l, *masks) = arrays[:3], arrays[3 : 3 + given], arrays[3 + given :]
        moved, turned = tangents[:3], tangents[3 : 3 + given]
        by_linear = by_inputs = None
        if not all(map(_zero, turned)):
            by_linear = primitive.bind(*inputs, *map(ad.instantiate_zeros, turned), o, l, *masks, **how)
        if not all(map(_zero, moved)):
            formula = lambda *inputs: function(*inputs, *linear, *_forward(*inputs, *masks, **how), *masks, **how)
            by_inputs = jax.jvp(formula, tuple(inputs), tuple(map(ad.instantiate_zeros, moved)))[1]
        return primitive.bind(*arrays, **how), _sum(by_linear, by_inputs)

    return jvp


def _transpose(primitive, given: int):
    """The transpose in the `given` arrays after q, k and v: of the second map the third, and the other way round."""

    def transpose(cotangents, *arrays, **how):
        if all(map(_zero, cotangents)):
            return [None] * len(arrays)
        cotangents = map(ad.instantiate_zeros, cotangents)
        results = primitive.bind(*arrays[:3], *cotangents, *arrays[3 + given :], **how)
        asked = [x if ad.is_undefined_primal(array) else None for array, x in zip(arrays[3:], results)]
        return [None] * 3 + asked + [None] * (len(arrays) - 3 - given)

    return transpose


ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_jvps[tangent_p] = _derivative_jvp(tangent_p, _tangent, 3)
ad.primitive_jvps[cotangent_p] = _derivative_jvp(cotangent_p, _cotangent, 1)
ad.primitive_transposes[tangent_p] = _transpose(cotangent_p, 3)
ad.primitive_transposes[cotangent_p] = _transpose(tangent_p, 1)
