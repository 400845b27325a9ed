"""Models that others have trained, as denoisers.

    denoiser = jd.pretrained.from_diffusers("ddpm-cifar10-32")        # a folder that diffusers wrote
    print(jd.bits_per_dim(jax.random.key(0), denoiser, images))

Weights are read from safetensors alone: never from a pickle, which can run code.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.denoisers import Denoiser, c_noise
from jaxdiff.networks.unet2d import UNet2D, layout
from jaxdiff.processes import from_betas

_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def betas_of(config: dict) -> np.ndarray:
    """The betas of a diffusers scheduler's config (DDPM, DDIM, DPM-Solver, ...), [num_train_timesteps].

    Raises ValueError for a schedule that is not known, and for one that is rescaled to end in pure noise.
    """
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], np.float64)
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr = true is not supported: the last step has no log-SNR")
    steps = config.get("num_train_timesteps", 1000)
    low, high = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return np.linspace(low, high, steps)
    if schedule == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, steps) ** 2
    if schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, eq. 17
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    raise ValueError(f"beta_schedule = {schedule!r}; expected linear, scaled_linear or squaredcos_cap_v2")


def _read_json(folder: Path, *places: str) -> dict:
    for place in places:
        if (folder / place).is_file():
            try:
                return json.loads((folder / place).read_text())
            except json.JSONDecodeError as error:
                raise ValueError(f"{folder / place} is not JSON: {error}") from error
    names = " or ".join(places)
    raise ValueError(f"{folder} has no {names}; expected a folder that diffusers' save_pretrained wrote")


def _read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    places = [folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "diffusion_pytorch_model.safetensors"]
    for path in places:
        if path.is_file():
            try:
                return path, load_file(path)
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    pickled = [path for place in places for path in place.parent.glob("*.bin")]
    why = (
        f"{pickled[0]} is a pickle, which is never loaded"
        if pickled
        else "it is not where a pipeline or a model has it"
    )
    raise ValueError(
        f"{folder} has no diffusion_pytorch_model.safetensors: {why}; save it by diffusers' save_pretrained"
    )


class _Read(dict):
    """The weights, which note what was asked for."""

    def __init__(self, weights: dict):
        super().__init__(weights)
        self.used: set[str] = set()

    def __getitem__(self, name):
        self.used.add(name)
        return super().__getitem__(name)


def _check(network: UNet2D, params: dict, path: Path) -> None:
    """Run the network without computing: every weight must be there, of a shape that fits, and be used."""
    size = 2 ** (len(network.block_out_channels) - 1)
    read = _Read({name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in params.items()})
    cond = None if network.num_class_embeds is None else jnp.zeros(1, int)

    def run(weights, x, k):
        read.update(weights)
        return network.at_step(read, x, k, cond)

    try:
        jax.eval_shape(run, dict(read), jnp.zeros((1, size, size, network.in_channels)), jnp.zeros(1))
    except KeyError as error:
        raise ValueError(f"{path} has no weight {error} that its config asks for; are both of one model?") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has weights whose shapes are not those of its config: {error}") from None
    if unused := sorted(params.keys() - read.used):
        raise ValueError(f"{path} has {len(unused)} weights that its config knows nothing of, the first {unused[0]!r}")


def from_diffusers(folder: str | os.PathLike) -> Denoiser:
    """The denoiser of a `UNet2DModel` with its scheduler, as diffusers' `save_pretrained` wrote them into a folder.

    The folder is that of a pipeline (unet/, scheduler/) or flat (config.json, scheduler_config.json). The scheduler's
    betas become the process, its prediction_type the parameterisation; a network with twice the channels has a learned
    variance. Labels are `cond`. The model is defined from the table's first step on: give likelihoods t_min = 1/steps.

    Raises ValueError for a folder that is none, weights that are missing, damaged, of other shapes, a pickle, or hold a
    value that is not finite, and for a model or schedule that is not supported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that diffusers' save_pretrained wrote")
    config = _read_json(folder, "unet/config.json", "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{folder} holds a {config['_class_name']}; expected a UNet2DModel")
    scheduler = _read_json(folder, "scheduler/scheduler_config.json", "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(f"prediction_type = {prediction!r}; expected one of {', '.join(_PREDICTIONS)}")
    betas = betas_of(scheduler)
    process = from_betas(betas)
    known = {f.name for f in dataclasses.fields(UNet2D)}
    settings: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name in known
    }
    steps = np.arange(1, len(betas) + 1) / len(betas)
    network = UNet2D(tuple(np.asarray(c_noise(process, steps), float).tolist()), **settings)

    path, weights = _read_weights(folder)
    params = {}
    for name, array in weights.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds a value that is not finite")
        params[name] = jnp.asarray(layout(name, array), jnp.float32)
    _check(network, params, path)
    learned = network.out_channels == 2 * network.in_channels
    return Denoiser(network, params, process, _PREDICTIONS[prediction], data_std=1.0, learned_variance=learned)
