r"""Score and flow matching of a bridge: [SF]²M of Tong et al. 2024, "Simulation-free Schrödinger bridges", section 3.

For a pair (x_0, x_1) of the coupling and x_t = (1 - t) x_0 + t x_1 + γ z, γ = σ √(t (1 - t)), a `Bridge` regresses

    |w - (x_1 - x_0)|² + |γ s + z|².

The paper regresses the flow's velocity in place of w, which adds the term σ (1 - 2t)/(2 √(t (1 - t))) z, of infinite
variance at both ends. Velocity, score and w are linear in each other, so the minimum is the same.

With pairs from the entropic plan the minimum is the Schrödinger bridge. DSBM (Shi et al. 2023, algorithm 1; iterative
Markovian fitting) reaches it from any coupling: fit the bridge to the pairs, transport one end to the other with it,
and use the results as the new pairs, from either end in turn:

    pairs = jnp.stack([x0, jd.cross(key, bridge, x0, to="source")], axis=1)     # losses.couplings.Paired()
    pairs = jnp.stack([jd.cross(key, bridge, x1, to="data"), x1], axis=1)
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch
from jaxdiff.denoisers import check_bridge
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, held, paid
from jaxdiff.losses.couplings import Coupling, Entropic, check_coupling, draw
from jaxdiff.losses.inputs import check_times_law, draw_times, prepared
from jaxdiff.processes import expand_time, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class BridgeMatching:
    """Bridge matching: the squared errors of a bridge's displacement and score along pairs of a coupling.

    Call it as `loss(bridge, key, x0, cond=None, weight=None)`; it returns `[n]`, the sum of the two errors, each a mean
    over the values of an event. `weight` (`jaxdiff.losses.counted`) needs a coupling that does not permute.

    Args:
        coupling: the pairs of data and source, one of `jaxdiff.losses.couplings`. None is `Entropic(bridge.sigma)`,
            whose minimum is the Schrödinger bridge to a normal source.
        times: the law of t, one of `jaxdiff.losses.times`.

    Raises:
        TypeError: if `bridge` is not a bridge, or x0 holds integers.
        ValueError: if a concrete x0 holds a NaN.

    Source:
        Tong et al. 2024, "Simulation-free Schrödinger bridges via score and flow matching", section 3.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: (params * x, params * x)  # displacement, scaled score
        >>> bridge = jd.Bridge(network, jnp.ones(()), sigma=1.0)
        >>> loss = jd.losses.BridgeMatching(jd.losses.couplings.Independent())
        >>> loss(bridge, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
    """

    learns: ClassVar = "bridge"

    coupling: Coupling | None = None
    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        if self.coupling is not None:
            check_coupling(self.coupling)
        check_times_law(self.times)

    def __call__(self, bridge, key, x0, cond=None, weight=None) -> jax.Array:
        check_bridge(bridge)
        bridge, x0, cond = prepared(bridge, key, x0, cond)
        time_key, pair_key, noise_key = jax.random.split(key, 3)
        coupling = Entropic(bridge.sigma) if self.coupling is None else self.coupling
        x0, x1 = draw(coupling, pair_key, x0, cond, weight)
        weight = check_weight(bridge.process, weight, x0)
        t, factor = draw_times(self.times, time_key, bridge.process, x0.shape[0])
        position = expand_time(t, x0)
        gamma = along_batch(bridge.sigma, x0, "sigma") * jnp.sqrt(position * (1 - position))
        noise = jax.random.normal(noise_key, x0.shape, x0.dtype)
        x_t = held(bridge.process, weight, (1 - position) * x0 + position * x1 + gamma * noise, x0)
        predicted = bridge.predict(x_t, t, cond)
        error = (predicted.displacement - (x1 - x0)) ** 2 + (gamma * predicted.score + noise) ** 2
        return factor * jnp.mean(paid(bridge.process, weight, error), axis=range(1, x0.ndim))
