"""One sampler down to a noise level and another below it, such as random steps first and deterministic ones last."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import nan_unless
from jaxdiff.processes import check_time, is_concrete, pytree
from jaxdiff.samplers.sampler import Sampler, check_sampler, take_step


@pytree
@dataclasses.dataclass(frozen=True)
class Switch(Sampler):
    """Use the sampler `first` for steps that start above `t`, and `second` for steps that start at `t` or below.

    `second` begins as at the start of a run: a multistep method has no history. The default grid is that of `first`;
    use a grid with the point `t` to switch exactly there. A run ends with the final prediction of `second`.

    Args:
        first: sampler of the noisy part.
        second: sampler of the rest, with the same `cond`.
        t: the time of the switch.

    Raises:
        ValueError: if the two read different parts of `cond`, or `t` is outside [0, 1].

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> sampler = jd.samplers.Switch(jd.samplers.Ancestral(), jd.samplers.DDIM(), t=0.5)
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), sampler, steps=5).shape
        (4, 1)
    """

    first: Sampler
    second: Sampler
    t: float = 0.5

    def __post_init__(self):
        check_sampler(self.first, "first")
        check_sampler(self.second, "second")
        if self.first.takes != self.second.takes:
            parts = [" and ".join(sampler.takes) or "no part" for sampler in (self.first, self.second)]
            raise ValueError(
                f"first reads {parts[0]} of cond itself, second {parts[1]}; expected two samplers with the same cond"
            )
        t = check_time(self.t)
        if not is_concrete(self.t):
            object.__setattr__(self, "t", t)

    @property
    def grid(self):
        """The grid of `first`."""
        return self.first.grid

    @property
    def looks_back(self) -> bool:
        """Whether either of the two looks back."""
        return self.first.looks_back or self.second.looks_back

    @property
    def takes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The parts of `cond` that both read."""
        return self.second.takes

    def check_cond(self, denoiser, cond, shape):
        """`cond`, checked by both."""
        return self.second.check_cond(denoiser, self.first.check_cond(denoiser, cond, shape), shape)

    def check_process(self, process) -> None:
        """Raise TypeError if one of the two does not support the process."""
        self.first.check_process(process)
        self.second.check_process(process)

    def check_start(self, process, t) -> None:
        """Raise ValueError if the sampler used at `t` cannot start there."""
        if is_concrete(self.t):
            (self.first if t > self.t else self.second).check_start(process, t)

    def init(self, process, x, steps):
        """The state of each of the two."""
        return self.first.init(process, x, steps), self.second.init(process, x, steps)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """A step of the sampler used at t."""

        def by_first(x):
            x, carried = take_step(self.first, keys, denoiser, x, t, s, state[0], cond)
            return x, (carried, state[1])

        def by_second(x):
            x, carried = take_step(self.second, keys, denoiser, x, t, s, state[1], cond)
            return x, (state[0], carried)

        x = nan_unless(self.t >= 0, x)
        return jax.lax.cond(t > jnp.asarray(self.t, t.dtype), by_first, by_second, x)

    def answer(self, keys, denoiser, x, t, cond):
        """The final prediction of `second`."""
        return self.second.answer(keys, denoiser, x, t, cond)
