r"""A parameterisation is one row (a, b): the network's target is out = a x_0 + b ε.

Together with x = α x_0 + σ ε this is a linear system in (x_0, ε) with determinant det = α b - σ a, so

    x_0 = (b x - σ out) / det            ε = (α out - a x) / det

and a new parameterisation is a new row. An error in `out` is an error of -σ/det in x_0, α/det in ε, and 1/det · q in
the rotation's velocity v = cos φ ε - sin φ x_0, which is why losses are written on v: it is finite at both ends.

    data        (1, 0)                    Ho et al. 2020, section 3.2
    noise       (0, 1)                    Ho et al. 2020, eq. 11
    score       (0, -1/σ)                 Song and Ermon 2019
    v           (-σ/q, α/q)               Salimans and Ho 2022, appendix D; here for every process: dz/dφ
    velocity    (α', σ')                  Lipman et al. 2023; dx/dt of the probability flow
    edm         (σ/(n s), -α s/n)         Karras et al. 2022, table 1, with s = data_std and n² = α² s² + σ²

The last row is the paper's F: D = c_skip x + c_out F gives a = (1 - c_skip α)/c_out and b = -c_skip σ/c_out, and with
c_skip = α s²/n², c_out = σ s/n (the paper's, where α = 1) that is the row above: -v for data of unit scale.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import said
from jaxdiff.processes.process import check_process

_LARGE = 1e30  # replaces infinite entries at σ = 0, where x_0 = x/α


def _data(process, t, alpha, sigma, data_std):
    return jnp.ones_like(alpha), jnp.zeros_like(alpha)


def _noise(process, t, alpha, sigma, data_std):
    return jnp.zeros_like(alpha), jnp.ones_like(alpha)


def _score(process, t, alpha, sigma, data_std):
    return jnp.zeros_like(alpha), -1 / jnp.maximum(sigma, 1 / _LARGE)


def _v(process, t, alpha, sigma, data_std):
    q = jnp.hypot(alpha, sigma)
    return -sigma / q, alpha / q


def _velocity(process, t, alpha, sigma, data_std):
    return tuple(jnp.clip(slope, -_LARGE, _LARGE) for slope in process.velocity(t))


def _edm(process, t, alpha, sigma, data_std):
    n = jnp.hypot(alpha * data_std, sigma)
    return sigma / (n * data_std), -alpha * data_std / n


ROWS = {"data": _data, "noise": _noise, "score": _score, "v": _v, "velocity": _velocity, "edm": _edm}


OF_DIFFUSERS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
"""Our name of each `prediction_type` of diffusers."""


def check_parameterization(name: str) -> None:
    """Raise ValueError for an unknown parameterisation."""
    if not isinstance(name, str) or name not in ROWS:
        ours = OF_DIFFUSERS.get(name) if isinstance(name, str) else None
        fix = f": {name} of diffusers is {ours}" if ours else ""
        raise ValueError(f"parameterization {said(name)} is unknown; expected one of {', '.join(ROWS)}{fix}")


def row(name: str, process, t, data_std: Any = 0.5) -> tuple[jax.Array, jax.Array]:
    """The row (a, b) of a parameterisation: the network's target is a x_0 + b ε.

    Args:
        name: one of "data", "noise", "score", "v", "velocity" and "edm".
        process: a process of numbers.
        t: times in [0, 1], of any shape.
        data_std: the standard deviation of the data, which "edm" uses.

    Returns:
        `(a, b)`, each of the shape of `t`.

    Raises:
        ValueError: if `name` is unknown.

    Examples:
        >>> import jaxdiff as jd
        >>> a, b = jd.processes.row("velocity", jd.Flow(), 0.3)  # dx/dt = eps - x_0
        >>> float(a), float(b)
        (-1.0, 1.0)
    """
    check_parameterization(name)
    check_process(process)
    alpha, sigma = process.marginal(t)
    return ROWS[name](process, t, alpha, sigma, data_std)
