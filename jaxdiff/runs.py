"""A run lives in one folder, and this is the one place that turns a config's words into classes.

config.json     `Config`, from which everything is rebuilt        checkpoints/, metrics.jsonl    see `training`
summary.json    the final figures                                 *.png                         pictures of it

An exported run has its averaged weights in weights.safetensors in place of checkpoints.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

IMAGES = {
    "digits": jd.data.load_digits,
    "fashion_mnist": jd.data.load_fashion_mnist,
    "cifar10": jd.data.load_cifar10,
}
TOYS = ("two_moons", "eight_gaussians", "checkerboard", "swiss_roll", "s_curve", "pinwheel", "circles", "cat")
POINTS_IN_A_SET = 20_000
WEIGHTS = "weights.safetensors"
Split = Literal["train", "validation", "test"]

PROCESSES = {
    "vp": jd.VP,
    "sub_vp": jd.SubVP,
    "ou": jd.OU,
    "ve": jd.VE,
    "brownian_ve": jd.BrownianVE,
    "edm": jd.EDM,
    "cosine": jd.Cosine,
    "flow": jd.Flow,
}
WEIGHTINGS = {
    "simple": jd.losses.weightings.Simple,
    "likelihood": jd.losses.weightings.Likelihood,
    "min_snr": jd.losses.weightings.MinSNR,
    "edm": jd.losses.weightings.EDM,
    "sigmoid": jd.losses.weightings.Sigmoid,
}
TIMES = {
    "uniform": jd.losses.times.Uniform,
    "stratified": jd.losses.times.Stratified,
    "log_normal": jd.losses.times.LogNormal,
    "logit_normal": jd.losses.times.LogitNormal,
    "importance": jd.losses.times.Importance,
}
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


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is: its data, model and training. A run folder keeps it as config.json."""

    data: Literal[*IMAGES, *TOYS] = "digits"  # pyright: ignore[reportInvalidTypeForm]
    """Data set: images (scikit-learn's 8x8 digits, Fashion-MNIST, CIFAR-10) or a toy set in the plane."""
    process: Literal[*PROCESSES] = "vp"  # pyright: ignore[reportInvalidTypeForm]
    """How data becomes noise."""
    parameterization: Literal["data", "noise", "score", "v", "velocity", "edm"] = "v"
    """What the network's output means."""
    weighting: Literal[*WEIGHTINGS] = "simple"  # pyright: ignore[reportInvalidTypeForm]
    """How much each noise level counts."""
    times: Literal[*TIMES] = "stratified"  # pyright: ignore[reportInvalidTypeForm]
    """Where t is drawn."""
    channels: tuple[int, ...] = (16, 32)
    """U-Net (images): channels of each level, each half the size of the one before."""
    blocks: int = 1
    """U-Net: residual blocks a level, each way."""
    attention: tuple[int, ...] = (1,)
    """U-Net: the levels with attention, 0 being the full image."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """MLP (toy sets): widths of its layers."""
    conditional: bool = False
    """Train on labels, dropped for one example in ten so that the unconditional model is learned too."""
    flip: bool = False
    """Mirror half of the images left to right, drawn anew each step; not where sides matter, as they do for digits."""
    steps: int = 4000
    """Training steps."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 3e-3
    """Peak of the learning rate, which rises linearly and falls by a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, the ones that are used."""
    seed: int = 0
    """Seed of weights, batches and noise."""


def _write_json(path: Path, value: dict) -> None:
    """Write by a rename, so that a reader never sees half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _finite(value) -> Any:
    """`value` with None for every float in it that is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _update_summary(folder: Path, **figures) -> dict[str, Any]:
    path = folder / "summary.json"
    figures = _finite(figures)
    summary = (json.loads(path.read_text()) if path.exists() else {}) | figures
    _write_json(path, summary)
    return summary


