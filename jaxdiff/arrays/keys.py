"""Random keys, one per example: the random numbers of an example depend on the key and the example's index alone.

Under `vmap` the generators "rbg" and "unsafe_rbg" draw numbers that depend on the batch, as JAX documents. Their keys
are therefore hashed to threefry keys, from which all random numbers of examples are drawn.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdiff.arrays.checks import said


def check_key(key, name: str = "key") -> jax.Array:
    """`key` if it is a single typed key; TypeError for anything else, ValueError for several keys."""
    if _typed(key, name).ndim:
        raise ValueError(f"{name} has shape {key.shape}; expected one key")
    return key


def _typed(key, name: str) -> jax.Array:
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"{name} = {said(key)} is not a typed key; make one with jax.random.key(seed)")
    return key


def example_keys(key, n: int) -> jax.Array:
    """Make one key per example, so that what an example draws does not depend on the rest of its batch.

    Args:
        key: one typed key, or n of them. Keys of the generators "rbg" and "unsafe_rbg" are hashed to threefry keys.
        n: the number of examples.

    Returns:
        Keys `[n]`: `key` folded with the index of each example, or `key` itself if it holds n keys.

    Raises:
        TypeError: if `key` is not a typed key.
        ValueError: if it holds another number of keys.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> jd.samplers.example_keys(jax.random.key(0), 4).shape
        (4,)
    """
    _typed(key, "key")
    if key.ndim and key.shape != (n,):
        raise ValueError(f"key has shape {key.shape}; expected one key, or {n} keys for {n} examples")
    if "rbg" in str(jax.random.key_impl(key)):
        key = _threefry(key)
    return key if key.ndim else _indexed_keys(key, n)


@jax.jit
def _threefry(key) -> jax.Array:
    data = jax.random.key_data(key)

    def hashed(words):
        return functools.reduce(jax.random.fold_in, words, jax.random.key(0, impl="threefry2x32"))

    flat = jax.vmap(hashed)(data.reshape(-1, data.shape[-1]))
    return flat.reshape(data.shape[:-1])


@functools.partial(jax.jit, static_argnames="n")
def _indexed_keys(key, n: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def folded(keys, number) -> jax.Array:
    """Each of `keys` folded with `number`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def split_keys(keys, count: int = 2) -> tuple:
    """Split each of `keys` into `count` keys: a tuple of `count` arrays like `keys`."""
    return jnp.unstack(jax.vmap(lambda key: jax.random.split(key, count))(keys), axis=1)


def uniform(keys, x) -> jax.Array:
    """A uniform number in [0, 1) for each value of x [n, *event], one key per example."""
    return jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)


def normal(keys, x) -> jax.Array:
    """Standard normal noise of the shape and dtype of x [n, *event], one key per example."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
