r"""A bridge between data and source: its flow and both of its SDEs are read off two conditional means.

1.  Between the ends of a pair (x_0, x_1) runs a Brownian bridge of variance σ² a unit time. With z standard normal and
    γ = σ √(t (1 - t)),

        x_t = (1 - t) x_0 + t x_1 + γ z.

2.  Of x_t = x everything is known by w = E[x_1 - x_0 | x] and the score s = ∇ log p_t(x) = -E[z | x]/γ (Tweedie):

        E[x_0 | x] = x - t w + γ² s            E[x_1 | x] = x + (1 - t) w + γ² s.

3.  The mixture of these bridges has the margins of (Tong et al. 2024, "Simulation-free Schrödinger bridges via score
    and flow matching", section 3; here with the data at t = 0)

        dx = (x - E[x_0 | x])/t dt + σ dw̄        from the source back to the data, w̄ Brownian in -t
        dx = (E[x_1 | x] - x)/(1 - t) dt + σ dw    from the data on to the source
        dx = u dt,    u = w - σ² (1 - 2t)/2 s       the probability flow, half the sum of the two drifts;

    their difference is σ² s. If the pairs follow the entropic plan for σ² (`losses.couplings.Entropic`) these are the
    Schrödinger bridge; under other pairs they are one Markovian projection of it (Shi et al. 2023).

4.  Back to the data is Brownian motion, x_t = x_0 + σ √t ε, that does not start from its prior but from the source:
    given x_0 and x_t, what was between is the same Brownian bridge, q(x_s | x_t, x_0) of `jd.Brownian(σ)`. So `ToData`
    is a denoiser of that process, stochastic samplers run it, and DDPM's ancestral step is the step of the bridge,

        x_s = x + (t - s)/t (E[x_0 | x] - x) + σ √(s (t - s)/t) z.

    On to the source is the same with the ends changed (`Swapped`): w -> -w, t -> 1 - t.

5.  The flow is a flow between any two ends (see `losses.flow_matching`): a denoiser of `jd.Flow()` of velocity u.

The network returns w and -n s with n² = γ² + data_std²: both of unit order at every t and for every σ, and no
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
    """E[x_1 - x_0 | x_t] and ∇ log p_t(x_t), each [batch, *event]."""

    displacement: jax.Array
    score: jax.Array


class BridgeLike(abc.ABC):
    """A bridge of variance `sigma`² a unit time; called, it is the denoiser of its probability flow."""

    sigma: float

    @abc.abstractmethod
    def predict(self, x, t, cond=None) -> TwoEnded:
        """Both conditional means at x [batch, *event], t a scalar or [batch]."""

    @property
    def process(self) -> Flow:
        """The line between the ends, on which the flow runs."""
        return Flow()

    def __call__(self, x, t, cond=None) -> Prediction:
        """Where the flow's velocity at x [batch, *event] points to: x - t u and x + (1 - t) u."""
        x = check_batch(x)
        displacement, score = self.predict(x, t, cond)
        t = expand_time(check_time(t), x)
        velocity = displacement - along_batch(self.sigma, x, "sigma") ** 2 * (0.5 - t) * score
        return Prediction(x - t * velocity, x + (1 - t) * velocity)


@pytree
@dataclasses.dataclass(frozen=True)
class Bridge(OfNetwork, BridgeLike):
    """A network as a bridge: `network(params, x, c_noise, cond) -> (w, -n s)`, each of the shape of x.

    `sigma` is the Brownian motion's standard deviation a unit time, `data_std` that of both ends, or less where their
    structure is much finer than their spread: it scales the score near them. `key` is as in `jaxdiff.Denoiser`. The
    network sees x scaled to about unit variance and c_noise = log(t/(1 - t))/4 within ±3. Two networks of one kind make
    a pair by
    `lambda params, *inputs: (network(params[0], *inputs), network(params[1], *inputs))`.

    Raises TypeError for a network that is no function, ValueError for a negative sigma or a data_std that is not above
    0, and when called for a network that returns something else.
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
        """E[x_1 - x_0 | x_t] and the score at x [batch, *event], t a scalar or [batch]."""
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
    """Raise TypeError for what is no bridge."""
    check_instance("bridge", bridge, BridgeLike, "a bridge, such as jaxdiff.Bridge(network, params)")


@pytree
@dataclasses.dataclass(frozen=True)
class Swapped(BridgeLike):
    """A bridge read from its other end: its data are the source."""

    bridge: BridgeLike

    def __post_init__(self):
        check_bridge(self.bridge)

    @property
    def sigma(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the bridge."""
        return self.bridge.sigma

    def check_cond(self, cond) -> None:
        check_cond_of(self.bridge, cond)

    def predict(self, x, t, cond=None) -> TwoEnded:
        """Both conditional means at x [batch, *event], t from the other end."""
        displacement, score = self.bridge.predict(x, 1 - t, cond)
        return TwoEnded(-displacement, score)


@pytree
@dataclasses.dataclass(frozen=True)
class ToData:
    """The bridge's way back to its data, as a denoiser of Brownian motion, for stochastic samplers and x_start alone.

    Its noise is what an increment of the SDE knows, (x - E[x_0 | x])/(σ √t), and not that of the bridge's flow:
    deterministic samplers take the bridge itself.
    """

    bridge: BridgeLike

    def __post_init__(self):
        check_bridge(self.bridge)

    @property
    def process(self) -> Brownian:
        """Brownian motion of the bridge's sigma."""
        return Brownian(self.bridge.sigma)

    def check_cond(self, cond) -> None:
        check_cond_of(self.bridge, cond)

    def __call__(self, x, t, cond=None) -> Prediction:
        """E[x_0 | x] and the noise that goes with it at x [batch, *event], t a scalar or [batch]."""
        x = check_batch(x)
        displacement, score = self.bridge.predict(x, t, cond)
        t = expand_time(check_time(t), x)
        sigma = along_batch(self.bridge.sigma, x, "sigma")
        step = displacement - sigma**2 * (1 - t) * score
        return Prediction(x - t * step, jnp.sqrt(t) * step / sigma)


def is_of_bridge(denoiser) -> bool:
    """Whether `denoiser`, wrapped or not, is of a bridge, whose x_t is not data with Gaussian noise."""
    return isinstance(innermost(denoiser), BridgeLike | ToData)