def read_config(folder: Path) -> Config:
    """The config of a run folder; a ValueError that says what is wrong with one that is not."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.json. Make one by `jaxdiff train {folder}`")
    try:
        values = json.loads(path.read_text())
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = Config(**settings)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a config of this version of jaxdiff: {error}") from error
    for name, words in (
        ("data", (*IMAGES, *TOYS)),
        ("process", PROCESSES),
        ("weighting", WEIGHTINGS),
        ("times", TIMES),
    ):
        if getattr(config, name) not in words:
            raise ValueError(f"{path}: {name} = {getattr(config, name)!r}; expected one of {', '.join(words)}")
    return config


@functools.lru_cache(maxsize=3)
def load_images(config: Config, split: Split) -> jd.data.Images:
    """The images of a split, "train", "validation" or "test"; read once, and not to be written to."""
    data = IMAGES[config.data](split)
    data.image.flags.writeable = data.label.flags.writeable = False
    return data


def load_points(config: Config, split: Split) -> np.ndarray:
    """Points [n, 2] of a toy set, whose splits are different draws."""
    key = jax.random.fold_in(jax.random.key(0), ("train", "validation", "test").index(split))
    return np.asarray(getattr(jd.data, config.data)(key, POINTS_IN_A_SET))


def build(config: Config) -> jd.Denoiser:
    """The denoiser of a config, with its initial weights."""
    from jaxdiff.networks import MLP, UNet, initialize

    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    if config.data in IMAGES:
        data = load_images(config, "train")
        classes = data.classes if config.conditional else 0
        make = lambda rngs: UNet(
            data.image.shape[-1], config.channels, config.blocks, config.attention, classes=classes, rngs=rngs
        )
        std = 2 / data.levels * float(np.std(data.image, dtype=np.float32))
    else:
        if config.conditional or config.flip:
            setting = "conditional" if config.conditional else "flip"
            raise ValueError(
                f"{setting} = True is for images; {config.data} has neither labels nor sides: leave it out"
            )
        make = lambda rngs: MLP(2, config.hidden, rngs=rngs)
        std = float(np.std(load_points(config, "train")))
    network, params = initialize(key, make)
    return jd.Denoiser(network, params, PROCESSES[config.process](), config.parameterization, data_std=std)


def load(folder: str | os.PathLike) -> tuple[Config, jd.Denoiser]:
    """The config and trained denoiser (averaged weights) of a run folder, or of one that `jaxdiff export` wrote."""
    folder = Path(folder)
    config = read_config(folder)
    denoiser = build(config)
    if (weights := folder / WEIGHTS).exists():
        params = jd.pretrained.read_params(weights, denoiser.params)
    else:
        params = jd.training.load_params(folder, denoiser.params)
    return config, dataclasses.replace(denoiser, params=params)


def _preparation(config: Config):
    """Batches of the training set, and what makes (x_0, cond) of one inside the step."""
    if config.data in TOYS:
        arrays = {"x": load_points(config, "train")}
        prepare = lambda key, batch: (batch["x"], None)
    else:
        data = load_images(config, "train")
        arrays = {"image": data.image, "label": data.label}

        def prepare(key, batch):
            noise_key, drop_key, flip_key = jax.random.split(key, 3)
            x0 = jd.dequantize(noise_key, batch["image"], data.levels)
            if config.flip:
                mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x0), 1, 1, 1))
                x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
            if not config.conditional:
                return x0, None
            dropped = jax.random.bernoulli(drop_key, 0.1, batch["label"].shape)
            return x0, jnp.where(dropped, data.classes, batch["label"])

    return jd.data.batches(arrays, config.batch_size, config.seed), prepare


def draw(
    config: Config, denoiser, n: int, sampler="dpm_solver", steps=50, seed=0, label=None, batch_size=4096, **more
) -> np.ndarray:
    """Draw n samples, `batch_size` at a time; further arguments go to `jaxdiff.samplers.draw`."""
    event = load_images(config, "train").image.shape[1:] if config.data in IMAGES else (2,)
    settings = {"sampler": SAMPLERS[sampler](), "steps": steps, **more}
    return jd.samplers.draw(jax.random.key(seed), denoiser, (n, *event), batch_size, label, **settings)


def picture_samples(config: Config, x, path: Path, title: str | None = None) -> None:
    """A grid of images, or points beside the data's."""
    if config.data in IMAGES:
        jd.plotting.sample_grid(x, path, title=title)
    else:
        truth = load_points(config, "test")[: len(x)]
        jd.plotting.panels({config.data: jd.plotting.Points(truth), title or "samples": jd.plotting.Points(x)}, path)


def _picture_run(config: Config, denoiser, folder: Path) -> None:
    """What a trained run shows: samples, the way there and back of an example, the curve, a toy model's density."""
    from jaxdiff.training import read_metrics

    jd.plotting.training_curve(read_metrics(folder / "metrics.jsonl"), folder / "training.png")
    if config.data in TOYS:
        picture_samples(config, draw(config, denoiser, 4000), folder / "samples.png")
        plane = jnp.asarray(jd.plotting.plane(2.5, 80), jnp.float32)
        log_prob = jd.log_likelihood(jax.random.key(0), denoiser, plane, "exact", rtol=1e-3, atol=1e-3).log_prob
        jd.plotting.panels(
            {f"density of {config.data}": jd.plotting.Density(np.asarray(log_prob))}, folder / "density.png"
        )
        return
    picture_samples(config, draw(config, denoiser, 64), folder / "samples.png")
    times = np.append(jd.grids.Angle()(denoiser.process, 44)[::4], 0.0)
    held_out = load_images(config, "test")
    x0 = jd.dequantize(jax.random.key(1), held_out.image[:1], held_out.levels)
    alpha, sigma = (np.asarray(c).reshape(-1, 1, 1, 1) for c in denoiser.process.marginal(times))
    noising = alpha * x0 + sigma * jax.random.normal(jax.random.key(2), x0.shape)
    denoising = draw(config, denoiser, 1, "ddim", 44, seed=1, grid=jd.grids.Angle(), trajectory=True)[::4, 0]
    scale = np.hypot(alpha, sigma).clip(1.0)
    jd.plotting.strip(
        np.stack([noising[::-1] / scale[::-1], denoising / scale]),
        folder / "denoising.png",
        names=["data to noise", "noise to data"],
    )


