r"""Processes of categories: x_t is x_0 with probability α, and is drawn from the noise with probability σ = 1 - α.

1.  A network's logits say what the other values of x_t say of each value of x_0. What a value says of itself is added
    as evidence,

        log p(x_0 = v | x_t) = out_v + log q(x_t | v) + const.

2.  The noise of `Absorbing` is a category of its own, the mask, which data never holds (Austin et al. 2021, "Structured
    denoising diffusion models in discrete state-spaces", section 3.1). Its evidence is 0 at x_t and -inf elsewhere for
    a value that is seen, so that it stays what it is, and says nothing for a mask: the two rules of Sahoo et al. 2024
    ("Simple and effective masked diffusion language models", section 3.2.3).
3.  A step back from t to s leaves what is seen, and of the masks shows each with probability

        (α_s - α_t)/(1 - α_t),

    as the category that is drawn from p(x_0 | x_t). So the bound pays -log p(x_0 | x_t) of each mask times that
    probability (their eq. 7), and in the limit of many steps times the rate d log σ/dt = -α'/(1 - α) (their eq. 10).
"""

import dataclasses

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
    pytree,
    said,
    with_dtype,
)
from jaxdiff.processes import ends
from jaxdiff.processes.curves import Curves
from jaxdiff.processes.grids import Time
from jaxdiff.processes.predictions import Categorical, Certain


class Discrete(Curves):
    """Categories 0 to `categories` - 1 that are noised independently of each other: σ = 1 - α.

    A schedule of your own is an `Absorbing` with another `alpha(t)`; another kind of noise is a subclass of this class,
    which also says how it is drawn, read, stepped back and paid for (the methods of `Absorbing`). Data are integers
    [n, *event]; an event may be a single category, [n].
    """

    power = 1
    bound_grid = Time()
    categories: int

    def sigma(self, t) -> jax.Array:
        """The probability of noise at t: 1 - α."""
        return 1 - self.alpha(t)

    def rate(self, t) -> jax.Array:
        """σ'/σ, the weight of an error in the bound, of the shape of `t`; 0 where σ is 0 and nothing is noise."""
        slope, sigma = self.velocity(t)[1], self.sigma(t)
        noised = sigma > 0
        return jnp.where(noised, slope / jnp.where(noised, sigma, 1.0), 0.0)

    def log_share(self, t) -> jax.Array:
        """log σ, of the shape of `t`, held at the smallest σ above 0 that 1 - α can be: its slope is the rate."""
        sigma = self.sigma(t)
        return ends.log(jnp.maximum(sigma, float(jnp.finfo(sigma.dtype).epsneg)))

    @property
    def states(self) -> int:
        """How many values x_t can take: the categories, and those of the noise."""
        return self.categories

    def check(self, x, name: str = "x", noised: bool = False) -> jax.Array:
        """`x` as int32 [n, *event] of categories, or of the states of noised x.

        Raises TypeError for what holds no integers, ValueError for no batch or, where it is concrete, a value beyond.
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
        """`shape` as (n, *event); an event may have no axis."""
        return check_shape("shape", shape, "(n, *event), n samples")

    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[str, None]:
        """("leave_one_out", None), the one way to read a network's logits; ValueError for anything else."""
        if parameterization is not None:
            check_choice("parameterization", parameterization, ("leave_one_out",))
        if data_std is not None:
            raise ValueError(f"data_std = {said(data_std)}: categories have none; leave it out")
        if learned_variance:
            raise ValueError("learned_variance = True: a step back between categories has no variance; leave it out")
        return "leave_one_out", None

    def check_start(self, parameterization, t) -> None:
        """Logits say something of x_0 at every t."""

    def check_prediction(self, prediction, x) -> None:
        """Raise where what a denoiser returned for x is no `Categorical` with logits [*x.shape, categories]."""
        check_instance("the denoiser's answer", prediction, Categorical, "a jaxdiff.Categorical(logits)")
        check_output("the denoiser (logits)", prediction.logits, x, (*x.shape, self.categories))

    def check_curves(self) -> None:
        """Raise ValueError where an own α is not a probability that falls from 1 at t = 0, or σ not 1 - α."""
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
        if first != 1:
            raise ValueError(f"{type(self).__name__}: alpha(0) = {first}; expected 1, data without noise")

    def warn_uncovered(self, data_std) -> None:
        """There is nothing to warn of: that x at t = 1 is noise is checked."""

    def at(self, x, t) -> tuple[jax.Array, jax.Array]:
        x = self.check(x, noised=True)
        return x, jnp.broadcast_to(expand_time(check_time(t), x).ravel(), x.shape[:1])

    def present(self, x, t, data_std) -> jax.Array:
        return x

    def answer(self, keys, prediction: Categorical) -> jax.Array:
        return prediction.draw(keys)

    def error_scale(self, parameterization, t, data_std) -> jax.Array:
        """1: the error is that of the network's own output."""
        return jnp.ones_like(t)

    def check_data(self, data, levels) -> np.ndarray:
        """Categories. Raises ValueError for `levels`, which they have not."""
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


