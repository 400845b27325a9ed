r"""Processes of categories: x_t is x_0 with probability α, and is drawn from the noise with probability σ = 1 - α.

1.  A network's logits hold what the other values of x_t say of each value of x_0. What a value of x_t says of its own
    x_0 is added as evidence,

        log p(x_0 = v | x_t) = out_v + log q(x_t | v) + const,

    which is the parameterization "leave_one_out", and what networks that are trained to guess x_0 learn best
    (Gourevitch et al. 2026). Two more read the same law c = softmax(out) in another form: with Q̄ the matrix of
    q(x_t | x_0),

        data     out_v = log p(x_0 = v | x_t)
        score    out_y = log p_t(y)/p_t(x_t) = log (c Q̄)_y/(c Q̄)_{x_t}        Lou et al. 2024 ("SEDD"), eq. 3

    where p_t(y) is the probability of x_t with y in place of the value in question.
2.  With π the law of the noise, q(x_t | x_s) keeps x_s with probability a = α_t/α_s and draws from π otherwise, so that

        q(x_s | x_t, x_0) ∝ (a [x_s = x_t] + (1 - a) π(x_t)) (α_s [x_s = x_0] + σ_s π(x_s)).

    A step back draws x_0 from p(x_0 | x_t) and then x_s from this: the exact mixture (Austin et al. 2021, eq. 4).
3.  In continuous time x jumps to y at the rate β π(y), β = -α'/α. Given x_0, the reverse process jumps from x to y at
    the rate β π(x) r_y with r_y = q(y | x_0)/q(x | x_0). The reverse rates of a denoiser are the same with r̂, the mean
    of r over p(x_0 | x_t), and the bound is the divergence of the two (Lou et al. 2024, eq. 10),

        β π(x) Σ_{y ≠ x} [r̂_y - r_y + r_y log(r_y/r̂_y)]          nats a unit of t.

    Divided by the rate σ'/σ, by which the bound weighs an error, this is the same with σ/α in place of β.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    as_array,
    check_choice,
    check_instance,
    check_output,
    check_shape,
    check_time,
    check_whole,
    expand_time,
    is_concrete,
    said,
    split_keys,
    uniform,
    with_dtype,
)
from jaxdiff.processes import ends
from jaxdiff.processes.curves import Curves
from jaxdiff.processes.grids import Kept, Time
from jaxdiff.processes.predictions import Categorical, Certain
from jaxdiff.processes.schedules import Linear, Schedule, check_schedule

ROWS = "leave_one_out", "data", "score"
LARGEST_TABLE = 256


class Discrete(Curves):
    """A process of categories 0 to `categories` - 1, which are noised independently of each other: σ = 1 - α.

    The base class of `Absorbing`, `Multinomial` and `DiscretizedGaussian`. To define another kind of noise, write
    `categories`, `alpha(t)` and the abstract methods, which draw the noise, read a network's output, step back and
    compute errors; `Multinomial` is a model of it. Data are integers `[n, *event]`; an event may be a single category,
    `[n]`.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.Absorbing(4)
        >>> isinstance(process, jd.Discrete), process.categories, process.states
        (True, 4, 5)
        >>> float(process.alpha(0.25)), float(process.sigma(0.25))
        (0.75, 0.25)
    """

    power = 1
    sampling_grid = Kept()
    bound_grid = Time()
    categories: int
    rows: tuple[str, ...] = ROWS
    """The parameterizations by which a network's output can be read."""

    def sigma(self, t) -> jax.Array:
        """The probability that a value is noise at t: 1 - α."""
        return 1 - self.alpha(t)

    def rate(self, t) -> jax.Array:
        """σ'/σ, the weight of an error in the bound, of the shape of `t`; 0 where σ = 0."""
        slope, sigma = self.velocity(t)[1], self.sigma(t)
        noised = sigma > 0
        return jnp.where(noised, slope / jnp.where(noised, sigma, 1.0), 0.0)

    def log_share(self, t) -> jax.Array:
        """log σ, of the shape of `t`, where σ is at least the smallest positive value of 1 - α in floating point."""
        sigma = self.sigma(t)
        return ends.log(jnp.maximum(sigma, float(jnp.finfo(sigma.dtype).epsneg)))

    @property
    def states(self) -> int:
        """The number of values that x_t can take: the categories, and a mask if there is one."""
        return self.categories

    def check(self, x, name: str = "x", noised: bool = False) -> jax.Array:
        """`x` as int32 [n, *event] of categories, or of states if `noised`.

        Raises TypeError unless it holds integers, ValueError for a scalar or, where concrete, a value out of range.
        """
        array, most = as_array(x), self.states if noised else self.categories
        if array is None or not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{with_dtype(name, x)}; expected integer categories 0 to {most - 1}")
        if array.ndim < 1 or 0 in array.shape:
            raise ValueError(f"{name} has shape {array.shape}; expected a batch of categories: [n, *event]")
        if is_concrete(array):
            values = np.asarray(array)
            outside = (values < 0) | (values >= most)
            if outside.any():
                at = [int(i) for i in np.argwhere(outside)[0]]
                raise ValueError(f"{name}{at} = {values[tuple(at)]} is out of range; expected 0 to {most - 1}")
        return jnp.asarray(array).astype(jnp.int32)

    def check_shape(self, shape) -> tuple[int, ...]:
        """`shape` as (n, *event); an event may have no axes."""
        return check_shape("shape", shape, "(n, *event), n samples")

    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[str, None]:
        """(parameterization, None), "leave_one_out" by default; ValueError for one that the process does not have."""
        if parameterization is not None:
            check_choice("parameterization", parameterization, self.rows)
        if data_std is not None:
            raise ValueError(f"data_std = {said(data_std)}: categories have none; leave it out")
        if learned_variance:
            raise ValueError("learned_variance = True: a step back between categories has no variance; leave it out")
        return parameterization or "leave_one_out", None

    def check_start(self, parameterization, t) -> None:
        """Accepts every t: logits determine the law of x_0 at all of them."""

    def check_prediction(self, prediction, x) -> None:
        """Raise if a denoiser's answer for x is not a `Categorical` with logits [*x.shape, categories]."""
        check_instance("the denoiser's answer", prediction, Categorical, "a jaxdiff.Categorical(logits)")
        check_output("the denoiser (logits)", prediction.logits, x, (*x.shape, self.categories))

    def check_curves(self) -> None:
        """Raise ValueError if a user-defined α is not a decreasing probability, or σ is not 1 - α."""
        super().check_curves()
        if not all(map(is_concrete, jax.tree.leaves(self))):
            return
        with jax.ensure_compile_time_eval():
            t = np.linspace(0.0, 1.0, 9)
            alpha, sigma = (np.asarray(curve) for curve in self.marginal(t))
        for time, one, other in zip(t, alpha, sigma):
            if abs(one + other - 1) > 1e-5:
                raise ValueError(f"{type(self).__name__}: sigma({time}) = {other}; expected 1 - alpha = {1 - one}")
        self._check_ends(alpha[0], alpha[-1])

    def _check_ends(self, first: float, last: float) -> None:
        """Raise ValueError if α(0) or α(1) is not allowed for this process."""

    def warn_uncovered(self, data_std) -> None:
        """Does nothing: `check_curves` checks that x at t = 1 is noise."""

    def at(self, x, t) -> tuple[jax.Array, jax.Array]:
        x = self.check(x, noised=True)
        return x, jnp.broadcast_to(expand_time(check_time(t), x).ravel(), x.shape[:1])

    def present(self, x, t, data_std) -> jax.Array:
        return x

    def answer(self, keys, prediction: Categorical) -> jax.Array:
        return prediction.draw(keys)

    def denoising_error(self, prediction, truth: Certain, x, t) -> jax.Array:
        """-log p(x_0 | x_t), nats; NaN for a category that does not exist."""
        return -prediction.log_prob(truth.data)

    def error_scale(self, parameterization, t, data_std) -> jax.Array:
        """1: `error` is not rescaled for the parameterization."""
        return jnp.ones_like(t)

    def check_data(self, data, levels) -> np.ndarray:
        """`data` as categories; ValueError for `levels`, which categories do not have."""
        if levels is not None:
            raise ValueError(f"levels = {levels}: categories have none; leave it out")
        return np.asarray(self.check(data, "data"))

    def clean(self, data, levels) -> jax.Array:
        return data

    def last_time(self, levels) -> None:
        """None: the bound goes on to the data."""
        return None

    def reconstruction(self, prediction: Categorical, data, x0, t, levels) -> jax.Array:
        return -prediction.log_prob(x0)

    def known(self, x) -> jax.Array:
        """Which values of x are certainly x_0, [n, *event], so that a run keeps them: none, except for `Absorbing`."""
        return jnp.zeros(x.shape, bool)

    @abc.abstractmethod
    def evidence(self, x, t) -> Any:
        """log q(x_t = x | x_0 = v) up to a constant in v, the evidence of a `Categorical`."""

    @abc.abstractmethod
    def forward(self, keys, x, s, t) -> jax.Array:
        """A draw of q(x_t | x_s = x) for s <= t, one key per example."""

    @abc.abstractmethod
    def leap(self, keys, prediction, x, t, s) -> jax.Array:
        """One Euler step of the reverse rates from t to s: a value jumps with probability 1 - exp(-rate (t - s))."""

    @abc.abstractmethod
    def log_kernel(self, t) -> jax.Array:
        """log q(x_t = j | x_0 = v), [*t.shape, states, categories]; ValueError for more than 256 categories."""

    def check_table(self) -> None:
        """Raise ValueError if a table of the kernel would be too large."""
        if self.categories > LARGEST_TABLE:
            size = 4 * self.states * self.categories
            raise ValueError(
                f"categories = {self.categories}: a table of q(x_t | x_0) takes {size:,} bytes for each t; expected at "
                f"most {LARGEST_TABLE} categories. `evidence(x, t)` computes the rows of x alone"
            )


