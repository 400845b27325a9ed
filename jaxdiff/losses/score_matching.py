r"""Score matching from x_t alone, without its noise (Hyvärinen 2005; sliced: Song, Garg, Shi and Ermon 2019).

1.  Integrated by parts, the error of a score s on a density p depends on p's own score only by a constant (Hyvärinen
    2005, theorem 1):

        E ½|s - ∇ log p|² = E [tr ∇s + ½|s|²] + E ½|∇ log p|².

2.  For x_t = α x_0 + σ ε with s = -ε̂/σ, ε̂(x_t) the denoiser's noise, and multiplied by 2σ²/D for events of D values,
    so that all noise levels have equal weight and the loss stays finite where σ = 0, the bracket is
    (|ε̂|² - 2σ tr ∇ε̂)/D.

3.  By Stein's identity for the Gaussian ε, E ε·ε̂(α x_0 + σ ε) = σ E tr ∇ε̂, hence for every denoiser at every t

        E |ε̂ - ε|²/D = 1 + E (|ε̂|² - 2σ tr ∇ε̂)/D.

    The left side is denoising score matching (Vincent 2011) in the error of the noise: `Denoising()` for "noise",
    `Denoising(MinSNR(inf))` for any parameterization. The losses here include the 1, so that their expectation is the
    same.

4.  For directions v with E v vᵀ = I, tr A = E vᵀA v and |ε̂|² = E (vᵀε̂)² (Song et al. 2019, section 3):

        plain               1 + E_v vᵀM v / D                M = ε̂ ε̂ᵀ - 2σ ∇ε̂
        variance reduced    1 + (|ε̂|² + E_v vᵀM v)/D        M = -2σ ∇ε̂

    and the exact trace is the variance-reduced form over the D directions √D e_i. With S the symmetric part of M, the
    variance of vᵀM v is 2 Σ_ij S_ij² for Gaussian v and 2 Σ_{i≠j} S_ij² for Rademacher v: never more, and none in one
    dimension. Both are unbiased in both forms; the variance of Gaussian v alone is the same in every basis.

Derivatives are taken in forward mode, one Jacobian-vector product per direction. As σ goes to 0 so does the variance of
these losses, whereas that of `Denoising` stays at the variance of |ε|²/D; as x_t becomes pure noise it is the reverse.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_choice, check_flag, check_room, check_whole, example_keys
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import check_numbers
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, noised, paid
from jaxdiff.losses.inputs import OF_ANY, check_times_law, draw_times, prepared
from jaxdiff.processes import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class ScoreMatching:
    """Hyvärinen's score matching with an exact trace: D Jacobian-vector products for events of D values.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns one number per example, `[n]`. Its
    expectation is that of `Denoising` in the error of the noise, also for the values that `weight` counts
    (`jaxdiff.losses.counted`), and the same key gives the same x_t.

    Args:
        times: the law of t, one of `jaxdiff.losses.times`; `times.Fixed(t)` for a single noise level.

    Raises:
        TypeError: if x0 holds integers, or the process is not one of numbers.
        ValueError: if a concrete x0 holds a NaN.

    Source:
        Hyvärinen 2005, "Estimation of non-normalized statistical models by score matching", theorem 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.VP())
        >>> loss = jd.losses.ScoreMatching()
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
    """

    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        def basis(x):
            size = math.prod(x.shape[1:])
            check_room("the directions of an exact trace", size, *x.shape)
            directions = math.sqrt(size) * jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
            return jnp.broadcast_to(directions, (size, *x.shape))

        return _loss(self, denoiser, key, x0, cond, weight, basis, project=False)


@pytree
@dataclasses.dataclass(frozen=True)
class SlicedScoreMatching:
    """Sliced score matching: `ScoreMatching` with the trace estimated along random directions.

    Args:
        times: the law of t, one of `jaxdiff.losses.times`.
        variance_reduced: whether |ε̂|² is computed exactly; otherwise it is estimated along the directions too.
        projections: the number of directions per example, each one Jacobian-vector product.
        directions: their law, "rademacher" or "gaussian".

    Raises:
        TypeError: as `ScoreMatching`.
        ValueError: as `ScoreMatching`, if `projections` is less than 1, or for other directions.

    Source:
        Song, Garg, Shi and Ermon 2019, "Sliced score matching", section 3.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.VP())
        >>> loss = jd.losses.SlicedScoreMatching(projections=2)
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
    """

    times: times_.Times = times_.Stratified()
    variance_reduced: bool = dataclasses.field(default=True, metadata={"static": True})
    projections: int = dataclasses.field(default=1, metadata={"static": True})
    directions: Literal["rademacher", "gaussian"] = dataclasses.field(default="rademacher", metadata={"static": True})

    def __post_init__(self):
        check_times_law(self.times)
        check_flag("variance_reduced", self.variance_reduced)
        check_whole("projections", self.projections)
        check_choice("directions", self.directions, ("rademacher", "gaussian"))

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        def draw(x):
            check_room("the directions", self.projections, *x.shape)
            law = jax.random.rademacher if self.directions == "rademacher" else jax.random.normal
            return law(jax.random.fold_in(key, 2), (self.projections, *x.shape), x.dtype)

        return _loss(self, denoiser, key, x0, cond, weight, draw, project=not self.variance_reduced)


def _loss(loss, denoiser, key, x0, cond, weight, directions, project: bool) -> jax.Array:
    """The loss along `directions(x)` [k, batch, *event]; if `project`, |ε̂|² is estimated along them too."""
    process = check_numbers(denoiser, type(loss).__name__, OF_ANY)
    denoiser, x0, cond = prepared(denoiser, key, x0, cond)
    weight = check_weight(process, weight, x0)
    time_key, noise_key = jax.random.split(key)
    t, factor = draw_times(loss.times, time_key, process, x0.shape[0])
    x_t, _ = noised(process, example_keys(noise_key, len(x0)), x0, t, weight)
    sigma = process.sigma(t)
    noise, product = jax.linearize(lambda x: tuple(denoiser(x, t, cond))[1], x_t)
    counted = lambda values: paid(process, weight, values)
    v = jax.vmap(counted)(vary(directions(x_t), (noise, x_t)))
    size, mean_over_event = math.prod(x0.shape[1:]), lambda a: jnp.mean(a, range(-x0.ndim + 1, 0))
    square = size * mean_over_event(v * noise[None]) ** 2 if project else mean_over_event(counted(noise**2))[None]
    trace = mean_over_event(v * jax.vmap(product)(v))
    share = mean_over_event(counted(jnp.ones_like(x0)))
    return factor * (share + jnp.mean(square - 2 * sigma[None] * trace, axis=0))