@pytree
@dataclasses.dataclass(frozen=True)
class Absorbing(Discrete):
    """Masking: each value becomes the mask, category number `categories`, with probability σ(t) = t.

    For another schedule override `alpha(t)`, which falls from 1 to 0. `jaxdiff.Denoiser` reads a network's output
    [n, *event, categories] as logits; it has none for the mask.

    Raises TypeError for categories that are no whole number, ValueError for fewer than two.
    """

    categories: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        object.__setattr__(self, "categories", check_whole("categories", self.categories, least=2))

    def alpha(self, t) -> jax.Array:
        return 1 - t

    @property
    def states(self) -> int:
        return self.categories + 1

    @property
    def mask(self) -> int:
        """The value that says nothing."""
        return self.categories

    def _check_ends(self, first: float, last: float) -> None:
        super()._check_ends(first, last)
        if last != 0:
            raise ValueError(
                f"{type(self).__name__}: alpha(1) = {last}; expected 0 to the bit, for a run starts where all is "
                "masked: return jnp.where(t < 1, alpha, 0.0)"
            )

    def prior(self, keys, shape, t) -> jax.Array:
        return jnp.full((len(keys), *shape[1:]), self.mask, jnp.int32)

    def unknown(self, shape) -> jax.Array:
        return jnp.full(shape, self.mask, jnp.int32)

    def perturb(self, keys, x0, t) -> tuple[jax.Array, Certain]:
        """(x0 with each value masked with probability σ(t), x0 itself)."""
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:]))(keys)
        return jnp.where(uniform < expand_time(self.alpha(t), x0), x0, self.mask), Certain(x0)

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits, with what is seen as evidence."""
        note = f" (one logit for each of {self.categories} categories, none for the mask)"
        check_output("the network", out, x, (*x.shape, self.categories), note)
        return Categorical(out, self.evidence(x, t))

    def evidence(self, x, t) -> jax.Array:
        """log q(x_t | x_0 = v) up to a constant, [*x.shape, categories]: -inf but at what is seen, 0 for a mask."""
        seen = x[..., None]
        categories = jnp.arange(self.categories).reshape(*[1] * x.ndim, -1)
        other = (seen != self.mask) & (categories != seen)
        return jnp.where(other, -jnp.inf, 0.0)

    def _shown(self, x, t, s) -> jax.Array:
        """The probability with which a step from t to s shows a mask, broadcast against x; 1 where none can be."""
        sigma_t = self.sigma(t)
        shown = jnp.where(sigma_t > 0, (self.alpha(s) - self.alpha(t)) / jnp.where(sigma_t > 0, sigma_t, 1.0), 1.0)
        return expand_time(shown, x)

    def reverse(self, keys, prediction: Categorical, x, t, s) -> jax.Array:
        """x with some of the masks shown, each as a draw of the prediction."""
        which, what = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(which)
        return jnp.where((x == self.mask) & (uniform < self._shown(x, t, s)), prediction.draw(what), x)

    def error(self, prediction: Categorical, truth: Certain, x, t) -> jax.Array:
        """-log p(x_0 | x_t) of the masks, nats, 0 of what is seen; NaN for a category that does not exist."""
        there = (truth.data >= 0) & (truth.data < self.categories)
        return jnp.where((x == truth.data) & there, 0.0, -prediction.log_prob(truth.data))

    def kl(self, prediction: Categorical, truth: Certain, x, t, s) -> jax.Array:
        """The error times the probability with which a mask is shown."""
        return self._shown(x, t, s) * self.error(prediction, truth, x, t)

    def prior_kl(self, x0, t) -> jax.Array:
        """0 where nothing is left at t, infinite elsewhere: all masks never are what is seen."""
        return jnp.broadcast_to(expand_time(jnp.where(self.alpha(t) > 0, jnp.inf, 0.0), x0), x0.shape)
