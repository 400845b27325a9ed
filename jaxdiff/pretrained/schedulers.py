"""Schedulers of diffusers: which settings of their configs belong to the model, and which to the sampler.

A scheduler holds both what a network was trained on (how data becomes noise, what its output means, how it receives the
noise level) and how samples are drawn. Only the first is read, and there are three kinds:

    a table of betas     x = √ᾱ_k x_0 + √(1 - ᾱ_k) ε,    sees k = 0, 1, ..., T - 1           `from_betas`
    flow matching        x = (1 - σ) x_0 + σ ε,           sees T σ, predicts ε - x_0          `Flow`, "velocity"
    EDM                  x = x_0 + σ ε,                   sees log(σ)/4, predicts F or -F     `EDM`, "edm"

`SAMPLING` lists the settings of samplers: grids, orders of solvers, clipping and thresholding of x_0. They are ignored,
since `jaxdiff.sample` has its own. A field in no list here might change the numbers, and raises an error.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_choice, check_instance, check_scalar, check_whole, said
from jaxdiff.processes import EDM, Flow, Process, from_betas
from jaxdiff.processes.parameterization import OF_DIFFUSERS

_EARLY = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
_LATE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
TABLES = {  # {class: its defaults for fields that a config leaves out}
    **dict.fromkeys(("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "RePaint"), _EARLY),
    **dict.fromkeys(("LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete"), _EARLY),
    **dict.fromkeys(("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep"), _EARLY),
    **dict.fromkeys(("DEISMultistep", "UniPCMultistep", "SASolver"), _EARLY),
    **dict.fromkeys(("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"), _LATE),
    "UnCLIP": {"beta_schedule": "squaredcos_cap_v2"},
}
FLOWS = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")
EDMS = ("EDMEuler", "EDMDPMSolverMultistep")

SAMPLING = {
    # grids
    "base_image_seq_len", "base_shift", "flow_shift", "interpolation_type", "lambda_min_clipped", "max_image_seq_len",
    "max_shift", "shift", "shift_terminal", "sigma_schedule", "steps_offset", "time_shift_type", "timestep_spacing",
    "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas",
    # solvers
    "algorithm_type", "corrector_order", "disable_corrector", "eta", "euler_at_final", "final_sigmas_type",
    "lower_order_final", "noise_sampler_seed", "predict_x0", "predictor_order", "set_alpha_to_one", "skip_prk_steps",
    "solver_order", "solver_p", "solver_type", "stochastic_sampling", "tau_func", "tensor_format",
    # changes of x_0 during sampling
    "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "thresholding",
}  # fmt: skip
_ONLY = {  # fields that would change the model, with the values that do not
    "rescale_betas_zero_snr": (False, None),  # the last step would have no log-SNR
    "timestep_type": ("discrete", None),
    "invert_sigmas": (False, None),
    "predict_epsilon": (True, None),  # of old configs: False is prediction_type "sample"
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range", None),
}


class Trained(NamedTuple):
    """What a network was trained on.

    clock: c_noise -> (step, scale): the noise level as the network sees it, and the factor by which the input of a
    `Denoiser` with this `data_std` is multiplied. sign: the sign of its output. channels_out: the smallest and the
    largest number of channels out per channel in, where 2 is a learned variance.
    """

    process: Process
    parameterization: str
    data_std: float
    clock: Callable
    sign: int = 1
    channels_out: tuple[int, int] = (1, 1)


@dataclasses.dataclass(frozen=True)
class TableClock:
    """The step of a table, counted from 0, from rising c_noise `levels`: interpolated inside, clipped outside."""

    levels: tuple[float, ...]

    def __call__(self, c_noise):
        """(step, 1)."""
        steps = jnp.arange(len(self.levels), dtype=c_noise.dtype)
        return jnp.interp(c_noise, jnp.asarray(self.levels, c_noise.dtype), steps), 1.0


@dataclasses.dataclass(frozen=True)
class FlowClock:
    """`steps` times σ of x = (1 - σ) x_0 + σ ε, which the network sees without scaling."""

    steps: int

    def __call__(self, c_noise):
        """(step, √((1 - σ)² + σ²))."""
        sigma = jnp.where(c_noise < 3, 1 / (1 + jnp.exp(-4 * c_noise)), 1.0)  # c_noise ends at 3, where σ is 1 - 6e-6
        return self.steps * sigma, jnp.hypot(1 - sigma, sigma)


@dataclasses.dataclass(frozen=True)
class LogClock:
    """log(σ)/4, which is c_noise itself."""

    def __call__(self, c_noise):
        """(c_noise, 1)."""
        return c_noise, 1.0


def read_scheduler(config: dict[str, Any]) -> Trained:
    """What the network was trained on, from the config of its scheduler.

    Raises ValueError or TypeError for a scheduler or a field that is not known, and for a value that is of another
    type, out of range, or would change the model in a way that is not supported.
    """
    name = config.get("_class_name")
    kind = name.removesuffix("Scheduler") if isinstance(name, str) else ""
    if kind in TABLES:
        return _flow(config) if config.get("use_flow_sigmas") else _table(config)
    if kind in FLOWS:
        return _flow(config)
    if kind in EDMS:
        return _edm(config)
    raise ValueError(
        f"_class_name = {said(name)} is not a supported scheduler; expected one of a table of betas "
        f"({', '.join(TABLES)}), of flow matching ({', '.join(FLOWS)}) or of EDM ({', '.join(EDMS)})"
    )


def _check_fields(config: dict[str, Any], read: tuple[str, ...], passed_over: tuple[str, ...] = ()) -> None:
    for name, value in config.items():
        if name.startswith("_") or name in read or name in SAMPLING or name in passed_over:
            continue
        if name not in _ONLY:
            raise ValueError(
                f"{name} = {said(value)} is an unknown field, which might change the model; remove it from the config "
                "if it does not"
            )
        if not any(value is known or (isinstance(known, str) and value == known) for known in _ONLY[name]):
            known = ", ".join(repr(known) for known in _ONLY[name] if known is not None)
            raise ValueError(f"{name} = {said(value)} is not supported; expected {known}")


def _steps(config: dict[str, Any]) -> int:
    return check_whole("num_train_timesteps", config.get("num_train_timesteps", 1000), most=1_000_000)


def betas_of(config: dict[str, Any]) -> np.ndarray:
    """The betas of a diffusers scheduler (DDPM, DDIM, DPM-Solver, ...).

    Args:
        config: the contents of its scheduler_config.json, a dictionary.

    Returns:
        The betas, a NumPy array `[num_train_timesteps]`, for `jaxdiff.from_betas`.

    Raises:
        TypeError: if a field has another type.
        ValueError: if the schedule is not known, is rescaled to end in pure noise, or a field is out of range.

    Examples:
        >>> import jaxdiff as jd
        >>> config = {"num_train_timesteps": 3, "beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.3}
        >>> jd.pretrained.betas_of(config).round(3).tolist()
        [0.1, 0.2, 0.3]
    """
    check_instance("config", config, dict, "what a scheduler_config.json holds")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr = true is not supported: the last step has no log-SNR")
    config = TABLES.get(str(config.get("_class_name")).removesuffix("Scheduler"), _EARLY) | config
    if (betas := config.get("trained_betas")) is not None:
        if not isinstance(betas, list | tuple | np.ndarray) or not len(betas):
            raise TypeError(f"trained_betas = {said(betas)}; expected a list of numbers in (0, 1)")
        for beta in betas:
            check_scalar("trained_betas", beta, above=0, below=1)
        return np.asarray(betas, np.float64)
    schedule, steps = config["beta_schedule"], _steps(config)
    check_choice("beta_schedule", schedule, ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"))
    if schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, eq. 17
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    low, high = (check_scalar(name, config[name], above=0, below=1) for name in ("beta_start", "beta_end"))
    if schedule == "sigmoid":
        return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, steps)))
    if schedule == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, steps) ** 2
    return np.linspace(low, high, steps)


def _table(config: dict[str, Any]) -> Trained:
    read = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    _check_fields(config, (*read, "use_flow_sigmas"), passed_over=("sigma_min", "sigma_max"))
    prediction = config.get("prediction_type", "epsilon")
    check_choice("prediction_type", prediction, OF_DIFFUSERS)
    betas = betas_of(config)
    process = from_betas(betas)
    levels = np.asarray(process.c_noise(np.arange(1, len(betas) + 1) / len(betas)), float)
    channels_out = (2, 2) if config.get("variance_type") == "learned_range" else (1, 2)
    clock = TableClock(tuple(levels.tolist()))
    return Trained(process, OF_DIFFUSERS[prediction], 1.0, clock, channels_out=channels_out)


def _flow(config: dict[str, Any]) -> Trained:
    unused = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "sigma_min", "sigma_max")
    _check_fields(config, ("num_train_timesteps", "use_flow_sigmas", "prediction_type"), passed_over=unused)
    check_choice("prediction_type", config.get("prediction_type", "flow_prediction"), ("flow_prediction",))
    return Trained(Flow(), "velocity", 1.0, FlowClock(_steps(config)))


def _edm(config: dict[str, Any]) -> Trained:
    _check_fields(config, ("sigma_min", "sigma_max", "sigma_data", "rho", "prediction_type", "num_train_timesteps"))
    prediction = config.get("prediction_type", "epsilon")
    check_choice("prediction_type", prediction, ("epsilon", "v_prediction"))
    defaults = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    process = EDM(**{name: check_scalar(name, config.get(name, value), above=0) for name, value in defaults.items()})
    data_std = check_scalar("sigma_data", config.get("sigma_data", 0.5), above=0)
    return Trained(process, "edm", data_std, LogClock(), sign=1 if prediction == "epsilon" else -1)