def train(config: Config, folder: Path, pictures_every: float, progress: bool) -> tuple[jd.Denoiser, dict]:
    """Train into `folder`, or go on where it stopped; a picture of samples every so many seconds. Returns its summary.

    Raises ValueError where the folder holds something else or a run with another config.
    """
    from jaxdiff import training

    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} is an exported model, from which training cannot go on; give another folder")
    if (folder / "config.json").exists():
        before = dataclasses.asdict(read_config(folder))
        changed = [f"{k}: {before[k]!r}, now {v!r}" for k, v in dataclasses.asdict(config).items() if before[k] != v]
        if changed:
            raise ValueError(f"{folder} holds a run with another config ({'; '.join(changed)}); give another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a run folder; give another one")
    denoiser = build(config)
    batches, prepare = _preparation(config)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", dataclasses.asdict(config))
    last_picture = 0.0

    def on_log(denoiser, metrics):
        nonlocal last_picture
        if metrics["seconds"] - last_picture >= pictures_every:
            last_picture = metrics["seconds"]
            x = draw(config, denoiser, 64 if config.data in IMAGES else 4000)
            picture_samples(config, x, folder / "samples.png", f"samples after {metrics['step']} steps")

    denoiser = training.train(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        folder,
        denoiser,
        jd.losses.Denoising(WEIGHTINGS[config.weighting](), TIMES[config.times]()),
        batches,
        steps=config.steps,
        optimizer=training.clipped_adam(config.steps, config.learning_rate),
        ema_decay=config.ema_decay,
        prepare=prepare,
        on_log=on_log,
        progress=progress,
    )
    _picture_run(config, denoiser, folder)
    last = training.read_metrics(folder / "metrics.jsonl")[-1]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(denoiser.params))
    summary = _update_summary(
        folder, steps=last["step"], loss=last["loss"], parameters=parameters, train_seconds=last["seconds"]
    )
    return denoiser, summary


def _figures(report: jd.BitsPerDim) -> dict:
    """The numbers of a report, its budget's among them, for a summary."""
    numbers = lambda value: {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    figures = numbers(report)
    if (budget := report.budget) is not None:
        shifts = {name: getattr(budget, name)._asdict() for name in ("solver", "truncation")}
        bound = {name: getattr(budget.bound, name) for name in ("bits_per_dim", "standard_error")}
        figures["budget"] = numbers(budget) | shifts | {"bound": bound}
    return figures


def likelihood(
    config: Config,
    denoiser,
    folder: Path,
    split,
    limit,
    seed,
    progress,
    samples=1,
    target_error=None,
    budget=64,
    **settings,
) -> dict:
    """Likelihood of a split of the data into the summary: bits/dim of images, mean nats of points.

    The estimates of every image go into likelihood_SPLIT_*.npz, one file for each set of settings: a run that was
    interrupted goes on.
    """
    key = jax.random.key(seed)
    began = time.perf_counter()
    if config.data in IMAGES:
        data = load_images(config, split)
        asked = json.dumps([limit, seed, samples, settings], default=repr)
        record = folder / f"likelihood_{split}_{hashlib.sha256(asked.encode()).hexdigest()[:8]}.npz"
        report = jd.bits_per_dim(
            key,
            denoiser,
            data.image[:limit],
            samples,
            data.levels,
            progress=progress,
            target_error=target_error,
            budget=budget,
            record=record,
            **settings,
        )
        print(report, file=sys.stderr)
        figures = _figures(report) | {"per_example": str(record)}
    else:
        if samples != 1:
            raise ValueError(f"dequantization_samples = {samples}: {config.data} is continuous; leave it at 1")
        if target_error is not None:
            raise ValueError(f"target_error = {target_error}: for images; {config.data} is a set of points")
        found = jd.log_likelihood(key, denoiser, jnp.asarray(load_points(config, split)[: limit or 2000]), **settings)
        nats = np.asarray(found.log_prob, np.float64)[np.asarray(found.converged)]
        figures = {
            "log_likelihood": float(nats.mean()),
            "standard_error": float(nats.std(ddof=1) / np.sqrt(len(nats))),
            "examples": len(found.log_prob),
            "not_converged": int((~found.converged).sum()),
        }
        print(f"{figures['log_likelihood']:.4f} +- {figures['standard_error']:.4f} nats", file=sys.stderr)
    return _update_summary(folder, **figures, split=split, likelihood_seconds=time.perf_counter() - began)
