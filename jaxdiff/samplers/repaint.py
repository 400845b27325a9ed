r"""RePaint (Lugmayr et al. 2022): inpainting that noises the known values to every level and repeats every step.

Let m be 1 for a known value k of x_0, and 0 elsewhere. A step from t to s (their algorithm 1) is

    x_s^k = α_s k + σ_s ε                                     the known values at s
    x_s^u ~ p(x_s | x_t)                                      a step of any sampler
    x_s   = m x_s^k + (1 - m) x_s^u
    x_t   ~ N(a x_s, std²)                                    back by the forward transition from s to t

done `repeats` times, the last time without the last line. Two lines differ from the paper's. Their line 5 multiplies
the noise by 1 - ᾱ instead of its root. Their line 10 goes back with the β of the step below, which adds too little
noise: the transition that undoes the step is q(x_t | x_s) = N(√(1-β_t) x_s, β_t).

With repeats = 1 this is the replacement method of Song et al. 2021 (appendix I.2). It is biased, since the known values
at s are noised independently of those at t and the unknown ones do not match them. The repeats are steps of a Markov
chain at (t, s) that lets the unknown values adapt. The samples remain approximate: many repeats of few steps make them
too narrow, and few repeats of many steps leave a bias. For example, let two values have unit variance and correlation
0.9, and the first be known to be 1.5; the second is then N(1.35, 0.19). On a Gaussian RePaint is a recursion of means
and covariances, which gives under VP:

    steps   repeats    mean    variance
       50         1    0.920      0.288
       50       200    1.344      0.120
     1000         1    0.939      0.309
     1000        50    1.345      0.181

So increase the steps first, then the repeats. (With line 10 as printed, 50 steps of 200 repeats give 1.484 and 0.027.)
A jump of j repeats blocks of j steps (their section 4.3): down to the end of a block, back to its start by one
transition, and down again.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, check_batch, check_room, check_whole, folded, is_concrete, normal, said, with_dtype
from jaxdiff.arrays.dtypes import same_dtype
from jaxdiff.denoisers.bridge import is_of_bridge
from jaxdiff.processes import pytree, transition
from jaxdiff.samplers.ancestral import Ancestral
from jaxdiff.samplers.sampler import Sampler, check_inner, take_step

_EXPECTED = (
    'expected {"known": values [n, *event], "mask": truth values that broadcast against them}, and optionally "cond", '
    "the denoiser's condition"
)


@pytree
@dataclasses.dataclass(frozen=True)
class RePaint(Sampler):
    """Inpainting: samples that agree with known values of x_0, by any one-step sampler.

    `cond` is {"known": `[n, *event]`, "mask": boolean, broadcasts to known, "cond": the denoiser's condition
    (optional)}. The result has the known values where the mask is True. For continuous data. Samples follow p(x_0 |
    known values) approximately (see the module): increase the steps first, then `repeats`.

    A run takes `repeats` steps of `sampler` for each of its steps, whatever the `jump`. Steps after the last whole
    block of `jump` steps, and the final prediction, are taken once. New values of `repeats` and `jump` compile a new
    program.

    Args:
        sampler: sampler of each step.
        repeats: how often each step is taken.
        jump: length of the blocks of steps that are repeated.

    Raises:
        TypeError: for a sampler that uses earlier steps (DPM-Solver++ of order 2 and 3, UniPC) or is adaptive; when
            run, for a bridge or a mask that is not boolean.
        ValueError: for a `repeats` or `jump` below 1; when run, for known values that are not finite or of another
            shape.

    Source:
        Lugmayr et al. 2022, "RePaint: inpainting using denoising diffusion probabilistic models", algorithm 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
        >>> cond = {"known": jnp.full((4, 2), 1.5), "mask": jnp.array([True, False])}
        >>> x = jd.sample(jax.random.key(0), denoiser, (4, 2), jd.samplers.RePaint(repeats=3), steps=5, cond=cond)
        >>> bool((x[:, 0] == 1.5).all())
        True
    """

    sampler: Sampler = Ancestral()
    repeats: int = dataclasses.field(default=10, metadata={"static": True})
    jump: int = dataclasses.field(default=1, metadata={"static": True})

    takes = ("known", "mask")

    def __post_init__(self):
        check_inner("sampler", self.sampler)
        name = type(self.sampler).__name__
        if self.sampler.adaptive:
            raise TypeError(f"RePaint repeats fixed steps, and {name} is adaptive; take Ancestral() or DDIM()")
        if self.sampler.looks_back:
            raise TypeError(f"RePaint goes back to noise, and {name} looks back at earlier steps; take Ancestral()")
        for field in ("repeats", "jump"):
            check_room(field, check_whole(field, getattr(self, field)))

    @property
    def grid(self):
        """The sampler's grid."""
        return self.sampler.grid

    def check_process(self, process) -> None:
        """Raise TypeError if the data of the process are not continuous, or the sampler does not support it."""
        super().check_process(process)
        self.sampler.check_process(process)

    def check_start(self, process, t) -> None:
        """Raise ValueError if the sampler cannot start at `t`."""
        self.sampler.check_start(process, t)

    def check_cond(self, denoiser, cond, shape):
        """{"known", "mask", "cond"} with leaves [n, ...]; unknown values are set to 0."""
        if is_of_bridge(denoiser):
            raise TypeError("RePaint noises known values by the process; a bridge has noise of another kind")
        if not isinstance(cond, dict) or not {*self.takes} <= {*cond} <= {*self.takes, "cond"}:
            raise TypeError(f"cond = {said(cond)}; {_EXPECTED}")
        known, mask = check_batch(cond["known"], "cond['known']"), as_array(cond["mask"])
        if mask is None or mask.dtype != bool:
            raise TypeError(with_dtype("cond['mask']", cond["mask"]) + "; expected truth values, such as mask == 1")
        if known.shape != shape:
            raise ValueError(f"cond['known'] has shape {known.shape}; expected {shape}, that of the samples")
        try:
            mask = jnp.broadcast_to(mask, shape)
        except ValueError:
            raise ValueError(f"cond['mask'] has shape {mask.shape}; expected one that broadcasts to {shape}") from None
        known = jnp.where(mask, known, 0)
        if is_concrete(known) and (bad := ~np.isfinite(known).reshape(len(known), -1).all(1)).any():
            raise ValueError(f"cond['known'][{int(bad.argmax())}] holds a NaN or an infinity where the mask is true")
        return {"known": known, "mask": mask, "cond": self.sampler.check_cond(denoiser, cond.get("cond"), shape)}

    def init(self, process, x, steps):
        """The times of a block, the index in it of the next step, and the sampler's state."""
        return jnp.zeros(self.jump + 1, x.dtype), jnp.zeros((), jnp.int32), self.sampler.init(process, x, steps)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """A step from t to s; at the end of a block, repeat the block `repeats` - 1 times."""
        process: Any = denoiser.process
        times, place, carried = state
        times = times.at[place].set(t).at[place + 1].set(s)
        known = cond["known"].astype(x.dtype)

        def move(x, turn):
            at = jnp.where(turn == 0, place, (turn - 1) % self.jump)
            own = folded(keys, ~turn)  # ~turn counts down from 2³² - 1, since a sampler folds in 0, 1, ... itself
            shrink, std = transition(process, times[-1], times[0])
            x = jnp.where((turn > 0) & (at == 0), shrink * x + std * normal(folded(own, 0), x), x)
            drawn = jnp.where(turn == 0, keys, folded(own, 1))
            ends = times[at], times[at + 1]
            unknown, _ = take_step(self.sampler, drawn, denoiser, x, *ends, carried, cond["cond"])
            noised, _ = process.perturb(folded(own, 2), known, times[at + 1])
            return same_dtype(jnp.where(cond["mask"], noised, unknown), x)

        def advance(x, turn):
            takes_part = (turn == 0) | (place == self.jump - 1)
            return jax.lax.cond(takes_part, move, lambda x, turn: x, x, turn), None

        x, _ = jax.lax.scan(advance, x, jnp.arange(1 + (self.repeats - 1) * self.jump))
        return x, (times, (place + 1) % self.jump, carried)

    def answer(self, keys, denoiser, x, t, cond):
        """The known values, and elsewhere the sampler's final prediction."""
        return jnp.where(cond["mask"], cond["known"], self.sampler.answer(keys, denoiser, x, t, cond["cond"]))
