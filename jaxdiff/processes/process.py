r"""A process is two curves and a space.

1.  Data becomes noise along two curves α and σ over t in [0, 1],

        x_t = α x_0 + σ ε.

    For numbers this mixes values. For categories it mixes distributions: x_t is x_0 with probability α, and is drawn
    from the noise with probability σ = 1 - α. So standard deviations add in squares and probabilities as they are:
    with a power p of 2 and of 1,

        q = (α^p + σ^p)^(1/p),      λ = log α²/σ²  (the log-SNR),      σ/q = (1 + exp(p λ/2))^(-1/p).

2.  Both kinds then have one rate, at which the noise's share of x grows. The bound in continuous time weighs an error
    of the denoiser by it (Kingma et al. 2021, eq. 17; Sahoo et al. 2024, eq. 10):

        rate = d log(σ/q)/dt = -1/2 dλ/dt sigmoid(p λ/2)

        numbers      |v error|²                        x rate
        masks        cross-entropy of masked values    x rate
        categories   score entropy                     x rate

3.  The space adds the methods below: its data, how they are noised, the network's input and how its output is read,
    one step back, and the cost of an error. No other package needs to know which process it has.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax

from jaxdiff.arrays import check_instance


class Process(abc.ABC):
    """How data becomes noise as `t` goes from 0 (data) to 1 (noise).

    The base class of all processes. To define a process, subclass `Gaussian` (numbers) and write `alpha(t)` and
    `sigma(t)`, or subclass `Absorbing` (masks) or `Multinomial` (uniform noise) and write `alpha(t)`. Write them as on
    paper: the checks of `t` and finite derivatives are added (`jaxdiff.processes.curves`).

    Raises:
        TypeError: if the class lacks one of the abstract methods.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Late(jd.Absorbing):
        ...     def alpha(self, t):
        ...         return 1 - t**2
        >>> process = Late(27)
        >>> float(process.alpha(0.5)), float(process.sigma(0.5))
        (0.75, 0.25)
        >>> isinstance(process, jd.Process)
        True
    """

    def __new__(cls, *arguments, **settings):
        if cls.__abstractmethods__:
            missing = ", ".join(sorted(cls.__abstractmethods__))
            raise TypeError(
                f"{cls.__name__} lacks {missing}; to define a process, subclass jaxdiff.Gaussian (numbers) with "
                "alpha(t) and sigma(t), or jaxdiff.Absorbing (masks) with alpha(t)"
            )
        return super().__new__(cls)

    sampling_grid: Any
    """The default grid of a sampling run, for samplers that have none of their own."""

    bound_grid: Any
    """The default grid of the variational bound."""

    @property
    def processes(self) -> tuple["Process", ...]:
        """The component processes in the order of `split`: those of a product, otherwise the process itself alone."""
        return (self,)

    def split(self, tree: Any, name: str = "x") -> list:
        """The part of `tree` that belongs to each of `processes`; ValueError for a tree of another structure."""
        return [tree]

    def joined(self, parts: Any) -> Any:
        """The tree of `parts`: the inverse of `split`."""
        return parts[0]

    def clocks(self, t) -> list:
        """The time of each of `processes`: one `t` for all, or the parts of a tree of times."""
        return [t]

    @abc.abstractmethod
    def log_snr(self, t) -> jax.Array:
        """λ(t) = log α²/σ², of the shape of `t`; infinite where α or σ is 0."""

    @abc.abstractmethod
    def time_at_log_snr(self, log_snr) -> jax.Array:
        """The t in [0, 1] whose log-SNR is `log_snr`, clipped to the nearer end of the process."""

    @abc.abstractmethod
    def angle(self, t) -> jax.Array:
        """φ(t) = atan2(σ, α) in [0, π/2], of the shape of `t`."""

    @abc.abstractmethod
    def time_at_angle(self, angle) -> jax.Array:
        """The t in [0, 1] whose angle is `angle` in [0, π/2], clipped to the nearer end of the process."""

    @abc.abstractmethod
    def log_share(self, t) -> jax.Array:
        """log σ/q, of the shape of `t`; its derivative in t is the rate."""

    @abc.abstractmethod
    def time_at_log_share(self, log_share) -> jax.Array:
        """The t in [0, 1] whose log σ/q is `log_share`, clipped to the nearer end of the process."""

    @abc.abstractmethod
    def rate(self, t) -> jax.Array:
        """d log(σ/q)/dt, of the shape of `t`: the weight of an error in the bound."""

    @abc.abstractmethod
    def c_noise(self, t) -> Any:
        """The noise level as networks see it: log(σ/α)/4 clipped to ±3, of the shape of `t`."""

    @abc.abstractmethod
    def check_curves(self) -> None:
        """Raise ValueError if the curves are inconsistent, as far as their values are concrete."""

    @abc.abstractmethod
    def warn_uncovered(self, data_std) -> None:
        """Warn if x at t = 1 is far from the prior, for data of standard deviation `data_std`."""

    @abc.abstractmethod
    def check_times(self, times: Callable) -> None:
        """Raise ValueError if one of `times()`, as far as they are concrete, is a time at which there is no x."""

    @abc.abstractmethod
    def check(self, x, name: str = "x", noised: bool = False) -> Any:
        """`x` as a batch of this process's data, or of noised data if `noised`; an error for anything else."""

    @abc.abstractmethod
    def check_shape(self, shape) -> Any:
        """`shape`, the shape of n examples, as (n, *event); an error for anything else."""

    @abc.abstractmethod
    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[Any, Any]:
        """(parameterization, data_std) of a network, with defaults for None; an error for unsupported settings."""

    @abc.abstractmethod
    def check_start(self, parameterization, t) -> None:
        """Raise ValueError if the network's output at a concrete `t` does not determine x_0."""

    @abc.abstractmethod
    def check_prediction(self, prediction, x) -> None:
        """Raise if `prediction`, a denoiser's answer for x, is of another process or has another shape."""

    @abc.abstractmethod
    def at(self, x, t) -> tuple[Any, Any]:
        """(x, t) as arrays: x [batch, *event], of which only the type is checked, and one t per example."""

    @abc.abstractmethod
    def prior(self, keys, shape, t) -> Any:
        """Draw the noise from which a run starts at t: `shape` = (n, *event), one key per example."""

    @abc.abstractmethod
    def unknown(self, shape) -> Any:
        """The constant x of `shape` that holds no information on the data; ValueError where noise is random."""

    @abc.abstractmethod
    def perturb(self, keys, x0, t) -> tuple[Any, Any]:
        """Draw (x_t, truth) given x0 [n, *event], one key per example; `truth` is the prediction without error."""

    @abc.abstractmethod
    def present(self, x, t, data_std) -> Any:
        """The network's input for x at t [n]."""

    @abc.abstractmethod
    def read(self, parameterization, out, x, t, data_std) -> Any:
        """The prediction that the network's output `out` at x and t [n] stands for."""

    @abc.abstractmethod
    def reverse(self, keys, prediction, x, t, s) -> Any:
        """Draw x_s given x at t > s, one key per example."""

    @abc.abstractmethod
    def answer(self, keys, prediction) -> Any:
        """The data at the end of a run, given the last prediction; one key per example."""

    @abc.abstractmethod
    def error(self, prediction, truth, x, t) -> Any:
        """The cost of a prediction at x and t, of the shape of x, 0 for the truth; the bound integrates `rate` x it."""

    def denoising_error(self, prediction, truth, x, t) -> Any:
        """The cost that `losses.Denoising` averages: `error`, but for categories -log p(x_0 | x_t)."""
        return self.error(prediction, truth, x, t)

    @abc.abstractmethod
    def error_scale(self, parameterization, t, data_std) -> Any:
        """The error of the network's output at which `error` is 1, of the shape of `t`."""

    @abc.abstractmethod
    def kl(self, prediction, truth, x, t, s) -> Any:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for s <= t, nats, of the shape of x; 0 where s = t."""

    @abc.abstractmethod
    def check_data(self, data, levels) -> Any:
        """A stored data set, such as images of `levels` integers, as NumPy arrays; an error for anything else."""

    @abc.abstractmethod
    def clean(self, data, levels) -> Any:
        """x_0 for data that `check_data` accepts."""

    @abc.abstractmethod
    def last_time(self, levels) -> jax.Array:
        """The default time at which the variational bound ends; None where it goes on to the data."""

    @abc.abstractmethod
    def prior_kl(self, x0, t) -> Any:
        """KL(q(x_t | x_0) || prior at t), nats, of the shape of x0."""

    @abc.abstractmethod
    def reconstruction(self, prediction, data, x0, t, levels) -> Any:
        """-log P(data | x_t), nats, of the shape of x0: the last term of the bound."""


def check_kind(process, kind: type, described: str, what: str, instead: str) -> Any:
    """`process` if it is a `kind`, otherwise TypeError: `what` takes `described`. `instead` names an alternative."""
    check_process(process)
    if not isinstance(process, kind):
        fix = f"; {instead}" if instead else ""
        raise TypeError(f"{what} takes {described}, not {type(process).__name__}{fix}")
    return process


def check_process(process, name: str = "process") -> None:
    """Check that `process` is a process.

    Args:
        process: the value to check.
        name: what the message calls it.

    Raises:
        TypeError: if it is not a `Process`, such as the class in place of an instance.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.processes.check_process(jd.VP())
        >>> jd.processes.check_process(jd.VP)
        Traceback (most recent call last):
        TypeError: process = <class 'jaxdiff.processes.named.VP'>; expected a process such as jaxdiff.VP()
    """
    check_instance(name, process, Process, "a process such as jaxdiff.VP()")
