r"""A table of T steps of any noise of categories (Austin et al. 2021, section 3): q(x_k = j | x_{k-1} = i) = Q_k[i, j].

1.  t = k/T are all the times there are. The products Q̄_k = Q_1 ... Q_k are multiplied once, in float64, and kept in
    logs: a row of one is a gather. Steps that skip some of the table multiply their matrices on the way, a vector each
    value.
2.  How much of x_0 is left at k is the distance of the rows of Q̄_k from the noise π, the mean row of Q̄_T,

        α_k = Σ_v |Q̄_k[v] - π|_1 / Σ_v |Q̄_0[v] - π|_1,

    which for masks and uniform noise is α itself, and falls where π is stationary.
3.  D3PM's Gaussian kernel (their appendix A.2.3) is `gaussian_transitions`: steps to j != i with the probability that a
    Gaussian gives their distance, normalised over all 2K - 1 distances, so that rows and columns sum to 1.
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
from jaxdiff.processes.rows import ByRows, contracted

_NO_RATE = (
    "a table of steps has no continuous time; take jaxdiff.variational_bound, jaxdiff.losses.Steps or Denoising()"
)
_CLOSE = 1e-2  # of a step, by which a time in floating point may miss it


@pytree
@dataclasses.dataclass(frozen=True)
class Transitions(ByRows):
    """log Q̄_k [T + 1, K, K], log Q_k [T, K, K] and α_k [T + 1]; `from_transitions` makes one."""

    log_cumulative: Any
    log_steps: Any
    kept: Any

    sampling_grid = Time()

    @property
    def categories(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many there are."""
        return self.log_steps.shape[-1]

    @property
    def _steps(self) -> int:
        return self.log_steps.shape[0]

    def _index(self, t) -> jax.Array:
        """The step that each t is, or falls in: of drawn times the steps 1 to T are equally likely."""
        return jnp.ceil(t * self._steps - _CLOSE).astype(int)

    def check_times(self, times) -> None:
        """Raise ValueError where a known time is no k/T, with the nearest."""
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
        """The table was checked when it was made."""

    def alpha(self, t) -> jax.Array:
        return nan_unless(t >= 0, jnp.asarray(self.kept)[self._index(t)].astype(t.dtype))

    def time_at_log_snr(self, log_snr) -> jax.Array:
        known = 2 * (ends.log(self.kept) - ends.log(1 - self.kept))
        apart = jnp.abs(jnp.clip(known, -1e9, 1e9) - jnp.asarray(log_snr)[..., None])
        return jnp.argmin(apart, -1) / self._steps

    def rate(self, t):
        """There is none."""
        raise ValueError(_NO_RATE)

    def log_share(self, t):
        """There is none."""
        raise ValueError(_NO_RATE)

    def error(self, prediction, truth, x, t):
        """There is none: the bound is of T steps."""
        raise ValueError(_NO_RATE)

    def leap(self, keys, prediction, x, t, s):
        """There are no rates."""
        raise ValueError("a table of steps has no rates; take samplers.Ancestral()")

    def _each(self, x, t) -> jax.Array:
        return jnp.broadcast_to(expand_time(self._index(t), x), x.shape)

    def evidence(self, x, t) -> jax.Array:
        return jnp.asarray(self.log_cumulative)[self._each(x, t), :, x]

    def _after(self, x0, t) -> jax.Array:
        return jnp.asarray(self.log_cumulative)[self._each(x0, t), x0]

    def _ends(self, x, s, t) -> list[jax.Array]:
        """The steps of s and t of each example, [n]."""
        return [jnp.broadcast_to(expand_time(self._index(time), x).ravel(), len(x)) for time in (s, t)]

    def _step(self, index) -> jax.Array:
        return jnp.clip(index, 0, self._steps - 1)

    def _before(self, x, s, t) -> jax.Array:
        (first, last), steps = self._ends(x, s, t), jnp.asarray(self.log_steps)
        return self._product(x, last - first, lambda i, v: steps[self._step(last - 1 - i), :, v])

    def _onward(self, x, s, t) -> jax.Array:
        (first, last), steps = self._ends(x, s, t), jnp.asarray(self.log_steps)
        return self._product(x, last - first, lambda i, v: steps[self._step(first + i), v])

    def _product(self, x, count, row) -> jax.Array:
        """log of the row of x through `count` [n] matrices, the i-th of which has rows exp `row(i, v)` [n, K]."""

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
    """The process of a table of T steps, `matrices` [T, K, K] with rows q(x_k | x_{k-1}): step k is t = k/T.

        jd.from_transitions(jd.processes.gaussian_transitions(betas, categories=256))

    Samplers and bounds take numbers of steps that divide T, and continuous time is refused. A time that a loss draws
    counts as the step it falls in, so that each is as likely (`losses.Denoising` and `Steps(T)`). Masks are a category
    of it like the others, which data do not hold. Raises ValueError for another shape, one category or more than 256, a
    probability below 0, or a row that does not sum to 1 within 1e-6.
    """
    matrices = check_array("matrices", matrices)
    if not is_concrete(matrices):
        raise TypeError("matrices are traced; expected arrays: their products are made once, in float64")
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
    """D3PM's Gaussian kernel (Austin et al. 2021, appendix A.2.3) as matrices [T, K, K] for `from_transitions`.

    Off the diagonal Q_k[i, j] = exp(-4 (i - j)²/((K - 1)² β_k)) over the sum of that over distances -(K-1) to K-1; what
    is left stays. `betas` [T], each above 0; the paper's images have 1,000 steps of β linear from 1e-4 to 0.02.
    Raises ValueError for a β of 0 or less or fewer than two categories.
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
