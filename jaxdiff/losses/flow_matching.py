r"""Conditional flow matching: a flow to the data from any source, along pairs from any coupling.

Take any pairs (x_0, x_1), data and source, dependent or not, and x_t = α(t) x_0 + σ(t) x_1. A test function f has

    d/dt E f(x_t) = E ∇f(x_t)·(α' x_0 + σ' x_1) = E ∇f(x_t)·E[α' x_0 + σ' x_1 | x_t],

so the law of x_t is carried by the conditional mean of the pairs' velocity (Lipman et al. 2023, theorem 1; Tong et al.
2024, "Improving and generalizing flow-based generative models with minibatch optimal transport", theorem 3.1), and

    dx = E[x_0 | x] dα + E[x_1 | x] dσ

is the line integral of `jaxdiff.samplers` with x_1 in place of the noise. It does not require Gaussian noise: a flow
from any source is a `Denoiser(network, params, jd.Flow(), "velocity")` whose noise is the point of the source. Every
deterministic sampler runs it from `x_start`, points of the source (Euler's method is `DDIM()` on `grids.Time()`), and
so do `encode` and `decode`; `log_likelihood` needs the density of the source. (Stochastic samplers add Gaussian noise:
they need a Gaussian source, drawn independently.)

The papers' time is 1 - t here, and their velocity x_data - x_source the negative of ours.

    FM       Flow(sigma_min), Gaussian, independent    = Denoising(Simple()) of "velocity" (Lipman et al. 2023, eq. 23)
    I-CFM    Independent(source), σ                       (Tong et al. 2024, section 3.2.2)
    OT-CFM   OptimalTransport(...), σ                     (Tong et al. 2024, section 3.2.3)

σ > 0 smooths: x_t = α x_0 + σ(t) x_1 + σ z has the same pairs' velocity, so its flow carries the data with noise σ to
the source with noise σ. The denoiser's data and noise are then the two ends, each with -σ E[z | x_t] added.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_field
from jaxdiff.denoisers import check_numbers
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, held, paid
from jaxdiff.losses.couplings import Coupling, Independent, check_coupling, draw
from jaxdiff.losses.inputs import OF_ANY, check_times_law, draw_times, prepared
from jaxdiff.processes import expand_time, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """Conditional flow matching: the squared error of the velocity along pairs of a coupling.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns one number per example, `[n]`, a mean over
    the values of an event. x0 is the batch that the coupling takes: examples, or pairs for `Paired`. `cond` stays with
    its example. `weight` (`jaxdiff.losses.counted`) needs a coupling that does not permute.

    Args:
        coupling: the pairs of data and source, one of `jaxdiff.losses.couplings`.
        sigma: the standard deviation of noise around the line between a pair, 0 or more.
        times: the law of t, one of `jaxdiff.losses.times`.

    Raises:
        TypeError: if x0 holds integers, or the process is not one of numbers.
        ValueError: if `sigma` is below 0 (traced, NaN), or a concrete x0 holds a NaN.

    Source:
        Lipman et al. 2023, "Flow matching for generative modeling"; Tong et al. 2024, "Improving and generalizing
        flow-based generative models with minibatch optimal transport", section 3.2.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * x
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.Flow(), "velocity")
        >>> loss = jd.losses.FlowMatching()
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
    """

    coupling: Coupling = Independent()
    sigma: float = 0.0
    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        check_coupling(self.coupling)
        check_field(self, "sigma", least=0)
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        process = check_numbers(denoiser, type(self).__name__, OF_ANY)
        denoiser, x0, cond = prepared(denoiser, key, x0, cond)
        time_key, pair_key, noise_key = jax.random.split(key, 3)
        x0, x1 = draw(self.coupling, pair_key, x0, cond, weight)
        weight = check_weight(process, weight, x0)
        t, factor = draw_times(self.times, time_key, process, x0.shape[0])
        alpha, sigma, d_alpha, d_sigma = (expand_time(c, x0) for c in (*process.marginal(t), *process.velocity(t)))
        spread = along_batch(self.sigma, x0, "sigma")
        x_t = alpha * x0 + sigma * x1 + spread * jax.random.normal(noise_key, x0.shape, x0.dtype)
        data, noise = denoiser(held(process, weight, x_t, x0), t, cond)
        error = paid(process, weight, (d_alpha * (data - x0) + d_sigma * (noise - x1)) ** 2)
        return factor * jnp.mean(error, axis=range(1, x0.ndim))
