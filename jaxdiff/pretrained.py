"""Weights in files that others can read, and models that others have trained, as denoisers.

    denoiser = jd.pretrained.from_diffusers("ddpm-cifar10-32")        # a folder that diffusers wrote
    print(jd.bits_per_dim(jax.random.key(0), denoiser, images))

Weights are kept in safetensors alone: never in a pickle, which can run code.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import atomic_write, check_file, check_path
from jaxdiff.denoisers import Denoiser, c_noise
from jaxdiff.networks.unet2d import UNet2D, layout
from jaxdiff.processes import from_betas

_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: whole, finite, and, where the file has their sha256, bit for bit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(check_file(path), framework="numpy") as file:
            digest = (file.metadata() or {}).get("sha256")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    if digest not in (None, _digest(arrays)):
        raise ValueError(f"{path} is damaged: its weights are not those it was written with; fetch it again")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds a value that is not finite")
    return arrays


def _check(path: Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    """Raise where the shapes `found` in a file are not those `expected` by the config beside it."""
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{path} has no weight {missing[0]!r} that its config asks for; are both of one model?")
    if surplus := sorted(found.keys() - expected.keys()):
        raise ValueError(
            f"{path} has {len(surplus)} weights that its config knows nothing of, the first {surplus[0]!r}"
        )
    for name, shape in sorted(expected.items()):
        if found[name] != shape:
            raise ValueError(f"{path}: {name} has shape {found[name]}; expected {shape} by its config")


def _names(tree) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def write_params(path: str | os.PathLike, params) -> None:
    """Write a pytree of arrays into a safetensors file, with their sha256, and hold what it reads back to be them.

    A leaf's name is its way from the root, joined by dots. Raises ValueError for a value that is not finite and
    OSError for a disk that does not keep what it is given.
    """
    from safetensors.numpy import save

    path = check_path("path", path)
    arrays = dict(zip(_names(params), map(np.asarray, jax.tree.leaves(params))))
    with atomic_write(path) as file:
        file.write(save(arrays, {"sha256": _digest(arrays)}))
    if _digest(_read(path)) != _digest(arrays):
        raise OSError(f"{path} reads back as something else than was written; is the disk sound?")


def read_params(path: str | os.PathLike, like):
    """What `write_params` wrote; `like` is a pytree of arrays, abstract or not.

    Raises ValueError for a file that is damaged or cut short, a value that is not finite, and weights that `like` has
    and the file has not, the other way round, or in another shape.
    """
    path = check_path("path", path)
    found, names, leaves = _read(path), _names(like), jax.tree.leaves(like)
    shapes = {name: array.shape for name, array in found.items()}
    _check(path, shapes, {name: tuple(leaf.shape) for name, leaf in zip(names, leaves)})
    arrays = [jnp.asarray(found[name], leaf.dtype) for name, leaf in zip(names, leaves)]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


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


def _weights_of(folder: Path) -> Path:
    places = [folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "diffusion_pytorch_model.safetensors"]
    for path in places:
        if path.is_file():
            return path
    pickled = [path for place in places for path in place.parent.glob("*.bin")]
    why = (
        f"{pickled[0]} is a pickle, which is never loaded"
        if pickled
        else "it is not where a pipeline or a model has it"
    )
    raise ValueError(
        f"{folder} has no diffusion_pytorch_model.safetensors: {why}; save it by diffusers' save_pretrained"
    )


class _Asked(dict):
    """The weights, which note what was asked for."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


def _widths(network: UNet2D, found: Mapping[str, tuple]) -> dict[str, tuple]:
    """The shapes `found`, [out, in, ...], with every width that a config has itself put in the file's place.

    A layer puts out the width of its part of the network; but the first norm of a residual block is as wide as what
    comes in, which is what another part puts out.
    """
    widths = network.block_out_channels
    parts = {
        **{"time_embedding": 4 * widths[0], "conv_in": widths[0]},
        **{f"down_blocks.{i}": width for i, width in enumerate(widths)},
        "mid_block": widths[-1],
        **{f"up_blocks.{i}": width for i, width in enumerate(reversed(widths))},
        **{"conv_norm_out": widths[0], "conv_out": network.out_channels},
    }

    def shape_of(name):
        if name == "class_embedding.weight" and network.num_class_embeds is not None:
            return network.num_class_embeds, 4 * widths[0]
        width = next((width for part, width in parts.items() if name.startswith(f"{part}.")), None)
        if width is None or ".norm1." in name:
            return found[name]
        twice = network.resnet_time_scale_shift == "scale_shift" and ".time_emb_proj." in name
        return (2 * width if twice else width, *found[name][1:])

    return {name: shape_of(name) for name in found}


def _hold(network: UNet2D, params: dict, path: Path, found: Mapping[str, tuple]) -> None:
    """Raise where a file's weights, `found` in its own layout and `params` in ours, are not those of their config."""
    _check(path, found, _widths(network, found))
    size = 2 ** (len(network.block_out_channels) - 1)
    cond = None if network.num_class_embeds is None else jnp.zeros(1, int)
    asked = _Asked()

    def run(weights, x, k):
        asked.update(weights)
        return network.at_step(asked, x, k, cond)

    try:  # without computing: every weight must be there, fit to the one before, and be used
        jax.eval_shape(run, params, jnp.zeros((1, size, size, network.in_channels)), jnp.zeros(1))
    except KeyError:  # the last that was asked for
        pass
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has weights whose shapes are not those of its config: {error}") from None
    _check(path, found, {name: found.get(name, ()) for name in asked.names})


def from_diffusers(folder: str | os.PathLike) -> Denoiser:
    """The denoiser of a `UNet2DModel` with its scheduler, as diffusers' `save_pretrained` wrote them into a folder.

    The folder is that of a pipeline (unet/, scheduler/) or flat (config.json, scheduler_config.json). The scheduler's
    betas become the process, its prediction_type the parameterisation; a network with twice the channels has a learned
    variance. Labels are `cond`. The model is defined from the table's first step on: give likelihoods t_min = 1/steps.

    Raises ValueError for a folder that is none, weights that are missing, damaged, of other shapes, a pickle, or hold a
    value that is not finite, and for a model or schedule that is not supported.
    """
    folder = check_path("folder", folder)
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

    path = _weights_of(folder)
    params, shapes = {}, {}
    for name, array in _read(path).items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        shapes[name] = array.shape
        params[name] = jnp.asarray(layout(name, array), jnp.float32)
    _hold(network, params, path, shapes)
    learned = network.out_channels == 2 * network.in_channels
    return Denoiser(network, params, process, _PREDICTIONS[prediction], data_std=1.0, learned_variance=learned)
