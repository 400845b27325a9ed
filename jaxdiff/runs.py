"""A run lives in one folder, and this is the one place that turns a config's words into classes.

config.json     `Config`, from which everything is rebuilt        checkpoints/, metrics.jsonl    see `training`
summary.json    the final figures                                 *.png                         pictures of it

An exported run has its averaged weights in weights.safetensors in place of checkpoints.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.config import IMAGES, IN_A_FOLDER, PROCESSES, TIMES, TOYS, WEIGHTINGS, Config, read_config
from jaxdiff.training.hosts import first, several

POINTS_IN_A_SET = 20_000
WEIGHTS = "weights.safetensors"
TRACES = ("lock", "failure.json")  # what a start that came to nothing may leave in a folder
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
    if first():
        _write_json(path, summary)
    return summary


@functools.lru_cache(maxsize=3)
def load_images(config: Config, split: Split) -> jd.data.Images | jd.data.ImageFolder | jd.data.ImageSource:
    """The images of a split, "train", "validation" or "test"; read once, and not to be written to.

    Those that fit in memory are there, as `jaxdiff.data.Images`; of others examples are read as they are asked for.
    """
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
    if isinstance(data, jd.data.Images):
        return data.image[:n]
    indices = range(len(data) if n is None else min(n, len(data)))
    return np.stack([data[i]["image"] for i in indices])


def load_points(config: Config, split: Split) -> np.ndarray:
    """Points [n, 2] of a toy set, whose splits are different draws."""
    key = jax.random.fold_in(jax.random.key(0), ("train", "validation", "test").index(split))
    return np.asarray(getattr(jd.data, config.data)(key, POINTS_IN_A_SET))


def build(config: Config) -> jd.Denoiser:
    """The denoiser of a config, with its initial weights."""
    from jaxdiff.networks import MLP, Cast, UNet, initialize

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
    """What a run reads and does with it: examples, and what makes (x_0, cond) of a batch of them inside the step."""
    if config.data in TOYS:
        examples = {"x": load_points(config, "train")}
        prepare = lambda key, batch: (batch["x"], None)
    else:
        data = load_images(config, "train")
        examples = {"image": data.image, "label": data.label} if isinstance(data, jd.data.Images) else data

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

    return examples, prepare


def draw(
    config: Config, denoiser, n: int, sampler="dpm_solver", steps=50, seed=0, label=None, batch_size=4096, **more
) -> np.ndarray:
    """Draw n samples, `batch_size` at a time; further arguments go to `jaxdiff.samplers.draw`."""
    event = pixels(load_images(config, "train"), 1).shape[1:] if config.data in IMAGES else (2,)
    settings = {"sampler": SAMPLERS[sampler](), "steps": steps, **more}
    return jd.samplers.draw(jax.random.key(seed), denoiser, (n, *event), batch_size, label, **settings)


def every_device() -> jax.sharding.Mesh | None:
    """The mesh that samples and likelihoods are split over; None where there is one device."""
    return None if jax.device_count() == 1 else training.make_mesh()


def picture_samples(config: Config, x, path: Path, title: str | None = None) -> None:
    """A grid of images, or points beside the data's."""
    if config.data in IMAGES:
        jd.plotting.sample_grid(x, path, title=title)
    else:
        truth = load_points(config, "test")[: len(x)]
        jd.plotting.panels({config.data: jd.plotting.Points(truth), title or "samples": jd.plotting.Points(x)}, path)


