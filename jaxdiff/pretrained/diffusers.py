"""A `UNet2DModel` with its scheduler, as saved by diffusers, as a denoiser."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_instance, check_path, read_json, said
from jaxdiff.denoisers import Denoiser
from jaxdiff.networks.unet2d import UNet2D, layout
from jaxdiff.pretrained.schedulers import Trained, read_scheduler
from jaxdiff.pretrained.weights import check_shapes, read_model

_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_OF_TRAINING = ("sample_size", "dropout", "num_train_timesteps")  # fields of a model that do not change its output


def _find_json(folder: Path, *places: str) -> Path:
    for place in places:
        if (folder / place).exists():
            return folder / place
    names = " or ".join(places)
    raise ValueError(
        f"{folder} has no {names}; expected the folder of a pipeline, or of a model and its scheduler, "
        "each written by diffusers' save_pretrained"
    )


class _Asked(dict):
    """The weights, which record the names that are read."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


def _widths(network: UNet2D, found: Mapping[str, tuple]) -> dict[str, tuple]:
    """The shapes `found`, [out, in, ...], with every width that the config determines replaced by the config's.

    The output of a layer has the width of its part of the network; but the first norm of a residual block is as wide as
    its input, which is the output of another part.
    """
    widths = network.block_out_channels
    parts = {
        **{"time_embedding": network.embedding_size, "conv_in": widths[0]},
        **{f"down_blocks.{i}": width for i, width in enumerate(widths)},
        "mid_block": widths[-1],
        **{f"up_blocks.{i}": width for i, width in enumerate(reversed(widths))},
        **{"conv_norm_out": widths[0], "conv_out": network.out_channels},
    }

    def shape_of(name):
        if name == "class_embedding.weight" and network.num_class_embeds is not None:
            return network.num_class_embeds, network.embedding_size
        width = next((width for part, width in parts.items() if name.startswith(f"{part}.")), None)
        if width is None or ".norm1." in name:
            return found[name]
        twice = network.resnet_time_scale_shift == "scale_shift" and ".time_emb_proj." in name
        return (2 * width if twice else width, *found[name][1:])

    return {name: shape_of(name) for name in found}


def _hold(network: UNet2D, params: dict, path: Path, found: Mapping[str, tuple]) -> None:
    """Raise if a file's weights, `found` in its own layout and `params` in ours, do not match their config."""
    check_shapes(path, found, _widths(network, found))
    size = 2 ** (len(network.block_out_channels) - 1)
    cond = None if network.num_class_embeds is None else jnp.zeros(1, int)
    asked = _Asked()

    def run(weights, x, k):
        asked.update(weights)
        return network.at_step(asked, x, k, cond)

    try:  # abstract evaluation: every weight must exist, fit the one before, and be used
        jax.eval_shape(
            run, params, jax.ShapeDtypeStruct((1, size, size, network.in_channels), jnp.float32), jnp.zeros(1)
        )
    except KeyError:  # the last name in `asked`; check_shapes reports it
        pass
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has weights whose shapes are not those of its config: {error}") from None
    check_shapes(path, found, {name: found.get(name, ()) for name in asked.names})


def _within(path: Path, read: Callable, *arguments):
    """`read(*arguments)`, whose errors concern the values in a file and name it."""
    try:
        return read(*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _network(config: dict[str, Any], trained: Trained) -> UNet2D:
    known = {field.name for field in dataclasses.fields(UNet2D)} - {"clock"}
    for name, value in config.items():
        if not (name.startswith("_") or name in known or name in _OF_TRAINING):
            raise ValueError(
                f"{name} = {said(value)} is an unknown field, which might change the model; remove it from the config "
                "if it does not"
            )
    settings: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name in known
    }
    network = UNet2D(trained.clock, **settings)
    once, twice = trained.channels_out
    if network.out_channels not in (once * network.in_channels, twice * network.in_channels):
        raise ValueError(
            f"out_channels = {network.out_channels} for in_channels = {network.in_channels}; expected "
            f"{once * network.in_channels}" + (f" or {twice * network.in_channels}" if once != twice else "")
        )
    return network


def from_diffusers(folder: str | os.PathLike, variant: str | None = None) -> Denoiser:
    """The denoiser of a `UNet2DModel` with its scheduler, from folders written by diffusers' `save_pretrained`.

    The scheduler's config defines what the network was trained on: a table of betas with its prediction_type, flow
    matching, or EDM. A network with twice the channels has a learned variance. How samples are drawn (solvers, grids,
    clip_sample, thresholding) is not read: `jaxdiff.sample` has its own settings. Labels are the cond. A model trained
    on a table is defined from the table's first step on: give likelihoods t_min = 1/steps. Weights are read from one
    file or several, in float16, bfloat16 or float32, and stored in float32.

    Args:
        folder: the folder of a pipeline (unet/, scheduler/) or of a model with its scheduler (config.json,
            scheduler_config.json).
        variant: diffusers' variant, such as "fp16", if a folder has more than one.

    Returns:
        The denoiser.

    Raises:
        ValueError: if the folder does not exist; if weights are missing, damaged, of other shapes, not finite, or a
            pickle; if the model or the scheduler is not supported; if a config is damaged, has a value of another type,
            or a field that is not known and might change the numbers.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.pretrained.from_diffusers("ddpm-cifar10-32")  # doctest: +SKIP
        >>> jd.sample(jax.random.key(0), denoiser, (4, 32, 32, 3)).shape  # doctest: +SKIP
        (4, 32, 32, 3)
    """
    folder = check_path("folder", folder)
    check_instance("variant", variant, (str, type(None)), 'None, or the name of a variant, such as "fp16"')
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder; expected one that diffusers' save_pretrained wrote. A model of the Hugging "
            "Face Hub is downloaded first, for example by huggingface_hub.snapshot_download"
        )
    place = _find_json(folder, "unet/config.json", "config.json")
    config = read_json(place)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{folder} holds a {config['_class_name']}; expected a UNet2DModel")
    scheduler = _find_json(folder, "scheduler/scheduler_config.json", "scheduler_config.json")
    trained = _within(scheduler, read_scheduler, read_json(scheduler))
    network = _within(place, _network, config, trained)

    path, found = read_model(folder, variant)
    params, shapes = {}, {}
    for name, array in found.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        if name in params:
            raise ValueError(f"{path} has {name} twice, under an old name and a new one; fetch it again")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path}: {name} has dtype {array.dtype}; expected floating values")
        shapes[name] = array.shape
        params[name] = jnp.asarray(layout(name, array), jnp.float32)
    _hold(network, params, path, shapes)
    if trained.sign < 0:
        params |= {name: -params[name] for name in ("conv_out.weight", "conv_out.bias")}
    learned = network.out_channels == 2 * network.in_channels
    return Denoiser(network, params, trained.process, trained.parameterization, trained.data_std, learned)
