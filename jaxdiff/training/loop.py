"""The training loop: batches in, a denoiser out, everything about the run in one folder.

    folder/checkpoints/     the newest states, from which the same call continues, bit for bit
    folder/metrics.jsonl    {"step", "loss", "grad_norm", "seconds"} every `log_every` steps

The device is asked for numbers only at the end of an interval of `log_every` steps, and a state is saved only
there, after its numbers were found finite.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from tqdm import tqdm

from jaxdiff.processes import check_event
from jaxdiff.training.checkpoints import Checkpoints
from jaxdiff.training.log import MetricsLog
from jaxdiff.training.state import TrainState
from jaxdiff.training.step import Diverged, clipped_adam, explain, make_step, prepare_as_given


def _check_counts(**counts):
    for name, value in counts.items():
        if not (isinstance(value, int) and value > 0):
            raise ValueError(f"{name} = {value!r}; expected a whole number above 0")


def _check_data(key, batches, prepare, step: int):
    try:
        batch = batches[step]
    except IndexError as error:
        raise ValueError(
            f"batches[{step}] does not exist: batches is empty or too short; give a batch for every step >= 0"
        ) from error
    for name, array in batch.items():
        if np.ndim(array) == 0 or len(array) == 0:
            raise ValueError(f"batches[{step}][{name!r}] has shape {np.shape(array)}; expected [batch, ...], batch > 0")
    check_event(jax.jit(prepare)(key, batch)[0], f"x0 (batches[{step}], prepared)")


def train(
    key: jax.Array,
    folder: str | os.PathLike,
    denoiser,
    loss: Callable,
    batches,
    *,
    steps: int,
    optimizer: optax.GradientTransformation | None = None,
    ema_decay: float = 0.999,
    prepare: Callable = prepare_as_given,
    log_every: int = 50,
    checkpoint_every: int = 500,
    on_log: Callable | None = None,
    progress: bool = True,
):
    """Train `denoiser.params` to `steps` updates and return the denoiser with the averaged (EMA) weights.

    The same call on the same folder continues the run: 200 steps are bitwise 100, a restart and 100 more.

    Args:
        loss: `loss(denoiser, key, x0, cond) -> [batch]`; its mean is minimised.
        batches: `batches[step]` is a dict of arrays [batch, ...] that depends on the step (>= 0) alone.
        optimizer: by default `clipped_adam(steps)`.
        prepare: `prepare(key, batch) -> (x0, cond)` in the step; by default (batch["x"], batch.get("label")).
        checkpoint_every: a checkpoint is saved at the first log at or after each multiple, and at the end.
        on_log: `on_log(denoiser, metrics)` after each log: the denoiser with EMA weights, valid during the
            call only, and the line just written, whose `seconds` is the time spent in steps so far.

    Raises:
        Diverged: a loss, gradient or update was not finite: at which step, where, and what to do. The
            checkpoints and metrics of the finite steps before stay in place.
        TypeError, ValueError: before the first step, for settings or a first batch that cannot work, and for
            a checkpoint that belongs to another key, model or optimiser.
    """
    _check_counts(steps=steps, log_every=log_every, checkpoint_every=checkpoint_every)
    optimizer = clipped_adam(steps) if optimizer is None else optimizer
    step = make_step(denoiser, loss, optimizer, ema_decay, prepare)
    state = TrainState.create(key, denoiser.params, optimizer)
    folder = Path(folder)

    with Checkpoints(folder / "checkpoints") as checkpoints:
        if checkpoints.latest is not None:
            state = _resume(checkpoints, state, folder, steps)
        done = int(state.step)
        if done < steps:
            _check_data(key, batches, prepare, done)
        with (
            MetricsLog(folder / "metrics.jsonl", done) as log,
            tqdm(total=steps, initial=done, unit="step", disable=not progress) as bar,
        ):
            while done < steps:
                end = min(steps, (done // log_every + 1) * log_every)
                began = time.perf_counter()
                history = []
                for i in range(done, end):
                    state, metrics = step(state, batches[i])
                    history.append(metrics)
                history = jax.device_get(history)
                seconds = log.last.get("seconds", 0.0) + time.perf_counter() - began

                if not state.finite:
                    where = explain(denoiser, loss, prepare, state, batches[int(state.step)])
                    raise _diverged(state, where, checkpoints.latest)
                means = {name: float(np.mean([m[name] for m in history])) for name in ("loss", "grad_norm")}
                log.write({"step": end, **means, "seconds": seconds})
                if end == steps or end // checkpoint_every > done // checkpoint_every:
                    checkpoints.save(state)
                if on_log is not None:
                    on_log(dataclasses.replace(denoiser, params=state.ema), log.last)
                bar.update(end - done)
                bar.set_postfix(loss=f"{means['loss']:.4g}")
                done = end
    return dataclasses.replace(denoiser, params=state.ema)


def _resume(checkpoints: Checkpoints, fresh: TrainState, folder: Path, steps: int) -> TrainState:
    state = checkpoints.restore(fresh)
    if not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(fresh.key)):
        raise ValueError(f"{folder} holds a run with another key; give the key it was started with, or another folder")
    if state.step > steps:
        raise ValueError(f"steps = {steps}, but the run in {folder} has {state.step} already; ask for at least as many")
    return state


def _diverged(state: TrainState, where: str, checkpoint: int | None) -> Diverged:
    kept = "no checkpoint was saved yet" if checkpoint is None else f"the checkpoint at step {checkpoint} is kept"
    return Diverged(
        f"step {int(state.step)} is not finite, first in {where}. Nothing was updated from there on, and "
        f"{kept}. Look at the data and the loss of that step; if they are sound, lower the "
        "learning rate or clip harder",
        int(state.step),
    )
