"""The law of the random time t of a loss: a frozen dataclass called as `times(key, process, n) -> (t, factor)`.

The loss at t is multiplied by `factor`, [n] like t. It is 1 where the density of t is part of the objective, as in the
papers, and 1 / density for `Importance`, which changes the variance of the loss and not its mean. A number out of range
raises ValueError; a traced one gives NaN.
"""

import abc
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_field, check_function, check_key, check_whole
from jaxdiff.processes import Process, check_process, check_time, is_concrete, pytree


class Times(Protocol):
    """The interface of a law of times: a callable pytree `(key, process, n) -> (t, factor)`.

    To define a law, write `__call__` in a frozen dataclass under `@jaxdiff.pytree`.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Squared:
        ...     def __call__(self, key, process, n):
        ...         return jax.random.uniform(key, (n,)) ** 2, jnp.ones(n)
        >>> t, factor = Squared()(jax.random.key(0), jd.VP(), 4)
        >>> t.shape, factor.shape
        ((4,), (4,))
    """

    def __call__(self, key, process: Process, n: int, /) -> tuple[Any, Any]:
        """(t, factor), each [n], or trees of them for a product."""
        ...


def _below_one(t) -> jax.Array:
    """`t` clipped to below 1, which rounding can reach and where α may be 0."""
    return jnp.minimum(t, 1 - jnp.finfo(t.dtype).eps)


def _between(t_min, fraction) -> jax.Array:
    t_min = along_batch(t_min, fraction, "t_min")
    return _below_one(t_min + (1 - t_min) * fraction)


def _stratified(key, n: int) -> jax.Array:
    """A number in each of n equal parts of [0, 1), all with the same random shift (Kingma et al. 2021, app. I.1)."""
    shift = jax.random.uniform(key)
    return _below_one((jnp.arange(n, dtype=shift.dtype) + shift) / n)


class _Times(abc.ABC):
    def __call__(self, key, process: Process, n: int) -> tuple[Any, Any]:
        """(t, factor), each [n], or trees of them; raises for an invalid key, process or n."""
        check_key(key)
        check_process(process)
        return self._draw(key, process, check_whole("n", n))

    @abc.abstractmethod
    def _draw(self, key, process: Process, n: int) -> tuple[Any, Any]: ...


@dataclasses.dataclass(frozen=True)
class _From(_Times):
    t_min: float = 1e-5

    def __post_init__(self):
        check_field(self, "t_min", least=0, below=1)


@dataclasses.dataclass(frozen=True)
class _Normal(_Times):
    mean: float
    std: float

    def __post_init__(self):
        check_field(self, "mean")
        check_field(self, "std", least=0)

    def _values(self, key, n: int) -> jax.Array:
        z = jax.random.normal(key, (n,))
        return along_batch(self.mean, z, "mean") + along_batch(self.std, z, "std") * z


@pytree
@dataclasses.dataclass(frozen=True)
class Uniform(_From):
    """t uniform on [t_min, 1].

    Args:
        t_min: the smallest t, in [0, 1).

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", algorithm 1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> t, factor = jd.losses.times.Uniform()(jax.random.key(0), jd.VP(), 4)
        >>> t.shape, factor.tolist()
        ((4,), [1.0, 1.0, 1.0, 1.0])
    """

    def _draw(self, key, process, n):
        return _between(self.t_min, jax.random.uniform(key, (n,))), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Stratified(_From):
    """t uniform on [t_min, 1], one in each of n equal parts, which lowers the variance of a batch's mean.

    Args:
        t_min: the smallest t, in [0, 1).

    Source:
        Kingma et al. 2021, "Variational diffusion models", appendix I.1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> t, _ = jd.losses.times.Stratified(t_min=0.0)(jax.random.key(0), jd.VP(), 4)
        >>> (t * 4).astype(int).tolist()  # one in each quarter
        [0, 1, 2, 3]
    """

    def _draw(self, key, process, n):
        return _between(self.t_min, _stratified(key, n)), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Fixed(_Times):
    """The same t for all examples: training at a single noise level.

    Args:
        t: the time, in [0, 1].

    Source:
        Vincent 2011, "A connection between score matching and denoising autoencoders".

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> t, _ = jd.losses.times.Fixed(0.5)(jax.random.key(0), jd.VP(), 3)
        >>> t.tolist()
        [0.5, 0.5, 0.5]
    """

    t: float

    def __post_init__(self):
        check_time(self.t)

    def _draw(self, key, process, n):
        ones = jnp.ones(n)
        return along_batch(jnp.asarray(self.t, float), ones, "t") * ones, ones


