"""A denoiser that is the gradient of a scalar: the score is that of an energy (Salimans and Ho 2021).

The scalar is a potential ψ(params, u, c_noise, cond) -> [batch] of the network's own input u = c_in x, and the network
is its gradient, out = ∇_u ψ. That is all: it goes into a `Denoiser` under any parameterisation, and every loss, sampler
and likelihood takes it. Since ε = (α out - a x)/det and score = -ε/σ are linear in (x, out), with
∇_x ψ(c_in x) = c_in out the score is minus the gradient of

    E(x) = ( α ψ(c_in x)/c_in - a |x|²/2 ) / (σ det),

so that E = -log p_t + const at each t. Its Jacobian is symmetric for every network.

Which potential: ψ = <u, f(u)> for a vector network f loses no generality, since for any ψ

    ψ(u) - ψ(0) = <u, ∫_0^1 ∇ψ(τ u) dτ>,

and where f begins at zero so does out. The other common one, |u - f(u)|²/2, is bounded below: it suits "noise" alone,
since out may curve either way under the other parameterisations.
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
    """The potential <x, out> of a network `(params, x, c_noise, cond) -> out`.

    Args:
        network: the network, whose output has the shape of x.

    Raises:
        TypeError: if `network` is not a function.
        ValueError: when called, if the network returns another shape than that of x.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> potential = jd.denoisers.InnerProduct(lambda params, x, c_noise, cond: 0.5 * x)
        >>> potential({}, jnp.ones((4, 2)), 0.0).tolist()  # |x|²/2
        [1.0, 1.0, 1.0, 1.0]
    """

    network: Callable[..., jax.Array]

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> out")

    def check_cond(self, params, cond) -> None:
        """Raise for a `cond` that the network does not accept."""
        check_cond_of(self.network, params, cond)

    def no_label(self, params) -> int | None:
        """The network's label for "no label", or None."""
        return no_label_of(self.network, params)

    def takes_key(self, params) -> bool:
        """Whether the network has dropout and takes keys for it."""
        return takes_key_of(self.network, params)

    def __call__(self, params, x, c_noise, cond=None, *keys) -> jax.Array:
        """<x, network(x)>, `[batch]`, for x `[batch, *event]`."""
        out = self.network(params, x, c_noise, cond, *keys)
        check_output("the network", out, x)
        return jnp.sum(x * out, axis=range(1, x.ndim))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """A network that is the gradient in x of a potential `(params, x, c_noise, cond) -> [batch]`.

    In a `jaxdiff.Denoiser` it gives a score that is the gradient of an `energy`.

    Args:
        potential: the potential, such as `InnerProduct(network)`.

    Raises:
        TypeError: if `potential` is not a function.
        ValueError: when called, if the potential returns another shape than `[batch]`.

    Source:
        Salimans and Ho 2021, "Should EBMs model the energy or the score?".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> potential = lambda params, x, c_noise, cond: params["half"] * jnp.sum(x**2, axis=1)
        >>> network = jd.denoisers.Gradient(potential)
        >>> network({"half": 0.5}, jnp.array([[1.0, 2.0]]), 0.0).tolist()
        [[1.0, 2.0]]
    """

    potential: Callable[..., jax.Array]

    def __post_init__(self):
        check_function("potential", self.potential, "a function (params, x, c_noise, cond) -> [batch]")

    def check_cond(self, params, cond) -> None:
        """Raise for a `cond` that the potential does not accept."""
        check_cond_of(self.potential, params, cond)

    def no_label(self, params) -> int | None:
        """The potential's label for "no label", or None."""
        return no_label_of(self.potential, params)

    def takes_key(self, params) -> bool:
        """Whether the potential has dropout and takes keys for it."""
        return takes_key_of(self.potential, params)

    def __call__(self, params, x, c_noise, cond=None, *keys) -> jax.Array:
        """∇ potential at x `[batch, *event]`, of the same shape."""

        def total(x):
            value = self.potential(params, x, c_noise, cond, *keys)
            note = ", one number per example; InnerProduct(network) makes a potential from a network"
            check_output("the potential", value, x, x.shape[:1], note)
            return value.sum()

        return jax.grad(total)(x)


def energy(denoiser: Denoiser, x, t, cond=None) -> jax.Array:
    """The energy -log p_t(x), up to a constant that depends on t and cond; its gradient is minus the score.

    Args:
        denoiser: a `jaxdiff.Denoiser` of a `Gradient`.
        x: noised data, `[batch, *event]`.
        t: the time, a scalar or `[batch]`, with σ(t) > 0, and α(t) > 0 under "noise" and "score".
        cond: what the denoiser is conditioned on.

    Returns:
        The energy, nats, `[batch]`.

    Raises:
        TypeError: if the denoiser's network is not a `Gradient`, or the process is not one of numbers.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> potential = jd.denoisers.InnerProduct(lambda params, x, c_noise, cond: params["half"] * x)
        >>> denoiser = jd.Denoiser(jd.denoisers.Gradient(potential), {"half": jnp.array(0.5)}, jd.VP())
        >>> x = jnp.ones((1, 2))
        >>> gradient = jax.grad(lambda x: jd.energy(denoiser, x, 0.5).sum())(x)
        >>> bool(jnp.allclose(gradient, -jd.score(denoiser, x, 0.5), atol=1e-5))
        True
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
