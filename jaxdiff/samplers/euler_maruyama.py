r"""Euler-Maruyama in t, forward and backward.

The forward SDE is dx = f x dt + g dw. Backward, from t to s < t, a family of SDEs keeps the marginals (Anderson 1982;
Song et al. 2021, eq. 6 and 13; Karras et al. 2022, eq. 6); η = 1 is the reverse SDE and η = 0 the probability flow:

    dx = (f x - (1 + η²)/2 g² score) dt + η g dw.

With score = -ε/σ and h the length of a step,

    x_{t+h} = x + h f x + g √h z                                          forward
    x_{t-h} = x - h (f x + (1 + η²)/2 g²/σ ε) + η g √h z                  backward

Both are of weak order 1 in h. Unlike the other samplers this one steps in t itself, which is least accurate near the
ends.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_above, check_room, check_shared, check_whole, example_keys, folded, normal
from jaxdiff.arrays.dtypes import same_dtype, working_dtype
from jaxdiff.arrays.varying import vary
from jaxdiff.processes import Gaussian, check_event, check_gaussian, forward_sde, pytree
from jaxdiff.processes.grids import check_one_time
from jaxdiff.samplers.sampler import Sampler, check_guides_noise, check_noise


@pytree
@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """Euler-Maruyama in t on the reverse SDE.

    Args:
        noise: η, 0 or more: 1 is the reverse SDE, 0 is Euler's method on the probability flow.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 6 and appendix D.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.EulerMaruyama(), steps=5).shape
        (4, 1)
    """

    noise: float = 1.0

    def __post_init__(self):
        check_noise(self)

    def check_start(self, process, t) -> None:
        """Raise ValueError if α = 0 at `t`, where the SDE is singular."""
        if process.marginal(t)[0] == 0:
            raise ValueError(
                f"the SDE of {type(process).__name__} is singular at t = {float(t)}, where alpha = 0; "
                "start below, for example t_start=0.999, or use Ancestral, whose step is finite there"
            )

    def check_cond(self, denoiser, cond, shape):
        """`cond`, checked. Raise ValueError if guidance leaves the predicted noise unguided."""
        check_guides_noise(denoiser, "Euler-Maruyama")
        return super().check_cond(denoiser, cond, shape)

    def move(self, keys, process, prediction, x, t, s, state):
        """One Euler-Maruyama step."""
        _, noise = prediction
        f, g = forward_sde(process, t)
        sigma = process.sigma(t)
        h = t - s
        drift = f * x + (1 + self.noise**2) / 2 * g**2 / sigma * noise
        return x - h * drift + self.noise * g * jnp.sqrt(h) * normal(keys, x), state


def forward_paths(key, process: Gaussian, x0, steps: int, t_start: float = 0.0, t_end: float = 1.0) -> jax.Array:
    """Simulate paths of the forward SDE from x0 by Euler-Maruyama, in `steps` equal steps in t.

    Path i depends on `key` and i alone. For n paths from one point: `x0 = jnp.broadcast_to(point, (n, *event))`.

    Args:
        key: a typed key, or n keys, one a path.
        process: a process of continuous data.
        x0: where the paths start, `[n, *event]`, floating.
        steps: number of steps.
        t_start: time of x0.
        t_end: time of the last point.

    Returns:
        The paths, `[steps + 1, n, *event]`.

    Raises:
        TypeError: for an integer x0 or a key that is not typed.
        ValueError: for a NaN in x0, fewer than one step, or times outside [0, 1] or not increasing (traced, these give
            NaN).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.samplers.forward_paths(jax.random.key(0), jd.VP(), jnp.zeros((4, 2)), steps=10).shape
        (11, 4, 2)
    """
    check_gaussian(process, "an SDE")
    x0 = check_event(x0, "x0")
    check_shared("process", process)
    steps = check_whole("steps", steps)
    check_room("paths, stored twice,", steps + 1, *x0.shape, itemsize=8)
    start, end = check_one_time(t_start, "t_start"), check_one_time(t_end, "t_end")
    message = "t_start = {low} is not below t_end = {high}; noise grows with t, swap them"
    end = check_above(end, start, message)
    return _forward_paths(example_keys(key, x0.shape[0]), process, x0, steps, start, end)


@functools.partial(jax.jit, static_argnames="steps")
def _forward_paths(keys, process, x0, steps, start, end):
    dtype = working_dtype(x0)
    h = ((end - start) / steps).astype(dtype)

    def advance(x, index):
        f, g = forward_sde(process, (start + index.astype(dtype) * h).astype(dtype))
        step_keys = folded(keys, index + 1)
        x = same_dtype(x + h * f * x + g * jnp.sqrt(h) * normal(step_keys, x), x)
        return x, x

    x = vary(x0.astype(dtype), (keys, process))
    return jnp.concatenate([x[None], jax.lax.scan(advance, x, jnp.arange(steps))[1]]).astype(x0.dtype)