@dataclasses.dataclass(frozen=True)
class Scheduled(Discrete):
    """Categories whose α is given by a schedule, or by a subclass that writes `alpha(t)`."""

    categories: int = dataclasses.field(metadata={"static": True})
    schedule: Schedule = Linear()

    def __post_init__(self):
        object.__setattr__(self, "categories", check_whole("categories", self.categories, least=2))
        check_schedule(self.schedule)
        if self._writes_curves and self.schedule != Linear():
            raise ValueError(
                f"schedule = {said(self.schedule)}, but {type(self).__name__} writes alpha(t) itself; leave it out"
            )

    @property
    def _writes_curves(self) -> bool:
        return type(self).alpha is not Scheduled.alpha or type(self).sigma is not Scheduled.sigma

    def alpha(self, t) -> jax.Array:
        """The probability that a value has not been replaced by noise at t (noise may still be equal to x_0)."""
        return self.schedule.alpha(t)

    def sigma(self, t) -> jax.Array:
        """The probability that a value is drawn from the noise at t: 1 - α."""
        return super().sigma(t) if self._writes_curves else self.schedule.sigma(t)

    def log_snr(self, t) -> jax.Array:
        return super().log_snr(t) if self._writes_curves else 2 * self.schedule.log_odds(t)

    def time_at_log_snr(self, log_snr) -> jax.Array:
        if self._writes_curves:
            return super().time_at_log_snr(log_snr)
        return self.schedule.time_at_log_odds(log_snr / 2)

    def _lost(self, s, t) -> jax.Array:
        """α_s - α_t, as a difference of α or of σ, whichever is smaller at t and so loses fewer digits."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.marginal(s), self.marginal(t)
        return jnp.where(sigma_t < alpha_t, sigma_t - sigma_s, alpha_s - alpha_t)


class Mixing(Scheduled):
    """Noise that does not depend on x: with probability 1 - α_t/α_s, x_s is replaced by a draw of `prior`."""

    def perturb(self, keys, x0, t) -> tuple[jax.Array, Certain]:
        """(x_t, truth): x0 with each value replaced by noise with probability σ(t), and x0 itself."""
        return self._mixed(keys, x0, self.alpha(t)), Certain(x0)

    def forward(self, keys, x, s, t) -> jax.Array:
        """x with each value replaced by noise with probability 1 - α_t/α_s."""
        return self._mixed(keys, x, ends.ratio(self.alpha(t), self.alpha(s)))

    def _mixed(self, keys, x, kept) -> jax.Array:
        which, what = split_keys(keys)
        return jnp.where(uniform(which, x) < expand_time(kept, x), x, self.prior(what, x.shape, 1.0))


def divergence(log_q, log_p) -> jax.Array:
    """KL(q || p) of two normalised laws [..., K], nats: Σ q (e^d - 1 - d) with d = log(p/q), Σ p where q = 0.

    No term is below 0, so that the sum keeps its digits where the two laws nearly agree.
    """
    q, p = jnp.exp(log_q), jnp.exp(log_p)
    held = q > 0
    d = jnp.where(held, log_p - jnp.where(held, log_q, 0.0), 0.0)
    near = q * (jnp.expm1(jnp.minimum(d, 1.0)) - d)
    return jnp.sum(jnp.where(held, jnp.where(d < 1, near, p - q - q * d), p), -1)
