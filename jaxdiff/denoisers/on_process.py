"""A network trained on one process, used on another.

At one angle φ, that is at one log-SNR, all processes hold the same z = cos φ x_0 + sin φ ε: x = q z on each. So a
denoiser of the process p applies to x' of p', at p's own time for that log-SNR and at

    x = x' q/q',

and the data and noise it predicts are those of x' too (Song et al. 2021, "Denoising diffusion implicit models", section
4.3, from VP to VE; Karras et al. 2022, appendix B). Where p' goes beyond the noise levels of p, p predicts at its
nearest level. x' = α' x_0 + σ' ε is then kept by computing one of the two from x' and the other: the one whose error is
the smaller of cot φ and tan φ times the other's, so ε is kept on the side of the data and x_0 on the side of the noise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_batch
from jaxdiff.denoisers.condition import check_cond_of
from jaxdiff.denoisers.denoiser import DenoiserLike, check_numbers, check_start_of
from jaxdiff.processes import Gaussian, Prediction, check_gaussian, expand_time, is_concrete, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class OnProcess:
    """A denoiser of numbers on another process than the one it was trained on.

    Samples, likelihoods and guidance then use the curves, the grids and the prior of `process`. A learned reverse
    variance belongs to the steps of the trained process, and is dropped.

    Args:
        denoiser: the denoiser.
        process: the process to run it on, one of numbers.

    Raises:
        TypeError: if one of the two processes is not one of numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> trained = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> denoiser = jd.OnProcess(trained, jd.Flow())  # x_t has variance (1 - t)² + t²
        >>> jd.score(denoiser, jnp.array([[1.0, 2.0]]), 0.5).round(3).tolist()
        [[-2.0, -4.0]]
    """

    denoiser: DenoiserLike
    process: Gaussian

    def __post_init__(self):
        check_numbers(self.denoiser, "OnProcess")
        check_gaussian(self.process, "OnProcess")

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoiser that it calls, with the same cond."""
        return [(self.denoiser, cond)]

    def check_cond(self, cond) -> None:
        check_cond_of(self.denoiser, cond)

    def check_start(self, t) -> None:
        """Raise if the denoiser has no prediction at its own time for the log-SNR of a concrete `t`."""
        trained = self.denoiser.process
        if all(map(is_concrete, [t, *jax.tree.leaves((trained, self.process))])):
            with jax.ensure_compile_time_eval():
                at = trained.time_at_log_snr(self.process.log_snr(t))
            check_start_of(self.denoiser, at)

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        trained: Any = self.denoiser.process
        alpha, sigma = self.process.marginal(t)
        trained_t = trained.time_at_log_snr(self.process.log_snr(t))
        rescale = trained.scale(trained_t) / self.process.scale(t)
        data, noise = self.denoiser(expand_time(rescale, x) * x, trained_t, cond)
        alpha, sigma = expand_time(alpha, x), expand_time(sigma, x)
        clean = sigma < alpha
        return Prediction(
            jnp.where(clean, (x - sigma * noise) / jnp.where(clean, alpha, 1.0), data),
            jnp.where(clean, noise, (x - alpha * data) / jnp.where(clean, 1.0, sigma)),
        )
