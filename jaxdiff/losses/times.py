"""Where t is drawn for a loss: a frozen dataclass called as `times(key, process, n) -> (t, factor)`, each [n].

`factor` is what the loss at t is multiplied by: 1 where the density of t is part of the objective, as its authors meant
it, and 1 / density for `Importance`, which only moves the samples to where the loss is large. A number out of range
raises ValueError; one that is traced gives NaN.
"""

import abc
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_field, check_function, check_key, check_whole
from jaxdiff.processes import Process, check_process, check_time, is_concrete, pytree


class Times(Protocol):
    """What a law of times is: one of this module, or a frozen dataclass of your own under `@jaxdiff.pytree`."""

    def __call__(self, key, process: Process, n: int, /) -> tuple[Any, Any]:
        """(t, factor), each [n], or of a product trees of them."""
        ...


def _below_one(t) -> jax.Array:
    """`t` kept off 1 itself, where rounding can put it and where α may be 0."""
    return jnp.minimum(t, 1 - jnp.finfo(t.dtype).eps)


def _between(t_min, fraction) -> jax.Array:
    t_min = along_batch(t_min, fraction, "t_min")
    return _below_one(t_min + (1 - t_min) * fraction)


def _stratified(key, n: int) -> jax.Array:
    """One uniform number in each of n equal parts of [0, 1), all by the same shift (Kingma et al. 2021, app. I.1)."""
    shift = jax.random.uniform(key)
    return _below_one((jnp.arange(n, dtype=shift.dtype) + shift) / n)


class _Times(abc.ABC):
    def __call__(self, key, process: Process, n: int) -> tuple[Any, Any]:
        """(t, factor), each [n], or trees of them; raises for what is no key, no process, or no number of times."""
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
    """t uniform on [t_min, 1] (Ho et al. 2020, algorithm 1)."""

    def _draw(self, key, process, n):
        return _between(self.t_min, jax.random.uniform(key, (n,))), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Stratified(_From):
    """t uniform on [t_min, 1], one in each of n equal parts: less variance in every batch (Kingma et al. 2021)."""

    def _draw(self, key, process, n):
        return _between(self.t_min, _stratified(key, n)), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Fixed(_Times):
    """One time for all: a score trained at a single noise level (Vincent 2011)."""

    t: float

    def __post_init__(self):
        check_time(self.t)

    def _draw(self, key, process, n):
        ones = jnp.ones(n)
        return along_batch(jnp.asarray(self.t, float), ones, "t") * ones, ones


@pytree
@dataclasses.dataclass(frozen=True)
class LogNormal(_Normal):
    """log(σ/α) ~ N(mean, std²) (Karras et al. 2022, table 1), held within the ends of the process."""

    mean: float = -1.2
    std: float = 1.2

    def _draw(self, key, process, n):
        return process.time_at_log_snr(-2 * self._values(key, n)), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class LogitNormal(_Normal):
    """log(t/(1-t)) ~ N(mean, std²) (Esser et al. 2024, eq. 19); for `Flow`: VP is nearly all noise at t = 1/2."""

    mean: float = 0.0
    std: float = 1.0

    def _draw(self, key, process, n):
        return _below_one(jax.nn.sigmoid(self._values(key, n))), jnp.ones(n)


@pytree
@dataclasses.dataclass(frozen=True)
class Importance(_From):
    r"""t on [t_min, 1], density ∝ the rate at which the bound weighs an error (Song et al. 2021, "Maximum likelihood").

    The rate is the derivative of log σ/q, for numbers log sin φ, which is therefore drawn uniformly (and stratified).
    When called, raises ValueError where a concrete `t_min` has no noise, and so infinite weight.
    """

    def _draw(self, key, process, n):
        _check_noise(process, self.t_min)
        t_min = along_batch(self.t_min, jnp.ones(n), "t_min")
        low, high = (process.log_share(t) for t in (t_min, 1.0))
        t = jnp.maximum(process.time_at_log_share(low + (high - low) * _stratified(key, n)), t_min)
        rate = process.rate(t)
        counted = rate > 0  # by rounding, t can be where nothing is noise yet
        return t, jnp.where(counted, (high - low) / jnp.where(counted, rate, 1.0), 0.0)


@pytree
@dataclasses.dataclass(frozen=True)
class Subsets(_Times):
    """The times of a joint model whose parts are given of each other: each part is given, hidden, or at one time t.

    That is what `jaxdiff.Given` asks of a model: some parts are data, at t = 0, those that are not known are noise, at
    t = 1, and all others share one t. Each example draws that t by `times` and a number u of [0, 1]; each of its parts
    is then given with probability u, which makes every number of given parts as probable as any other, and otherwise
    hidden with probability `hidden`. Nothing is paid for what is given.

        jd.losses.Denoising(times=jd.losses.times.Subsets())

    Raises TypeError for `times` that are no law; when called, ValueError for a process that is no product.
    """

    times: Times = Stratified()
    hidden: float = 0.25

    def __post_init__(self):
        check_function("times", self.times, "one of jaxdiff.losses.times, such as Stratified()")
        check_field(self, "hidden", least=0, most=1, noun="a probability")

    def _draw(self, key, process, n):
        parts = len(process.processes)
        if parts < 2:
            raise ValueError(f"Subsets are of the parts of a product, and {type(process).__name__} is none")
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
    """Raise ValueError where there is no noise at `t_min`, as far as that is known."""
    if all(map(is_concrete, [t_min, *jax.tree.leaves(process)])):
        with jax.ensure_compile_time_eval():
            clean = bool((process.log_snr(t_min) == jnp.inf).any())
        if clean:
            name = type(process).__name__
            raise ValueError(
                f"t_min = {t_min}: {name} has no noise left there, and the weight is infinite; expected a time above, "
                "such as t_min = 0.001"
            )