def _picture_run(config: Config, denoiser, folder: Path, mesh: jax.sharding.Mesh | None) -> None:
    """What a trained run shows: samples, the way there and back of an example, the curve, a toy model's density."""
    jd.plotting.training_curve(training.read_metrics(folder / "metrics.jsonl"), folder / "training.png")
    if config.data in TOYS:
        picture_samples(config, draw(config, denoiser, 4000, mesh=mesh), folder / "samples.png")
        plane = jnp.asarray(jd.plotting.plane(2.5, 80), jnp.float32)
        log_prob = jd.log_likelihood(jax.random.key(0), denoiser, plane, "exact", rtol=1e-3, atol=1e-3).log_prob
        jd.plotting.panels(
            {f"density of {config.data}": jd.plotting.Density(np.asarray(log_prob))}, folder / "density.png"
        )
        return
    picture_samples(config, draw(config, denoiser, 64, mesh=mesh), folder / "samples.png")
    times = np.append(jd.grids.Angle()(denoiser.process, 44)[::4], 0.0)
    held_out = load_images(config, "test")
    x0 = jd.dequantize(jax.random.key(1), pixels(held_out, 1), held_out.levels)
    alpha, sigma = (np.asarray(c).reshape(-1, 1, 1, 1) for c in denoiser.process.marginal(times))
    noising = alpha * x0 + sigma * jax.random.normal(jax.random.key(2), x0.shape)
    denoising = draw(config, denoiser, 1, "ddim", 44, seed=1, grid=jd.grids.Angle(), trajectory=True)[::4, 0]
    scale = np.hypot(alpha, sigma).clip(1.0)
    jd.plotting.strip(
        np.stack([noising[::-1] / scale[::-1], denoising / scale]),
        folder / "denoising.png",
        names=["data to noise", "noise to data"],
    )


def _check_folder(config: Config, folder: Path, allow: tuple[str, ...]) -> None:
    """Raise ValueError where the folder holds something else, or a run with another config."""
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} is an exported model, from which training cannot go on; give another folder")
    if (folder / "config.json").exists():
        before = dataclasses.asdict(read_config(folder))
        now = dataclasses.asdict(config)
        changed = [name for name, value in now.items() if before[name] != value and name not in allow]
        if changed:
            what = "; ".join(f"{name}: {before[name]!r}, now {now[name]!r}" for name in changed)
            raise ValueError(
                f"{folder} holds a run with another config ({what}); give another folder, or accept the difference by "
                f"name: allow {' '.join(changed)}"
            )
    elif folder.exists() and any(path.name not in TRACES for path in folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a run folder; give another one")


def train(
    config: Config,
    folder: Path,
    pictures_every: float,
    progress: bool,
    model: int = 1,
    writers: Callable[[Path], Sequence[contextlib.AbstractContextManager[Callable]]] = lambda folder: (),
    allow: tuple[str, ...] = (),
    checkpoint_every: int = 500,
    log_every: int = 50,
) -> tuple[jd.Denoiser, dict]:
    """Train into `folder`, or go on where it stopped; a picture of samples every so many seconds. Returns its summary.

    model: devices that share one copy of the weights; the others multiply the batch. writers: what else is told of each
    logged line, `writer(metrics, picture)`, context managers that give it, made once the folder is there; picture is a
    path where there is a new one.

    Raises ValueError where the folder holds something else or a run with another config.
    """
    config.check()
    if first():
        _check_folder(config, folder, allow)
    mesh = training.make_mesh(model)
    if config.batch_size % (mesh.size * config.accumulate):
        raise ValueError(
            f"batch_size = {config.batch_size} on {mesh.size} devices in {config.accumulate} parts; expected a "
            f"multiple of {mesh.size * config.accumulate}"
        )
    examples, prepare = _preparation(config)
    shard, alone = (jd.data.process_shard(), None) if several() else (None, every_device())
    batches = jd.data.batches(examples, config.batch_size, config.seed, shard)
    denoiser = build(config)
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", dataclasses.asdict(config))
    last_picture = 0.0

    def on_log(denoiser, metrics):
        nonlocal last_picture
        picture = None
        if first() and metrics["seconds"] - last_picture >= pictures_every:
            last_picture = metrics["seconds"]
            x = draw(config, denoiser, 64 if config.data in IMAGES else 4000, mesh=alone)
            picture = folder / "samples.png"
            picture_samples(config, x, picture, f"samples after {metrics['step']} steps")
        for write in told:
            write(metrics, picture)

    with contextlib.ExitStack() as open_writers:
        told = [open_writers.enter_context(writer) for writer in (writers(folder) if first() else ())]
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
            mesh=mesh,
            accumulate=config.accumulate,
            identity={"data": jd.data.fingerprint(examples, config.batch_size, config.seed)},
            allow=allow,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            on_log=on_log,
            progress=progress,
        )
    if not first():
        return denoiser, {}
    _picture_run(config, denoiser, folder, alone)
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
            pixels(data, limit),
            samples,
            data.levels,
            progress=progress,
            target_error=target_error,
            budget=budget,
            record=record,
            mesh=every_device(),
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
