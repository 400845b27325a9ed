r"""A process is two curves and a space.

1.  Data becomes noise along two curves α and σ over t in [0, 1],

        x_t = α x_0 + σ ε.

    For numbers this mixes values. For categories it mixes distributions: x_t is x_0 with probability α, and is drawn
    from the noise with probability σ = 1 - α. So standard deviations add in squares and probabilities as they are:
    with a power p of 2 and of 1,

        q = (α^p + σ^p)^(1/p),      λ = log α²/σ²  (the log-SNR),      σ/q = (1 + exp(p λ/2))^(-1/p).

2.  Both kinds then have one rate, at which the noise's share of x grows, and the bound in continuous time pays for an
    error of the denoiser by it (Kingma et al. 2021, eq. 17; Sahoo et al. 2024, eq. 10):

        rate = d log(σ/q)/dt = -1/2 dλ/dt sigmoid(p λ/2)

        numbers      |v error|²                        x rate
        masks        cross-entropy of what is masked   x rate
        categories   score entropy                     x rate

3.  What the space adds are the verbs below: what its data are, how they are noised, what a network is shown and how
    its answer is read, one step back, what an error costs. Nothing beyond this room asks which process it has.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax

from jaxdiff.arrays import check_instance


class Process(abc.ABC):
    """How data becomes noise over `t` in [0, 1], which grows with the noise.

    A process of your own is a subclass of `Gaussian` (numbers) with `alpha(t)` and `sigma(t)`, or of `Absorbing`
    (masks) or `Multinomial` (uniform noise) with `alpha(t)`, written as on paper (`jaxdiff.processes.curves`).
    """

    def __new__(cls, *arguments, **settings):
        if cls.__abstractmethods__:
            missing = ", ".join(sorted(cls.__abstractmethods__))
            raise TypeError(
                f"{cls.__name__} lacks {missing}; a process of your own is a subclass of jaxdiff.Gaussian (numbers) "
                "with alpha(t) and sigma(t), or of jaxdiff.Absorbing (masks) with alpha(t)"
            )
        return super().__new__(cls)

    sampling_grid: Any
    """The grid of a run unless its sampler has one, or another is given."""

    bound_grid: Any
    """The grid of the variational bound unless another is given."""

    @property
    def processes(self) -> tuple["Process", ...]:
        """The processes side by side, in the order of `split`: itself alone, but for a product."""
        return (self,)

    def split(self, tree: Any, name: str = "x") -> list:
        """The part of `tree` that belongs to each of the processes; ValueError for a tree of another form."""
        return [tree]

    def joined(self, parts: Any) -> Any:
        """The tree that `split` makes `parts` of."""
        return parts[0]

    def clocks(self, t) -> list:
        """The time of each of the processes: one `t` for all, or the parts of a tree of them."""
        return [t]

    @abc.abstractmethod
    def log_snr(self, t) -> jax.Array:
        """λ(t) = log α²/σ², of the shape of `t`; infinite where α or σ is 0."""

    @abc.abstractmethod
    def time_at_log_snr(self, log_snr) -> jax.Array:
        """The t in [0, 1] whose log-SNR is `log_snr`, or the end of the process nearest to it."""

    @abc.abstractmethod
    def angle(self, t) -> jax.Array:
        """φ(t) = atan2(σ, α) in [0, π/2], of the shape of `t`."""

    @abc.abstractmethod
    def time_at_angle(self, angle) -> jax.Array:
        """The t in [0, 1] whose angle is `angle` in [0, π/2], or the end of the process nearest to it."""

    @abc.abstractmethod
    def log_share(self, t) -> jax.Array:
        """log σ/q, of the shape of `t`, whose slope is the rate."""

    @abc.abstractmethod
    def time_at_log_share(self, log_share) -> jax.Array:
        """The t in [0, 1] with that log σ/q, or the end of the process nearest to it."""

    @abc.abstractmethod
    def rate(self, t) -> jax.Array:
        """d log(σ/q)/dt, of the shape of `t`: the weight of an error in the bound."""

    @abc.abstractmethod
    def c_noise(self, t) -> Any:
        """log(σ/α)/4 within ±3, the noise level that networks see, of the shape of `t`."""

    @abc.abstractmethod
    def check_curves(self) -> None:
        """Raise ValueError where the curves cannot be right, as far as their numbers are known."""

    @abc.abstractmethod
    def warn_uncovered(self, data_std) -> None:
        """Warn where x at t = 1 is far from the prior, for data of that standard deviation."""

    @abc.abstractmethod
    def check_times(self, times: Callable) -> None:
        """Raise ValueError where `times()`, as far as they are known, hold one at which the process has no x."""

    @abc.abstractmethod
    def check(self, x, name: str = "x", noised: bool = False) -> Any:
        """`x` as a batch of this process's data, or of what noise makes of them; an error for anything else."""

    @abc.abstractmethod
    def check_shape(self, shape) -> Any:
        """`shape`, that of n examples, as (n, *event); an error for anything else."""

    @abc.abstractmethod
    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[Any, Any]:
        """(parameterization, data_std) of a network, None taken as the process's own; an error for what it lacks."""

    @abc.abstractmethod
    def check_start(self, parameterization, t) -> None:
        """Raise ValueError where a network's answer says nothing of x_0 at a concrete `t`."""

    @abc.abstractmethod
    def check_prediction(self, prediction, x) -> None:
        """Raise where `prediction`, a denoiser's answer for x, is none of this process or of another shape."""

    @abc.abstractmethod
    def at(self, x, t) -> tuple[Any, Any]:
        """(x, t) as arrays: x [batch, *event], checked by its type alone, and one t for each of its examples."""

    @abc.abstractmethod
    def prior(self, keys, shape, t) -> Any:
        """Draw the noise that a run starts from at t: `shape` = (n, *event), one key an example."""

    @abc.abstractmethod
    def unknown(self, shape) -> Any:
        """x at t = 1 of `shape`, where it says nothing of the data and is no draw; ValueError where there is none."""

    @abc.abstractmethod
    def perturb(self, keys, x0, t) -> tuple[Any, Any]:
        """Draw x_t given x0 [n, *event], one key an example: (x_t, truth), the prediction that makes no error."""

    @abc.abstractmethod
    def present(self, x, t, data_std) -> Any:
        """What a network is shown of x at t [n]."""

    @abc.abstractmethod
    def read(self, parameterization, out, x, t, data_std) -> Any:
        """The prediction that a network's `out` stands for at x and t [n]."""

    @abc.abstractmethod
    def reverse(self, keys, prediction, x, t, s) -> Any:
        """Draw x_s given x at t > s, one key an example."""

    @abc.abstractmethod
    def answer(self, keys, prediction) -> Any:
        """The data that a prediction stands for, where a run ends; one key an example."""

    @abc.abstractmethod
    def error(self, prediction, truth, x, t) -> Any:
        """What the prediction at x and t costs, of the shape of x, 0 for the truth: by `rate` the bound's integrand."""

    def denoising_error(self, prediction, truth, x, t) -> Any:
        """What `losses.Denoising` counts, of the shape of x: the same, but for categories -log p(x_0 | x_t)."""
        return self.error(prediction, truth, x, t)

    @abc.abstractmethod
    def error_scale(self, parameterization, t, data_std) -> Any:
        """The square root of what 1 of `error` is in the network's own output, of the shape of `t`."""

    @abc.abstractmethod
    def kl(self, prediction, truth, x, t, s) -> Any:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for s <= t, nats, of the shape of x; 0 where s is t."""

    @abc.abstractmethod
    def check_data(self, data, levels) -> Any:
        """A data set as it is stored, such as images of `levels` integers, as NumPy arrays; an error for others."""

    @abc.abstractmethod
    def clean(self, data, levels) -> Any:
        """x_0 of what `check_data` accepts."""

    @abc.abstractmethod
    def last_time(self, levels) -> jax.Array:
        """Where the variational bound ends unless told."""

    @abc.abstractmethod
    def prior_kl(self, x0, t) -> Any:
        """KL(q(x_t | x_0) || prior at t), nats, of the shape of x0."""

    @abc.abstractmethod
    def reconstruction(self, prediction, data, x0, t, levels) -> Any:
        """-log P(data | x_t), nats, of the shape of x0: the bound's last step."""


def check_kind(process, kind: type, described: str, what: str, instead: str) -> Any:
    """`process`, one of `kind`; TypeError where `what` is asked of another. `instead`, if any, says what to take."""
    check_process(process)
    if not isinstance(process, kind):
        fix = f"; {instead}" if instead else ""
        raise TypeError(f"{what} takes {described}, and {type(process).__name__} is none{fix}")
    return process


def check_process(process, name: str = "process") -> None:
    """Raise TypeError for what is no process."""
    check_instance(name, process, Process, "a process such as jaxdiff.VP()")
