r"""A denoiser that is the gradient of a scalar: the score is that of an energy (Salimans and Ho 2021).

The scalar is a potential ψ(params, u, c_noise, cond) -> [batch] of the network's own input u = c_in x, and the network
is its gradient, out = ∇_u ψ. That is all: it goes into a `Denoiser` under any parameterisation, and every loss, sampler
and likelihood takes it. Since ε = (α out - a x)/det and score = -ε/σ are linear in (x, out), with
∇_x ψ(c_in x) = c_in out the score is minus the gradient of

    E(x) = ( α ψ(c_in x)/c_in - a |x|²/2 ) / (σ det),

so that E = -log p_t + const at each t. Its Jacobian is symmetric, whatever the network.

Which potential: ψ = <u, f(u)> for a vector network f loses nothing, since for any ψ

    ψ(u) - ψ(0) = <u, ∫_0^1 ∇ψ(τ u) dτ>,

and where f begins at zero so does out. The other usual one, |u - f(u)|²/2, is bounded below: it suits "noise" alone,
for out may curve either way under the other rows.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_function, check_output
from jaxdiff.denoisers.condition import check_cond_of, no_label_of
from jaxdiff.denoisers.denoiser import Denoiser, takes_key_of
from jaxdiff.processes import check_gaussian, expand_time, row


@dataclasses.dataclass(frozen=True)
class InnerProduct:
    """A network `(params, x, c_noise, cond) -> out` as the potential <x, out>, [batch]."""

    network: Callable[..., jax.Array]

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> out")

    def check_cond(self, params, cond) -> None:
        """Raise for a `cond` that the network does not take."""
        check_cond_of(self.network, params, cond)

    def no_label(self, params) -> int | None:
        """The network's label for none, or None."""
        return no_label_of(self.network, params)

    def takes_key(self, params) -> bool:
        """Whether the network takes the keys of its dropout."""
        return takes_key_of(self.network, params)

    def __call__(self, params, x, c_noise, cond=None, *keys) -> jax.Array:
        """<x, network(x)> for x [batch, *event]."""
        out = self.network(params, x, c_noise, cond, *keys)
        check_output("the network", out, x)
        return jnp.sum(x * out, axis=range(1, x.ndim))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """A potential `(params, x, c_noise, cond) -> [batch]` as the network that is its gradient in x.

    denoiser = Denoiser(Gradient(InnerProduct(network)), params, process)

    Called, it raises ValueError for a potential that returns another shape than [batch].
    """

    potential: Callable[..., jax.Array]

    def __post_init__(self):
        check_function("potential", self.potential, "a function (params, x, c_noise, cond) -> [batch]")

    def check_cond(self, params, cond) -> None:
        """Raise for a `cond` that the potential does not take."""
        check_cond_of(self.potential, params, cond)

    def no_label(self, params) -> int | None:
        """The potential's label for none, or None."""
        return no_label_of(self.potential, params)

    def takes_key(self, params) -> bool:
        """Whether the potential takes the keys of its dropout."""
        return takes_key_of(self.potential, params)

    def __call__(self, params, x, c_noise, cond=None, *keys) -> jax.Array:
        """∇ potential at x [batch, *event], of its shape."""

        def total(x):
            value = self.potential(params, x, c_noise, cond, *keys)
            note = ", one number an example; make a potential of a network by InnerProduct(network)"
            check_output("the potential", value, x, x.shape[:1], note)
            return value.sum()

        return jax.grad(total)(x)


def energy(denoiser: Denoiser, x, t, cond=None) -> jax.Array:
    """-log p_t(x) up to a constant of each t (and cond), nats, [batch]: its gradient is minus the score.

    For x [batch, *event] at t, a scalar or [batch], with σ(t) > 0 (and α(t) > 0 under "noise" and "score"). Raises
    TypeError for a denoiser whose network is not a `Gradient`.
    """
    network = getattr(denoiser, "network", None)
    if not isinstance(network, Gradient):
        raise TypeError(
            f"denoiser = {type(denoiser).__name__} of {type(network).__name__} has no energy; expected a "
            "Denoiser of Gradient(potential), for example Gradient(InnerProduct(network))"
        )
    process = check_gaussian(denoiser.process, "an energy")
    x, t = process.at(x, t)
    alpha, sigma = process.marginal(t)
    data_std = along_batch(denoiser.data_std, t, "data_std")
    a, b = row(denoiser.parameterization, process, t, data_std)
    c_in = 1 / jnp.hypot(alpha * data_std, sigma)
    potential = network.potential(denoiser.params, expand_time(c_in, x) * x, process.c_noise(t), cond)
    square = jnp.sum(x**2, axis=range(1, x.ndim))
    return (alpha / c_in * potential - a / 2 * square) / (sigma * (alpha * b - sigma * a))
