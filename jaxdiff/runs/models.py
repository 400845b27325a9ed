"""The data and the model of a config, and samples of it."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.arrays import check_instance, check_path, check_whole
from jaxdiff.config import IMAGES, IN_A_FOLDER, PROCESSES, Config, check_config, check_seed, read_config

POINTS_IN_A_SET = 20_000
WEIGHTS = "weights.safetensors"
SEEN = 10_000  # images of a set on disk that its standard deviation is measured on
IN_MEMORY = 4 * 2**30  # bytes of images; larger folders are read as they are needed
Split = Literal["train", "validation", "test"]

SAMPLERS: dict[str, Callable[[], jd.samplers.Sampler]] = {
    "dpm_solver": jd.samplers.DPMSolverPP,
    "dpm_solver_3": lambda: jd.samplers.DPMSolverPP(order=3),
    "dpm_solver_sde": lambda: jd.samplers.DPMSolverPP(sde=True),
    "ancestral": jd.samplers.Ancestral,
    "ddim": jd.samplers.DDIM,
    "euler_maruyama": jd.samplers.EulerMaruyama,
    "heun": jd.samplers.Heun,
    "probability_flow": jd.samplers.ProbabilityFlow,
    "reverse_sde": jd.samplers.ReverseSDE,
    "unipc": jd.samplers.UniPC,
    "predictor_corrector": jd.samplers.PredictorCorrector,
    "annealed_langevin": jd.samplers.AnnealedLangevin,
}


@functools.lru_cache(maxsize=3)
def load_images(config: Config, split: Split) -> jd.data.Images | jd.data.ImageFolder | jd.data.ImageSource:
    """The images of a split, "train", "validation" or "test"; read once, and not to be written to.

    Those that fit in memory are there, as `jaxdiff.data.Images`; of others examples are read as they are asked for.
    """
    check_config(config)
    if config.data == "folder" and config.image_folder is not None:
        on_corrupt = "skip" if config.skip_corrupt else "raise"
        data = jd.data.ImageFolder(config.image_folder, config.image_size, 1 if config.grey else 3, split, on_corrupt)
        if len(data) * config.image_size**2 * (1 if config.grey else 3) <= IN_MEMORY:
            found = data.load()
        else:
            found = data = data.checked() if config.skip_corrupt else data
        for path, reason in data.skipped:
            print(f"left out {path}: {reason}", file=sys.stderr)
        return found
    settings = {"folder": config.image_folder} if config.data in IN_A_FOLDER else {}
    data = IMAGES[config.data](split, **settings)
    if isinstance(data, jd.data.Images):
        data.image.flags.writeable = data.label.flags.writeable = False
    return data


def pixels(data: jd.data.Images | jd.data.ImageFolder | jd.data.ImageSource, n: int | None = None) -> np.ndarray:
    """The first n images of a set, or all, as an array uint8 [n, height, width, channels]."""
    check_instance("data", data, (jd.data.Images, jd.data.ImageFolder, jd.data.ImageSource), "images of jaxdiff.data")
    if n is not None:
        check_whole("n", n)
    if isinstance(data, jd.data.Images):
        return data.image[:n]
    indices = range(len(data) if n is None else min(n, len(data)))
    return np.stack([data[i]["image"] for i in indices])


def labels(data: jd.data.Images | jd.data.ImageFolder | jd.data.ImageSource, n: int | None = None) -> np.ndarray:
    """The labels of the first n images of a set, or of all, int32 [n]."""
    if not isinstance(data, jd.data.ImageSource):
        return data.label[:n]
    return np.array([data[i]["label"] for i in range(len(data))[:n]], np.int32)


def load_points(config: Config, split: Split) -> np.ndarray:
    """Points [n, 2] of a toy set, whose splits are different draws."""
    check_config(config)
    key = jax.random.fold_in(jax.random.key(0), ("train", "validation", "test").index(split))
    return np.asarray(getattr(jd.data, config.data)(key, POINTS_IN_A_SET))


def build(config: Config) -> jd.Denoiser:
    """The denoiser of a config, with its initial weights."""
    from jaxdiff.networks import MLP, Cast, UNet, initialize

    check_config(config)
    config.check()
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    if config.data in IMAGES:
        data = load_images(config, "train")
        seen = pixels(data, None if isinstance(data, jd.data.Images) else SEEN)
        structure = config.channels, config.blocks, config.attention
        classes = data.classes if config.conditional else 0
        make = lambda rngs: UNet(seen.shape[-1], *structure, classes=classes, remat=config.remat, rngs=rngs)
        std = 2 / data.levels * float(np.std(seen, dtype=np.float32))
    else:
        make = lambda rngs: MLP(2, config.hidden, rngs=rngs)
        std = float(np.std(load_points(config, "train")))
    network, params = initialize(key, make)
    if config.dtype != "float32":
        network = Cast(network, jnp.dtype(config.dtype))
    dropout = config.dropout if config.conditional else None
    process = PROCESSES[config.process]()
    return jd.Denoiser(network, params, process, config.parameterization, data_std=std, label_dropout=dropout)


def load(folder: str | os.PathLike) -> tuple[Config, jd.Denoiser]:
    """The config and trained denoiser (averaged weights) of a run folder, or of one that `jaxdiff export` wrote."""
    folder = check_path("folder", folder)
    config = read_config(folder)
    denoiser = build(config)
    if (weights := folder / WEIGHTS).exists():
        params = jd.pretrained.read_params(weights, denoiser.params)
    else:
        params = jd.training.load_params(folder, denoiser.params)
    return config, dataclasses.replace(denoiser, params=params)


def draw(
    config: Config, denoiser, n: int, sampler="dpm_solver", steps=50, seed=0, label=None, batch_size=4096, **more
) -> np.ndarray:
    """Draw n samples, `batch_size` at a time; further arguments go to `jaxdiff.samplers.draw`."""
    check_config(config)
    check_seed(seed)
    event = pixels(load_images(config, "train"), 1).shape[1:] if config.data in IMAGES else (2,)
    settings = {"sampler": SAMPLERS[sampler](), "steps": steps, **more}
    return jd.samplers.draw(jax.random.key(seed), denoiser, (n, *event), batch_size, label, **settings)


def every_device() -> jax.sharding.Mesh | None:
    """The mesh that samples and likelihoods are split over; None where there is one device."""
    return None if jax.device_count() == 1 else training.make_mesh()
