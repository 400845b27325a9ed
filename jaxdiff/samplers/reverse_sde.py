r"""Solves the reverse SDE by diffrax's stochastic Runge-Kutta methods, in coordinates where its noise is constant.

With ℓ = log(α/σ), which grows towards the data, the SDEs that share the marginals of a process are (Song et al. 2021,
eq. 6 and 13; Karras et al. 2022, eq. 6), η = 1 being Anderson's reverse SDE and η = 0 the probability flow,

    dx = x d log α - (1 + η²) σ E[ε | x] dℓ + √2 η σ dw_ℓ.

All but E[x_0 | x] is linear, and u = exp((1 + η²) ℓ), y = u x/α take the linear part away:

    dy = E[x_0 | x] du + √2 η exp(η² ℓ) dw_ℓ.

For η = 1, u is the signal-to-noise ratio α²/σ², y = u x_0 + B_u, and the reverse SDE is dy = E[x_0 | y] du + dB_u:
stochastic localisation (Montanari 2023, arXiv 2305.10690). It is not stiff, its noise is additive and constant, it
starts at y = 0 where α = 0, and its time increases, as diffrax's solvers require (they are wrong backwards).

A step from t to s is one step of the solver over p in [0, 1], u = u_t + p (u_s - u_t), with D the mean prediction:

    dD = E[x_0 | x] dp + (std/c_data) dB_p,   D = 0 at p = 0,             x_s = c_x x_t + c_data D
    r = u_t/u_s = e^{-(1+η²) h}     h = ℓ_s - ℓ_t
    c_x = σ_s/σ_t e^{-η² h}         c_data = α_s (1 - r)         std = σ_s √(1 - e^{-2 η² h})

Within the step x = α/w (c_x/α_s x_t + (1 - r) D), u = w u_s. Between η = 0 and 1 the noise has the right variance over
the step and is spread evenly within it. Euler's step is ancestral sampling (η = 1) and DDIM (η = 0). A solver of strong
order 1.5 needs the path's space-time area besides its increment, and two evaluations. SRA1 (Rößler 2010) evaluates at
points of the path at p = 0 and, in law, at p = 3/4, so that the network's inputs have the noise level of its t. ShARK
and SEA (Foster et al. 2023) shift their points by √(Δu/12) and √(Δu/3), which on long steps is not small compared with
the noise √u.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import as_called, exactly
from jaxdiff.arrays.varying import varies
from jaxdiff.denoisers import DenoiserLike
from jaxdiff.processes import ends, pytree
from jaxdiff.samplers.sampler import Sampler, check_noise

if TYPE_CHECKING:
    import diffrax


def reverse_step(denoiser: DenoiserLike, x, t, s, cond, solver, noise, path) -> jax.Array:
    """Carry one example x [*event] from t to s < t by one step of `solver`.

    `path` is Brownian motion on [0, 1], flat: [size]. If σ_s = 0, where u_s is infinite, the result is the prediction
    at t.
    """
    import diffrax
    import lineax

    process: Any = denoiser.process
    (_, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
    ell_t, ell_s = process.log_snr(t) / 2, process.log_snr(s) / 2
    h = jnp.minimum(ell_s - ell_t, 1e30)  # finite: 0 * inf is NaN
    r, lost = jnp.exp(-(1 + noise**2) * h), -jnp.expm1(-(1 + noise**2) * h)
    c_x, c_data = sigma_s / sigma_t * jnp.exp(-(noise**2) * h), alpha_s * lost
    std = sigma_s * noise * jnp.sqrt(2 * h * ends.decayed(2 * noise**2 * h))  # √(1 - exp(-2 η² h))
    last = sigma_s == 0

    def drift(p, mean, args):
        w = r + p * lost
        here = last | (w == 0)  # where α_t = 0, x at p = 0 does not depend on D
        w = jnp.where(here, 1.0, w)
        ell = jnp.where(here, ell_t, ell_s + jnp.log(w) / (1 + noise**2))
        time = process.time_at_log_snr(2 * ell)
        moved = process.marginal(time)[0] / w * (c_x / alpha_s * x + lost * mean.reshape(x.shape))
        at = jnp.where(here, x, moved).astype(x.dtype)
        data, _ = denoiser(at[None], time, cond)
        return data[0].ravel().astype(x.dtype)

    spread = lineax.DiagonalLinearOperator(jnp.full(x.size, std / c_data, x.dtype))
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(as_called(drift)), diffrax.ControlTerm(lambda p, mean, args: spread, path)
    )
    start, end, mean = jnp.zeros((), x.dtype), jnp.ones((), x.dtype), jnp.zeros(x.size, x.dtype)
    mean = exactly(solver.step)(
        terms, start, end, mean, None, solver.init(terms, start, end, mean, None), made_jump=jnp.asarray(False)
    )[0]
    return c_x * x + c_data * mean.reshape(x.shape)


@pytree
@dataclasses.dataclass(frozen=True)
class ReverseSDE(Sampler):
    """The reverse SDE by a diffrax solver of SDEs, one solver step a step.

    Args:
        solver: a diffrax solver of SDEs with a fixed step, such as `ShARK()` or `SEA()`; None is SRA1, with two network
            evaluations a step.
        noise: η, 0 or more: 1 is the reverse SDE, 0 is the probability flow.

    Raises:
        TypeError: if `solver` is not a solver of SDEs.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 6; Rößler 2010 for SRA1.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.ReverseSDE(), steps=5).shape
        (4, 1)
    """

    solver: "diffrax.AbstractSolver | None" = dataclasses.field(default=None, metadata={"static": True})
    noise: float = 1.0

    def __post_init__(self):
        check_noise(self)
        if self.solver is not None:
            _check_solver(self.solver)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """One step of the solver for every example, each on its own Brownian path."""
        import diffrax

        # "lax" supports both modes of differentiation, but not values that vary over devices.
        kind = None if any(map(varies, jax.tree.leaves((keys, denoiser, x, cond)))) else "lax"
        solver = diffrax.SRA1(scan_kind=kind) if self.solver is None else self.solver

        def one(key, x, cond):
            flat = jax.ShapeDtypeStruct((x.size,), x.dtype)
            path = diffrax.UnsafeBrownianPath(flat, key, diffrax.SpaceTimeTimeLevyArea)
            cond = jax.tree.map(lambda c: c[None], cond)
            return reverse_step(denoiser, x, t, s, cond, solver, self.noise, path)

        return jax.vmap(one)(keys, x, cond), state


def _check_solver(solver) -> None:
    import diffrax

    stochastic = isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver)
    wrapped = isinstance(solver, diffrax.AbstractWrappedSolver)
    langevin = isinstance(solver, diffrax.AbstractFosterLangevinSRK)
    if wrapped or langevin or not stochastic:
        raise TypeError(
            f"solver = {solver!r}; expected an instance of one of diffrax's solvers of SDEs with a fixed step, such as "
            "SRA1(), ShARK(), SEA() or Euler(); solvers of ODEs go into ProbabilityFlow"
        )