@pytree
@dataclasses.dataclass(frozen=True)
class LogNormal(_Normal):
    """log(σ/α) ~ N(mean, std²), clipped to the ends of the process.

    Args:
        mean: the mean of log(σ/α).
        std: its standard deviation, 0 or more.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", table 1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> process = jd.EDM()
        >>> t, _ = jd.losses.times.LogNormal(mean=0.0, std=0.0)(jax.random.key(0), process, 1)
        >>> round(float(process.sigma(t)[0]), 3)
        1.0
    """

    mean: float = -1.2
    std: float = 1.2

    def _draw(self, key, process, n):
        return process.time_at_log_snr(-2 * self._values(key, n)), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class LogitNormal(_Normal):
    """log(t/(1-t)) ~ N(mean, std²), for `Flow`: the middle times most often (`VP` is nearly all noise at t = 1/2).

    Args:
        mean: the mean of log(t/(1-t)).
        std: its standard deviation, 0 or more.

    Source:
        Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", eq. 19.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> t, _ = jd.losses.times.LogitNormal()(jax.random.key(0), jd.Flow(), 4)
        >>> t.shape
        (4,)
    """

    mean: float = 0.0
    std: float = 1.0

    def _draw(self, key, process, n):
        return _below_one(jax.nn.sigmoid(self._values(key, n))), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Importance(_From):
    """t on [t_min, 1] with density ∝ the rate, the weight of an error in the bound, which lowers the bound's variance.

    The rate is the derivative of log σ/q (log sin φ for numbers), which is therefore drawn uniformly and stratified.

    Args:
        t_min: the smallest t, in [0, 1). The process must have noise there.

    Raises:
        ValueError: when called, if a concrete `t_min` has no noise, and so infinite weight.

    Source:
        Song et al. 2021, "Maximum likelihood training of score-based diffusion models".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Absorbing(27)
        >>> t, factor = jd.losses.times.Importance(t_min=0.01)(jax.random.key(0), process, 4)
        >>> bool(jnp.allclose(factor * process.rate(t), jnp.log(100)))  # rate = 1/t, of integral log(1/t_min)
        True
    """

    def _draw(self, key, process, n):
        _check_noise(process, self.t_min)
        t_min = along_batch(self.t_min, jnp.ones(n), "t_min")
        low, high = (process.log_share(t) for t in (t_min, 1.0))
        t = jnp.maximum(process.time_at_log_share(low + (high - low) * _stratified(key, n)), t_min)
        rate = process.rate(t)
        counted = rate > 0  # rounding can put t where there is no noise yet
        return t, jnp.where(counted, (high - low) / jnp.where(counted, rate, 1.0), 0.0)


@pytree
@dataclasses.dataclass(frozen=True)
class Subsets(_Times):
    """The times of a joint model for `jaxdiff.Given`: each part of a product is given, hidden, or at a shared time t.

    A given part is data, at t = 0, and has no loss; a hidden part is noise, at t = 1; all other parts share one t. Each
    example draws t by `times` and a uniform u in [0, 1]. Each of its parts is given with probability u, so that all
    numbers of given parts are equally likely, and otherwise hidden with probability `hidden`.

    Args:
        times: the law of the shared t.
        hidden: the probability that a part that is not given is hidden.

    Raises:
        TypeError: if `times` is not a law of times.
        ValueError: when called, if the process is not a product.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> joint = jd.Product({"image": jd.VP(), "label": jd.Absorbing(10)})
        >>> t, factor = jd.losses.times.Subsets()(jax.random.key(0), joint, 8)
        >>> t["image"].shape, t["label"].shape
        ((8,), (8,))
    """

    times: Times = Stratified()
    hidden: float = 0.25

    def __post_init__(self):
        check_function("times", self.times, "one of jaxdiff.losses.times, such as Stratified()")
        check_field(self, "hidden", least=0, most=1, noun="a probability")

    def _draw(self, key, process, n):
        parts = len(process.processes)
        if parts < 2:
            raise ValueError(f"Subsets draws the times of the parts of a product, not of {type(process).__name__}")
        time_key, *keys = jax.random.split(key, 4)
        t, factor = self.times(time_key, process, n)
        u, given, hidden = (
            jax.random.uniform(key, shape) for key, shape in zip(keys, [(n,), (parts, n), (parts, n)], strict=True)
        )
        given = given < u
        probability = along_batch(self.hidden, u, "hidden")
        t = jnp.where(given, 0.0, jnp.where(hidden < probability, 1.0, t))
        factor = jnp.where(given, 0.0, factor + 0 * probability)  # NaN where the probability is
        return process.joined(list(t)), process.joined(list(factor))


def _check_noise(process: Process, t_min) -> None:
    """Raise ValueError if there is no noise at a concrete `t_min`."""
    if all(map(is_concrete, [t_min, *jax.tree.leaves(process)])):
        with jax.ensure_compile_time_eval():
            clean = bool((process.log_snr(t_min) == jnp.inf).any())
        if clean:
            name = type(process).__name__
            raise ValueError(
                f"t_min = {t_min}: {name} has no noise left there, and the weight is infinite; expected a time above, "
                "such as t_min = 0.001"
            )
