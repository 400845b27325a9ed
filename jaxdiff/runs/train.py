"""Training by a config."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.arrays import check_number, check_path, check_whole, is_leftover, own_folder
from jaxdiff.config import IMAGES, TIMES, TOYS, WEIGHTINGS, Config, check_config, read_config
from jaxdiff.runs.models import WEIGHTS, build, draw, every_device, load_images, load_points
from jaxdiff.runs.pictures import Budget, labels_shown, picture_run, picture_samples
from jaxdiff.runs.summary import last_line, read_summary, update_summary, write_json
from jaxdiff.training.hosts import first, several

TRACES = ("lock", "failure.json", ".checkpoints.unsaved", "config.tmp")  # what an aborted start can leave in a folder
DATA = ("data", "data_std", "batch", "first_batch")
PARTS = {  # what `training.train` calls what a setting decides, where it does not have the setting's name
    **dict.fromkeys((field.name for field in dataclasses.fields(Config)), ()),
    **{name: (name,) for name in ("process", "parameterization", "ema_decay", "accumulate", "label_dropout")},
    **dict.fromkeys(("channels", "blocks", "attention", "hidden"), ("network", "weights", "initial_weights")),
    **dict.fromkeys(
        ("image_folder", "image_size", "grey", "skip_corrupt"), ("data", "data_std", "first_batch", "batch")
    ),
    "data": ("data", "data_std", "first_batch", "batch", "prepare"),
    "conditional": ("network", "weights", "initial_weights", "prepare", "label_dropout"),
    "weighting": ("loss",),
    "times": ("loss",),
    "learning_rate": ("optimizer",),
    "flip": ("prepare",),
    "dtype": ("network",),
    "remat": ("network",),
    "batch_size": ("batch", "first_batch", "data"),
    "seed": ("key", "initial_weights", "first_batch", "data"),
}
PICTURES = 0.02  # the share of a training's time that pictures of samples may take


def _preparation(config: Config):
    """What a run reads and does with it: examples, and what makes (x_0, cond) of a batch of them inside the step."""
    if config.data in TOYS:
        examples = {"x": load_points(config, "train")}
        prepare = lambda key, batch: (batch["x"], None)
    else:
        data = load_images(config, "train")
        examples = {"image": data.image, "label": data.label} if isinstance(data, jd.data.Images) else data
        levels, flip, conditional = data.levels, config.flip, config.conditional

        def prepare(key, batch):
            noise_key, _, flip_key = jax.random.split(key, 3)
            x0 = jd.dequantize(noise_key, batch["image"], levels)
            if flip:
                mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x0), 1, 1, 1))
                x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
            return x0, batch["label"] if conditional else None

    return examples, prepare


def _check_folder(config: Config, folder: Path, allow: tuple[str, ...]) -> None:
    """Raise ValueError where the folder holds something else, or checkpoints of another config."""
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} is an exported model, from which training cannot go on; give another folder")
    if (folder / "config.json").exists():
        before = dataclasses.asdict(read_config(folder))
        now = dataclasses.asdict(config)
        changed = [name for name, value in now.items() if before[name] != value and name not in ("steps", *allow)]
        saved = training.saved_steps(folder)
        if saved and config.steps < max(saved):
            raise ValueError(
                f"steps = {config.steps}, but the run in {folder} has {max(saved)} already; ask for at least as many"
            )
        if changed and saved:
            what = "; ".join(f"{name}: {before[name]!r}, now {now[name]!r}" for name in changed)
            raise ValueError(
                f"{folder} holds a run with another config ({what}); give another folder, or accept the difference by "
                f"name: allow {' '.join(changed)}"
            )
    elif folder.exists() and not all(path.name in TRACES or is_leftover(path) for path in folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a run folder; give another one")


def train(
    config: Config,
    folder: str | os.PathLike,
    progress: bool = True,
    model: int = 1,
    writers: Callable[[Path], Sequence[contextlib.AbstractContextManager[Callable]]] = lambda folder: (),
    allow: tuple[str, ...] = (),
    checkpoint_every: int = 500,
    log_every: int = 50,
    pictures: float = PICTURES,
) -> tuple[jd.Denoiser, dict]:
    """Train into `folder`, or go on where it stopped. Returns the denoiser and the run's summary.

    Args:
        model: devices that share one copy of the weights; the others multiply the batch.
        writers: what else gets each logged line, as `writer(metrics, picture)`: context managers that give it, made
            once the folder is there; picture is a path where there is a new one.
        pictures: the largest share of the time that pictures of samples may take while it trains, 0 for none at all.
            What they took is `picture_seconds` in metrics.jsonl and in the summary; the pictures of the trained model
            are `last_pictures_seconds` there.

    Raises ValueError where the folder holds something else or a run with another config.
    """
    check_config(config)
    folder = check_path("folder", folder)
    config.check()
    check_whole("model", model)
    check_number("pictures", pictures, least=0, most=1)
    if first():
        _check_folder(config, folder, allow)
    read_summary(folder)
    mesh = training.make_mesh(model)
    if config.batch_size % (mesh.size * config.accumulate):
        raise ValueError(
            f"batch_size = {config.batch_size} on {mesh.size} devices in {config.accumulate} parts; expected a "
            f"multiple of {mesh.size * config.accumulate}"
        )
    examples, prepare = _preparation(config)
    config.check_used()
    shard, alone = (jd.data.process_shard(), None) if several() else (None, every_device())
    batches = jd.data.batches(examples, config.batch_size, config.seed, shard)
    denoiser = build(config)
    if first():
        write_json(own_folder(folder) / "config.json", dataclasses.asdict(config))
    shown = 64 if config.data in IMAGES else 4000
    budget = Budget(pictures, 50 * shown, time.perf_counter(), last_line(folder).get("picture_seconds", 0.0))

    def on_log(denoiser, metrics):
        picture = None
        if first() and budget.allows(metrics):
            with budget.drawing():
                x = draw(config, denoiser, shown, label=labels_shown(denoiser, shown), mesh=alone)
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
            optimizer=functools.partial(training.clipped_adam, learning_rate=config.learning_rate),
            ema_decay=config.ema_decay,
            prepare=prepare,
            label_dropout=config.dropout,
            mesh=mesh,
            accumulate=config.accumulate,
            allow=[part for name in allow for part in PARTS.get(name, (name,))],
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            on_log=on_log,
            extra=lambda: {"picture_seconds": budget.spent},
            progress=progress,
        )
    if not first():
        return denoiser, {}
    began, last = time.perf_counter(), last_line(folder)
    jd.plotting.training_curve(training.read_metrics(folder / "metrics.jsonl"), folder / "training.png")
    if pictures:
        picture_run(config, denoiser, folder, alone)
    summary = update_summary(
        folder,
        steps=last["step"],
        loss=last["loss"],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(denoiser.params)),
        train_seconds=last["seconds"],
        picture_seconds=budget.spent,
        last_pictures_seconds=time.perf_counter() - began,
    )
    return denoiser, summary
