r"""A table of T steps of any noise of categories (Austin et al. 2021, section 3): q(x_k = j | x_{k-1} = i) = Q_k[i, j].

1.  The only times are t = k/T. The products Q̄_k = Q_1 ... Q_k are computed once, in float64, and stored as logs, so
    that a row is a gather. Steps that skip part of the table multiply its matrices when they are taken, one vector per
    value.
2.  α_k, how much of x_0 is left at step k, is the distance of the rows of Q̄_k from the noise π, the mean row of Q̄_T,

        α_k = Σ_v |Q̄_k[v] - π|_1 / Σ_v |Q̄_0[v] - π|_1,

    which for masks and uniform noise is α itself, and decreases where π is stationary.
3.  D3PM's Gaussian kernel (their appendix A.2.3) is `gaussian_transitions`: the probability of a step to j != i is that
    of a Gaussian at their distance, normalised over all 2K - 1 distances, so that rows and columns sum to 1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    check_array,
    check_number,
    check_whole,
    expand_time,
    is_concrete,
    nan_unless,
    pytree,
)
from jaxdiff.processes import ends
from jaxdiff.processes.discrete import LARGEST_TABLE
from jaxdiff.processes.grids import Time
from jaxdiff.processes.heads import Head, nan_unless_category
from jaxdiff.processes.predictions import Categorical
from jaxdiff.processes.rows import ByRows, contracted

_NO_RATE = (
    "a table of steps has no continuous time; take jaxdiff.variational_bound, jaxdiff.losses.Steps or Denoising()"
)
_CLOSE = 1e-2  # tolerance of a time k/T in floating point, in steps


@pytree
@dataclasses.dataclass(frozen=True)
class Transitions(ByRows):
    """The process that `from_transitions` makes: log Q̄_k [T + 1, K, K], log Q_k [T, K, K] and α_k [T + 1]."""

    log_cumulative: Any
    log_steps: Any
    kept: Any

    sampling_grid = Time()

    @property
    def categories(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The number of categories."""
        return self.log_steps.shape[-1]

    @property
    def _steps(self) -> int:
        return self.log_steps.shape[0]

    def _index(self, t) -> jax.Array:
        """The step k of each t = k/T; of other times the next step.

        A time up to 0.01 steps above k/T is step k. So for t uniform on [0, 1] each of the steps 1 to T - 1 has
        probability 1/T, step T has 0.99/T, and step 0, the data, has 0.01/T.
        """
        return jnp.ceil(t * self._steps - _CLOSE).astype(int)

    def check_times(self, times) -> None:
        """Raise ValueError if a concrete time is not k/T; the message has the nearest.

        The costs of steps at such a traced time are NaN, and the draws -1.
        """
        with jax.ensure_compile_time_eval():
            found = times()
        if not is_concrete(found):
            return
        values = np.asarray(found, np.float64).ravel()
        nearest = np.round(values * self._steps)
        wrong = np.abs(values * self._steps - nearest) > _CLOSE
        if wrong.any():
            t, k = values[wrong][0], int(nearest[wrong][0])
            raise ValueError(
                f"t = {t:.6g} is no step of a table of {self._steps}; expected k/{self._steps}, the nearest is {k}/"
                f"{self._steps} = {k / self._steps:.6g}: take a number of steps that divides {self._steps}"
            )

    def check_curves(self) -> None:
        """Does nothing: `from_transitions` has checked the table."""

    def alpha(self, t) -> jax.Array:
        return nan_unless(t >= 0, jnp.asarray(self.kept)[self._index(t)].astype(t.dtype))

    def time_at_log_snr(self, log_snr) -> jax.Array:
        known = 2 * (ends.log(self.kept) - ends.log(1 - self.kept))
        apart = jnp.abs(jnp.clip(known, -1e9, 1e9) - jnp.asarray(log_snr)[..., None])
        return jnp.argmin(apart, -1) / self._steps

    def rate(self, t):
        """Always raises ValueError: a table has no continuous time."""
        raise ValueError(_NO_RATE)

    def log_share(self, t):
        """Always raises ValueError: a table has no continuous time."""
        raise ValueError(_NO_RATE)

    def error(self, prediction, truth, x, t):
        """Always raises ValueError: the bound has T steps and no continuous limit."""
        raise ValueError(_NO_RATE)

    def leap(self, keys, prediction, x, t, s):
        """Always raises ValueError: a table has no rates."""
        raise ValueError("a table of steps has no rates; take samplers.Ancestral()")

    def _each(self, x, t) -> jax.Array:
        return jnp.broadcast_to(expand_time(self._index(t), x), x.shape)

    def evidence(self, x, t) -> jax.Array:
        rows = jnp.asarray(self.log_cumulative)[self._each(x, t), :, x]
        return nan_unless_category(x[..., None], self.categories, rows)

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits by their parameterization; an x_0 from which x cannot come has probability 0 under each."""
        prediction = super().read(parameterization, out, x, t, data_std)
        if parameterization != "data":
            return prediction
        logits = out.logits() if isinstance(out, Head) else out
        return dataclasses.replace(prediction, logits=jnp.where(self.evidence(x, t) > -jnp.inf, logits, -jnp.inf))

    def _after(self, x0, t) -> jax.Array:
        return jnp.asarray(self.log_cumulative)[self._each(x0, t), x0]

    def _ends(self, x, s, t) -> list[jax.Array]:
        """The steps k of s and of t, one per example, each [n]."""
        return [jnp.broadcast_to(expand_time(self._index(time), x).ravel(), len(x)) for time in (s, t)]

    def _step(self, index) -> jax.Array:
        return jnp.clip(index, 0, self._steps - 1)

    def _before(self, x, s, t) -> jax.Array:
        (first, last), steps = self._ends(x, s, t), jnp.asarray(self.log_steps)
        rows = self._product(x, last - first, lambda i, v: steps[self._step(last - 1 - i), :, v])
        return self._between(s, t, rows)

    def _onward(self, x, s, t) -> jax.Array:
        (first, last), steps = self._ends(x, s, t), jnp.asarray(self.log_steps)
        rows = self._product(x, last - first, lambda i, v: steps[self._step(first + i), v])
        return self._between(s, t, rows)

    def _between(self, s, t, rows) -> jax.Array:
        """`rows` [n, ..., K] of the steps from s to t, NaN where one of these is not k/T, as traced times may be."""
        for time in (s, t):
            steps = expand_time(time, rows) * self._steps
            rows = nan_unless(jnp.abs(steps - jnp.round(steps)) <= _CLOSE, rows)
        return rows

    def _product(self, x, count, row) -> jax.Array:
        """log of row x of a product of `count` [n] matrices; row v of the i-th is exp(row(i, v)), [n, K]."""

        def step(carry):
            i, weights = carry
            moved = contracted(weights, lambda v: jnp.exp(row(i, v)))
            moved = moved / jnp.max(moved, -1, keepdims=True)
            return i + 1, jnp.where(expand_time(i < count, weights), moved, weights)

        start = (jnp.arange(self.categories) == x[..., None]).astype(self.log_steps.dtype)
        return ends.log(jax.lax.while_loop(lambda carry: carry[0] < jnp.max(count), step, (0, start))[1])

    def _log_prior(self) -> jax.Array:
        return jnp.log(jnp.mean(jnp.exp(self.log_cumulative[-1]), 0))


def from_transitions(matrices) -> Transitions:
    """The process of a table of T transition matrices (D3PM): step k of the table is the time t = k/T.

    Samplers and bounds need a number of steps that divides T; continuous time raises ValueError. Times that a loss
    draws are rounded up to the next step (`losses.Denoising`): for uniform times the steps are equally likely, but for
    1 % of the last one's share, which is step 0. A mask is a category like the others, which data do not hold.

    Args:
        matrices: shape `[T, K, K]`, K at most 256; entry `[k - 1, i, j]` is q(x_k = j | x_{k-1} = i), and rows sum
            to 1.

    Returns:
        A process of K categories, a `Discrete`.

    Raises:
        TypeError: if `matrices` is traced.
        ValueError: if the shape is another, an entry is below 0, or a row does not sum to 1 within 1e-6.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", section 3.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> uniform = 0.9 * np.eye(3) + 0.1 / 3  # noise with probability 0.1
        >>> process = jd.from_transitions(np.stack([uniform, uniform]))
        >>> process.categories, round(float(process.alpha(1.0)), 3)
        (3, 0.81)
    """
    matrices = check_array("matrices", matrices)
    if not is_concrete(matrices):
        raise TypeError("matrices are traced; expected concrete arrays: their products are computed once, in float64")
    matrices = np.asarray(matrices, np.float64)
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or matrices.shape[1] < 2 or not len(matrices):
        raise ValueError(f"matrices has shape {matrices.shape}; expected [T, K, K], T >= 1 steps of K >= 2 categories")
    steps, categories = matrices.shape[:2]
    if categories > LARGEST_TABLE:
        size = (2 * steps + 1) * categories**2 * 4
        raise ValueError(
            f"matrices of {categories} categories take {size:,} bytes; expected at most {LARGEST_TABLE} categories"
        )
    if (matrices < 0).any():
        at = [int(i) for i in np.argwhere(matrices < 0)[0]]
        raise ValueError(f"matrices{at} = {matrices[tuple(at)]}; expected probabilities, none below 0")
    sums = matrices.sum(-1)
    wrong = np.argwhere(~(np.abs(sums - 1) <= 1e-6))
    if len(wrong):
        at = [int(i) for i in wrong[0]]
        raise ValueError(f"matrices{at} sums to {sums[tuple(at)]:.8g}; expected rows that sum to 1: divide by the sum")
    matrices = matrices / sums[..., None]
    cumulative = [np.eye(categories)]
    for matrix in matrices:
        cumulative.append(cumulative[-1] @ matrix)
    cumulative = np.stack(cumulative)
    noise = cumulative[-1].mean(0)
    apart = np.abs(cumulative - noise).sum((1, 2))
    with np.errstate(divide="ignore"):
        tables = np.log(cumulative), np.log(matrices), apart / apart[0]
    log_cumulative, log_steps, kept = (table.astype(jnp.result_type(float)) for table in tables)
    return Transitions(log_cumulative, log_steps, kept)


def gaussian_transitions(betas, categories: int) -> np.ndarray:
    """The discretized Gaussian transition matrices of D3PM, for `from_transitions`.

    Off the diagonal Q_k[i, j] = exp(-4 (i - j)²/((K - 1)² β_k)), divided by its sum over distances -(K-1) to K-1; the
    diagonal is such that rows sum to 1.

    Args:
        betas: shape `[T]`, each above 0. The paper uses 1,000 steps linear from 1e-4 to 0.02 for images.
        categories: the number K of categories, at least 2.

    Returns:
        Matrices of shape `[T, K, K]`.

    Raises:
        ValueError: if a β is not above 0, or `categories` is less than 2.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", appendix A.2.3.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> matrices = jd.processes.gaussian_transitions(np.linspace(0.01, 0.1, 5), categories=8)
        >>> matrices.shape
        (5, 8, 8)
        >>> bool(np.allclose(matrices.sum(-1), 1.0))
        True
    """
    betas = np.atleast_1d(np.asarray(check_number("betas", np.asarray(check_array("betas", betas), float), above=0)))
    k = check_whole("categories", categories, least=2)
    distance = np.arange(-(k - 1), k)
    weight = np.exp(-4 * distance**2 / ((k - 1) ** 2 * betas[:, None]))
    weight /= weight.sum(1, keepdims=True)
    i = np.arange(k)
    matrices = weight[:, i[:, None] - i + k - 1]
    matrices[:, i, i] = 0
    matrices[:, i, i] = 1 - matrices.sum(-1)
    return matrices
