"""A bridge between data and source: its flow and both of its SDEs follow from two conditional means.

1.  Between the ends of a pair (x_0, x_1) runs a Brownian bridge of variance σ² per unit time. With z standard normal
and
    γ = σ √(t (1 - t)),

        x_t = (1 - t) x_0 + t x_1 + γ z.

2.  All that is needed at x_t = x are w = E[x_1 - x_0 | x] and the score s = ∇ log p_t(x) = -E[z | x]/γ (Tweedie):

        E[x_0 | x] = x - t w + γ² s            E[x_1 | x] = x + (1 - t) w + γ² s.

3.  The mixture of these bridges has the same margins as (Tong et al. 2024, "Simulation-free Schrödinger bridges via
score
    and flow matching", section 3; here with the data at t = 0)

        dx = (x - E[x_0 | x])/t dt + σ dw̄        from the source back to the data, w̄ Brownian in -t
        dx = (E[x_1 | x] - x)/(1 - t) dt + σ dw    from the data on to the source
        dx = u dt,    u = w - σ² (1 - 2t)/2 s       the probability flow, half the sum of the two drifts;

    the drifts differ by σ² s. If the pairs follow the entropic plan for σ² (`losses.couplings.Entropic`) these are the
    Schrödinger bridge; under other pairs they are one Markovian projection of it (Shi et al. 2023).

4.  The way back to the data is Brownian motion, x_t = x_0 + σ √t ε, that starts from the source in place of its prior:
    given x_0 and x_t, the path between them is the same Brownian bridge, q(x_s | x_t, x_0) of `jd.Brownian(σ)`. So
    `ToData` is a denoiser of that process, stochastic samplers run it, and DDPM's ancestral step is the step of the
    bridge,

        x_s = x + (t - s)/t (E[x_0 | x] - x) + σ √(s (t - s)/t) z.

    The way to the source is the same with the ends exchanged (`Swapped`): w -> -w, t -> 1 - t.

5.  The flow is a flow between any two ends (see `losses.flow_matching`): a denoiser of `jd.Flow()` of velocity u.

The network returns w and -n s with n² = γ² + data_std²: both are of unit order at every t and for every σ, and no
coefficient above is infinite at an end. For σ = 0 this is a flow along straight lines.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_batch, check_field, check_function, check_instance, said
from jaxdiff.denoisers.condition import check_cond_of
from jaxdiff.denoisers.denoiser import OF_A_MODULE, OfNetwork, check_params, innermost
from jaxdiff.processes import Brownian, Flow, Prediction, check_time, expand_time, pytree


class TwoEnded(NamedTuple):
    """The two conditional means of a bridge at x_t.

    Attributes:
        displacement: E[x_1 - x_0 | x_t], `[batch, *event]`.
        score: ∇ log p_t(x_t), `[batch, *event]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> means = jd.denoisers.TwoEnded(jnp.ones((4, 2)), jnp.zeros((4, 2)))
        >>> displacement, score = means
        >>> displacement.shape
        (4, 2)
    """

    displacement: jax.Array
    score: jax.Array


class BridgeLike(abc.ABC):
    """Base class of a bridge of variance `sigma`² per unit time; called, it is the denoiser of its probability flow.

    A subclass has a field `sigma` and defines `predict`.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Shift(jd.denoisers.BridgeLike):  # from x_0 to x_0 + 1, along straight lines
        ...     sigma: float = 0.0
        ...     def predict(self, x, t, cond=None):
        ...         return jd.denoisers.TwoEnded(jnp.ones_like(x), jnp.zeros_like(x))
        >>> data, source = Shift()(jnp.zeros((1, 2)), 0.25)
        >>> data.tolist(), source.tolist()
        ([[-0.25, -0.25]], [[0.75, 0.75]])
    """

    sigma: float

    @abc.abstractmethod
    def predict(self, x, t, cond=None) -> TwoEnded:
        """Both conditional means at x `[batch, *event]`, t a scalar or `[batch]`."""

    @property
    def process(self) -> Flow:
        """The straight line between the ends, the process of the flow."""
        return Flow()

    def __call__(self, x, t, cond=None) -> Prediction:
        """The ends to which the flow's velocity u points from x `[batch, *event]`: x - t u and x + (1 - t) u."""
        x = check_batch(x)
        displacement, score = self.predict(x, t, cond)
        t = expand_time(check_time(t), x)
        velocity = displacement - along_batch(self.sigma, x, "sigma") ** 2 * (0.5 - t) * score
        return Prediction(x - t * velocity, x + (1 - t) * velocity)


@pytree
@dataclasses.dataclass(frozen=True)
class Bridge(OfNetwork, BridgeLike):
    """A network as a bridge between data and source.

    The network sees x scaled to about unit variance and c_noise = log(t/(1 - t))/4, clipped to ±3. Two networks of one
    kind become one by `lambda params, *inputs: (network(params[0], *inputs), network(params[1], *inputs))`.

    Args:
        network: a function `(params, x, c_noise, cond) -> (w, -n s)`, two arrays of the shape of x.
        params: the network's parameters, a pytree of arrays.
        sigma: the standard deviation of the Brownian motion per unit time, 0 or more.
        data_std: the standard deviation of both ends, above 0. It scales the score near the ends; take less where the
            structure of the data is much finer than its spread.
        key: as in `jaxdiff.Denoiser`.

    Raises:
        TypeError: if `network` is not a function; when called, if it does not return two arrays.
        ValueError: if `sigma` is negative or `data_std` is not above 0; when called, if an output has another shape.

    Source:
        Tong et al. 2024, "Simulation-free Schrödinger bridges via score and flow matching", section 3.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: (params["w"] * x, params["s"] * x)
        >>> bridge = jd.Bridge(network, {"w": jnp.ones(()), "s": jnp.zeros(())}, sigma=0.5)
        >>> displacement, score = bridge.predict(jnp.ones((4, 2)), 0.5)
        >>> displacement.shape, score.shape
        ((4, 2), (4, 2))
    """

    network: Callable[..., tuple[jax.Array, jax.Array]] = dataclasses.field(metadata={"static": True})
    params: Any
    sigma: float = 1.0
    data_std: float = 0.5
    key: jax.Array | None = None

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> (w, -n s)", 4, OF_A_MODULE)
        object.__setattr__(self, "params", check_params(self.params))
        check_field(self, "sigma", least=0)
        check_field(self, "data_std", above=0)
        self._check_key()

    def predict(self, x, t, cond=None) -> TwoEnded:
        """E[x_1 - x_0 | x_t] and the score at x `[batch, *event]`, t a scalar or `[batch]`."""
        x, t = self.process.at(x, t)
        data_std = along_batch(self.data_std, t, "data_std")
        gamma = along_batch(self.sigma, t, "sigma") * jnp.sqrt(t * (1 - t))
        c_in = expand_time(1 / jnp.hypot(jnp.hypot(1 - t, t) * data_std, gamma), x)
        out = self._out(c_in * x, self.process.c_noise(t), cond)
        if not hasattr(out, "__iter__"):
            raise TypeError(f"the network returned {said(out)} for x {x.shape}; expected two arrays of that shape")
        shapes = [getattr(part, "shape", said(part)) for part in out]
        if shapes != [x.shape] * 2:
            raise ValueError(f"the network returned shapes {shapes} for x {x.shape}; expected two of that shape")
        displacement, scaled = out
        return TwoEnded(displacement, -scaled / expand_time(jnp.hypot(gamma, data_std), x))


def check_bridge(bridge) -> None:
    """Check that an object is a bridge.

    Args:
        bridge: the object to check.

    Raises:
        TypeError: if it is not a `BridgeLike`.

    Examples:
        >>> import jaxdiff as jd
        >>> bridge = jd.Bridge(lambda params, x, c_noise, cond: (x, x), {})
        >>> jd.denoisers.check_bridge(bridge)
    """
    check_instance("bridge", bridge, BridgeLike, "a bridge, such as jaxdiff.Bridge(network, params)")


@pytree
@dataclasses.dataclass(frozen=True)
class Swapped(BridgeLike):
    """A bridge with its ends exchanged: its data are the other's source.

    Args:
        bridge: the bridge.

    Raises:
        TypeError: if `bridge` is not a bridge.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> bridge = jd.Bridge(lambda params, x, c_noise, cond: (x, 0 * x), {}, sigma=0.0)
        >>> x = jnp.ones((1, 2))
        >>> there, back = bridge.predict(x, 0.25), jd.denoisers.Swapped(bridge).predict(x, 0.75)
        >>> bool(jnp.allclose(there.displacement, -back.displacement))
        True
    """

    bridge: BridgeLike

    def __post_init__(self):
        check_bridge(self.bridge)

    @property
    def sigma(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sigma of the bridge."""
        return self.bridge.sigma

    def check_cond(self, cond) -> None:
        check_cond_of(self.bridge, cond)

    def predict(self, x, t, cond=None) -> TwoEnded:
        """Both conditional means at x `[batch, *event]`, with t counted from the other end."""
        displacement, score = self.bridge.predict(x, 1 - t, cond)
        return TwoEnded(-displacement, score)


@pytree
@dataclasses.dataclass(frozen=True)
class ToData:
    """A bridge's way back to its data, as a denoiser of Brownian motion.

    For stochastic samplers, started from the source by `x_start`. Its noise is the known part of an increment of the
    SDE, (x - E[x_0 | x])/(σ √t), which differs from the noise of the bridge's flow: give the bridge itself to
    deterministic samplers.

    Args:
        bridge: the bridge.

    Raises:
        TypeError: if `bridge` is not a bridge.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> bridge = jd.Bridge(lambda params, x, c_noise, cond: (jnp.ones_like(x), 0 * x), {}, sigma=0.5)
        >>> denoiser = jd.denoisers.ToData(bridge)  # E[x_0 | x] = x - t w, with w = 1 and score 0
        >>> denoiser(jnp.ones((1, 2)), 0.25).data.tolist()
        [[0.75, 0.75]]
    """

    bridge: BridgeLike

    def __post_init__(self):
        check_bridge(self.bridge)

    @property
    def process(self) -> Brownian:
        """Brownian motion with the bridge's sigma."""
        return Brownian(self.bridge.sigma)

    def check_cond(self, cond) -> None:
        check_cond_of(self.bridge, cond)

    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and the matching noise at x `[batch, *event]`, t a scalar or `[batch]`."""
        x = check_batch(x)
        displacement, score = self.bridge.predict(x, t, cond)
        t = expand_time(check_time(t), x)
        sigma = along_batch(self.bridge.sigma, x, "sigma")
        step = displacement - sigma**2 * (1 - t) * score
        return Prediction(x - t * step, jnp.sqrt(t) * step / sigma)


def is_of_bridge(denoiser) -> bool:
    """Whether `denoiser`, wrapped or not, belongs to a bridge, whose x_t is not data with Gaussian noise."""
    return isinstance(innermost(denoiser), BridgeLike | ToData)
