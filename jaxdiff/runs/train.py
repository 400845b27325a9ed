"""Trains a run by a config."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.arrays import (
    atomic_write,
    check_instance,
    check_number,
    check_path,
    check_whole,
    is_leftover,
    own_folder,
    require,
)
from jaxdiff.config import Config, read_config
from jaxdiff.denoisers import innermost
from jaxdiff.runs.budget import Budget
from jaxdiff.runs.data import read
from jaxdiff.runs.known import Known, learned, read_known, write_known
from jaxdiff.runs.run import WEIGHTS, Run, build, draw, every_device
from jaxdiff.runs.summary import last_line, read_summary, update_summary, write_json
from jaxdiff.training.hosts import first, several
from jaxdiff.vocabulary import WORDS, Data

STARTED = ("lock", "failure.json", ".checkpoints.unsaved", "config.tmp")  # files that an aborted start can leave behind
DATA = ("data", "data_std", "batch", "first_batch")
DROPOUT = ("loss", "condition_dropout")
PARTS = {  # the parts of a run's identity in `training.train` that a setting decides, if they have other names
    "data": (*DATA, "prepare", "weights", "initial_weights"),
    "condition": ("network", "weights", "initial_weights", "prepare", *DROPOUT, *DATA),
    "dropout": DROPOUT,
    "flip": ("prepare",),
    "network": ("network", "weights", "initial_weights"),
    "dtype": ("network",),
    "batch_size": DATA,
    "learning_rate": ("optimizer",),
    "seed": ("key", "initial_weights", "first_batch", "data"),
}
_log = logging.getLogger(__name__)
PICTURES = 0.02  # the default share of the training time that pictures of samples may take


def _check_folder(config: Config, folder: Path, allow: Sequence[str]) -> None:
    """Raise ValueError if the folder holds something else, or checkpoints of another config."""
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} is an exported model, which cannot be trained further; give another folder")
    if (folder / "config.json").exists():
        before, now = read_config(folder).written(), config.written()
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
    elif folder.exists() and not all(path.name in STARTED or is_leftover(path) for path in folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a run folder; give another one")


def _began(config: Config, folder: Path, now: Known) -> Known:
    """What the run in the folder keeps of its first data; ValueError if it cannot continue with the data of `now`."""
    began = read_known(folder)
    other = now.lasting(config)
    for name, value in began.lasting(config).items():
        if value != other[name]:
            raise ValueError(
                f"{folder} holds a run whose data have {name} = {value}, now {other[name]}; it can only continue with "
                "data that have the same: give another folder"
            )
    return began


@contextlib.contextmanager
def _written(folder: Path, config: Config, known: Known) -> Iterator[None]:
    """Write config.json and data.json; restore the old ones if training then fails without a new checkpoint."""
    if not first():
        yield
        return
    paths = [own_folder(folder) / name for name in ("config.json", "data.json")]
    before = [path.read_bytes() if path.exists() else None for path in paths]
    saved = training.saved_steps(folder)
    write_json(paths[0], config.written())
    write_known(folder, known)
    try:
        yield
    except BaseException:
        if saved and training.saved_steps(folder) == saved:
            for path, content in zip(paths, before):
                path.unlink() if content is None else _put_back(path, content)
        raise


def _put_back(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def train(
    config: Config,
    folder: str | os.PathLike,
    data: Any = None,
    *,
    progress: bool = True,
    model: int = 1,
    accumulate: int = 1,
    writers: Callable[[Path], Sequence[contextlib.AbstractContextManager[Callable]]] = lambda folder: (),
    allow: tuple[str, ...] = (),
    checkpoint_every: int = 500,
    log_every: int = 50,
    pictures: float = PICTURES,
) -> Run:
    """Train a model by a config, or continue the run in `folder`.

    Args:
        config: data, model and training.
        folder: the run's folder; new, empty or that of the same run.
        data: the training examples if `config.data` is None: a data set of `jaxdiff.data`.
        progress: whether to show a progress bar.
        model: how many devices share one copy of the weights; the batch is split over all devices.
        accumulate: into how many parts a batch is split, computed one after another to save memory.
        writers: `writers(folder)` returns context managers, each of which yields a `writer(metrics, picture)` that is
            called with each logged line and the path of a new picture or None, such as `jaxdiff.training.tensorboard`.
        allow: names of settings that may differ from the run that is continued.
        checkpoint_every: a checkpoint is saved at the first log at or after each multiple of it, and at the end.
        log_every: the number of steps between two lines of metrics.jsonl.
        pictures: the largest share of the training time that pictures of samples may take, in addition to those of the
            trained model; 0 draws none. The time they took is `picture_seconds` in metrics.jsonl and summary.json, and
            `last_pictures_seconds` for those of the trained model.

    Returns:
        The run with its averaged weights.

    Raises:
        ValueError: if the folder holds something else or a run with another config, or the config does not fit the
            data.

    Examples:
        >>> import tempfile
        >>> from jaxdiff import runs
        >>> config = runs.Config(data="two_moons", network="mlp(hidden=(8,))", steps=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = runs.train(config, folder, progress=False, pictures=0)
        ...     runs.load(folder).config == run.config
        True
    """
    require("matplotlib")
    check_instance("config", config, Config, "a Config")
    folder = check_path("folder", folder)
    check_whole("model", model)
    check_whole("accumulate", accumulate)
    check_number("pictures", pictures, least=0, most=1)
    mesh = training.make_mesh(model)
    if config.batch_size % (mesh.size * accumulate):
        raise ValueError(
            f"batch_size = {config.batch_size} on {mesh.size} devices, accumulate = {accumulate}; expected a multiple "
            f"of {mesh.size * accumulate}"
        )
    if data is None and config.data is None:
        raise ValueError("config.data = None, and no data were given; expected one of them")
    if data is not None and config.data is not None:
        named = WORDS.write(config.data, Data)
        raise ValueError(f"config.data is {named}, and data were given; to train on them give Config(data=None)")
    source = read(config.data, "train", config.condition, progress) if data is None else data
    known = learned(config, source)
    config = known.completed(config)
    if first():
        _check_folder(config, folder, allow)
    if training.saved_steps(folder) and (folder / "data.json").exists():
        known = _began(config, folder, known)
    read_summary(folder)
    shard, alone = (jd.data.process_shard(), None) if several() else (None, every_device())
    batches = jd.data.batches(known.examples(source), config.batch_size, config.seed, shard)
    denoiser = build(config, known)
    budget = Budget(pictures, 50 * known.SHOWN, time.perf_counter(), last_line(folder).get("picture_seconds", 0.0))

    def drawn(denoiser, n: int, *settings, **more):
        cond = known.in_turn(source, n) if innermost(denoiser).condition_dropout == 0 else None
        return draw(Run(config, known, denoiser), n, *settings, cond=cond, mesh=alone, **more)

    def picture(denoiser, title: str | None = None) -> Path | None:
        return known.picture(drawn(denoiser, known.SHOWN), source, folder / "samples.png", title)

    def on_log(denoiser, metrics):
        path = None
        if first() and budget.allows(metrics):
            with budget.drawing():
                path = picture(denoiser, f"samples after {metrics['step']} steps")
        for write in opened:
            write(metrics, path)

    with contextlib.ExitStack() as held:
        held.enter_context(_written(folder, config, known))
        opened = [held.enter_context(writer) for writer in (writers(folder) if first() else ())]
        denoiser = training.train(
            jax.random.fold_in(jax.random.key(config.seed), 1),
            folder,
            denoiser,
            known.loss(config),
            batches,
            steps=config.steps,
            optimizer=functools.partial(training.clipped_adam, learning_rate=config.learning_rate),
            ema_decay=config.ema_decay,
            prepare=known.prepare(config),
            mesh=mesh,
            accumulate=accumulate,
            allow=[part for name in allow for part in PARTS.get(name, (name,))],
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            on_log=on_log,
            extra=lambda: {"picture_seconds": budget.spent},
            progress=progress,
        )
    if not first():
        return Run(config, known, denoiser)
    began, last = time.perf_counter(), last_line(folder)
    jd.plotting.training_curve(training.read_metrics(folder / "metrics.jsonl"), folder / "training.png")
    if pictures:
        _log.info("drawing pictures of the trained model in %s", folder)
        picture(denoiser)
        known.last_pictures(denoiser, source, functools.partial(drawn, denoiser), folder)
    if read_summary(folder).get("steps") != last["step"]:
        for name in ("summary.json", "evaluation.json"):  # figures of an earlier model
            (folder / name).unlink(missing_ok=True)
    update_summary(
        folder,
        steps=last["step"],
        loss=last["loss"],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(denoiser.params)),
        train_seconds=last["seconds"],
        picture_seconds=budget.spent,
        last_pictures_seconds=time.perf_counter() - began,
    )
    return Run(config, known, denoiser)
