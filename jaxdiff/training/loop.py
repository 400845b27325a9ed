"""The training loop: batches in, a denoiser out, everything about the run in one folder.

    folder/checkpoints/     the newest states, from which the same call continues, bit for bit
    folder/metrics.jsonl    {"step", "loss", "grad_norm", "seconds", ...} every `log_every` steps
    folder/lock             held while the run goes on

The device is asked for numbers only at the end of an interval of `log_every` steps, and a state is saved only there,
after its numbers were found finite; a preemption ends the interval early, and what it had so far is kept in the
checkpoint for the restart to go on with. At most two steps are on their way at a time.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from tqdm import tqdm

from jaxdiff.arrays import check_path
from jaxdiff.data.reading import read_from
from jaxdiff.processes import check_event
from jaxdiff.samplers.mesh import fetched
from jaxdiff.training import hosts
from jaxdiff.training.checkpoints import Checkpoints
from jaxdiff.training.lock import in_use
from jaxdiff.training.log import MetricsLog
from jaxdiff.training.mesh import make_mesh, place_batch
from jaxdiff.training.preemption import Preemption
from jaxdiff.training.speed import Speed
from jaxdiff.training.state import TrainState
from jaxdiff.training.step import Diverged, clipped_adam, explain, make_step, prepare_as_given

TOO_LARGE = 20.0  # times data_std: 0..255 where [-1, 1] is due is 250 times
LIBRARIES = ("jaxdiff", "jax", "jaxlib", "flax", "optax")  # whose versions may change the numbers


def _check_counts(**counts):
    for name, value in counts.items():
        if not (isinstance(value, int) and value > 0):
            raise ValueError(f"{name} = {value!r}; expected a whole number above 0")


def _first_batch(batches) -> dict:
    try:
        batch = batches[0]
    except IndexError as error:
        raise ValueError(
            "batches[0] does not exist: batches is empty or too short; give a batch for every step >= 0"
        ) from error
    for name, array in batch.items():
        if np.ndim(array) == 0 or len(array) == 0:
            raise ValueError(f"batches[0][{name!r}] has shape {np.shape(array)}; expected [batch, ...], batch > 0")
    return batch


def _check_batch(denoiser, loss, key, x0, cond) -> None:
    """Raise where the loss cannot be of this batch; cond has its values, so that labels out of range are seen."""
    check_event(x0, "x0 (batches[0], prepared)")
    jax.eval_shape(
        lambda params, x0: loss(dataclasses.replace(denoiser, params=params), key, x0, cond), denoiser.params, x0
    )
    expected = float(getattr(denoiser, "data_std", np.inf))
    found = float(np.sqrt(np.mean(np.square(np.asarray(x0, np.float64)))))
    if found > TOO_LARGE * expected:
        raise ValueError(
            f"x0 (batches[0], prepared) has root mean square {found:.3g}, but the denoiser has data_std = "
            f"{expected:.3g}; scale the data, images to [-1, 1] (jaxdiff.dequantize), or give the denoiser their "
            "standard deviation"
        )


def _identity(batch: dict) -> dict[str, Any]:
    """What a first batch says of the data, as JSON."""
    if hosts.several():
        batch = multihost_utils.process_allgather(batch, tiled=True)
    digest = hashlib.sha256()
    for name, array in sorted(batch.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    shapes = {name: [str(np.asarray(array).dtype), *np.shape(array)] for name, array in sorted(batch.items())}
    return {"batch": shapes, "first_batch": digest.hexdigest()[:16]}


def _check_identity(before: dict, now: dict, allow: tuple[str, ...], folder: Path) -> None:
    changed = [name for name in sorted(now) if before.get(name) != now[name] and name not in allow]
    if changed:
        what = "; ".join(f"{name}: {before.get(name)}, now {now[name]}" for name in changed)
        raise ValueError(
            f"{folder} holds a run with another {what}. Go on as it was, give another folder, or accept the difference "
            f"by name: allow {' '.join(changed)}"
        )


def _local(params):
    """Weights that this process can use alone; all processes must ask."""
    return fetched(params) if hosts.several() else params


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
    mesh: jax.sharding.Mesh | None = None,
    accumulate: int = 1,
    identity: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
    log_every: int = 50,
    checkpoint_every: int = 500,
    on_log: Callable | None = None,
    progress: bool = True,
):
    """Train `denoiser.params` to `steps` updates and return the denoiser with the averaged (EMA) weights.

    The same call on the same folder continues the run: 200 steps are bitwise 100, a restart and 100 more. It may go on
    on other devices and with other processes; the numbers are then the same but for the order of sums.

    Args:
        loss: `loss(denoiser, key, x0, cond) -> [batch]`; its mean is minimised.
        batches: `batches[step]` is a dict of arrays [batch, ...] that depends on the step (>= 0) alone; of several
            processes, each gives its rows of the batch.
        optimizer: by default `clipped_adam(steps)`.
        prepare: `prepare(key, batch) -> (x0, cond)` in the step; by default (batch["x"], batch.get("label")).
        mesh: by default `make_mesh()`, data parallel over all devices.
        accumulate: the parts a batch is computed in, one after another, before one update.
        identity: what else the run is made of (JSON): it goes on only with the same. The key, the first batch and the
            versions of the libraries count without being named.
        allow: names of what may differ from the run that is continued.
        checkpoint_every: a checkpoint is saved at the first log at or after each multiple, and at the end.
        on_log: `on_log(denoiser, metrics)` after each log: the denoiser with EMA weights, valid during the
            call only, and the line just written, whose `seconds` is the time spent in steps so far. The numbers that it
            returns, a dict or None, are in all later lines, too.

    Raises:
        Diverged: a loss, gradient or update was not finite: at which step, where, and what to do. The
            checkpoints and metrics of the finite steps before stay in place.
        Preempted, KeyboardInterrupt: SIGTERM or Ctrl-C came; the run is saved. A second Ctrl-C ends the process.
        OSError: a checkpoint could not be written; those before are in place.
        TypeError, ValueError: before the first step, for settings or a first batch that cannot work, and for
            a checkpoint that belongs to another run, is damaged, or whose folder is in use.
    """
    _check_counts(steps=steps, log_every=log_every, checkpoint_every=checkpoint_every, accumulate=accumulate)
    optimizer = clipped_adam(steps) if optimizer is None else optimizer
    mesh = make_mesh() if mesh is None else mesh
    update = make_step(denoiser, loss, optimizer, ema_decay, prepare, mesh, accumulate)
    state = TrainState.create(key, denoiser.params, optimizer, mesh)
    folder = check_path("folder", folder)

    now = {
        "key": jax.random.key_data(key).tolist(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        **(identity or {}),
    }

    with contextlib.ExitStack() as held:
        held.enter_context(hosts.failing_together(folder))
        hosts.agree(folder, now | {"steps": steps, "mesh": mesh.shape})
        held.enter_context(in_use(folder))
        preemption = held.enter_context(Preemption())
        checkpoints = held.enter_context(Checkpoints(folder / "checkpoints"))
        done = checkpoints.latest or 0
        if done:
            _check_identity(checkpoints.manifest["identity"], now, allow, folder)
            state = checkpoints.restore(state)
        if done > steps:
            raise ValueError(f"steps = {steps}, but the run in {folder} has {done} already; ask for at least as many")
        if done == steps:
            return dataclasses.replace(denoiser, params=_local(state.ema))

        batch = _first_batch(batches)
        _check_batch(denoiser, loss, key, *jax.jit(prepare)(key, batch))
        now |= _identity(batch)
        if done:
            _check_identity(checkpoints.manifest["identity"], now, allow, folder)
        history = checkpoints.manifest.get("interval", [])  # of an interval that a preemption cut short
        first_batch = place_batch(mesh, batch)
        compiled = update.lower(state, first_batch).compile()
        speed = Speed(compiled, mesh, len(jax.tree.leaves(first_batch)[0]))
        log_path = folder / "metrics.jsonl" if hosts.first() else None

        def save(history):
            checkpoints.save(state, identity=now, data={"next_index": int(state.step)}, interval=history)

        with (
            MetricsLog(log_path, done - len(history)) as log,
            tqdm(total=steps, initial=done, unit="step", disable=not (progress and hosts.first())) as bar,
            preemption.held(),
        ):
            source = read_from(batches, done)
            stop, noted = False, {}
            while done < steps:
                start = done // log_every * log_every
                end = min(steps, start + log_every)
                began = time.perf_counter()
                fresh = []
                while done < end and not stop:
                    state, metrics = compiled(state, place_batch(mesh, next(source)))
                    fresh.append(metrics)
                    if len(fresh) > 1:
                        fresh[-2]["loss"].block_until_ready()
                    done += 1
                    stop = preemption.requested(done)
                numbers = [{name: float(value) for name, value in m.items()} for m in jax.device_get(fresh)]
                history = history + numbers
                spent = time.perf_counter() - began

                if not state.finite:
                    batch = place_batch(mesh, batches[int(state.step)])
                    where = explain(denoiser, loss, optimizer, prepare, mesh, accumulate, state, batch)
                    raise _diverged(state, where, checkpoints.latest)
                checkpoints.check()
                if done == end:
                    means = {name: float(np.mean([m[name] for m in history])) for name in ("loss", "grad_norm")}
                    seconds = log.last.get("seconds", 0.0) + spent
                    log.write({"step": end, **means, "seconds": seconds, **speed(len(fresh), spent), **noted})
                    history = []
                    bar.set_postfix(loss=f"{means['loss']:.4g}")
                bar.update(done - bar.n)
                if stop or done == steps or end // checkpoint_every > start // checkpoint_every:
                    save(history)
                if stop or done == steps:
                    checkpoints.check(wait=True)
                if stop:
                    preemption.leave(done)
                if on_log is not None:
                    averaged = dataclasses.replace(denoiser, params=_local(state.ema))
                    noted |= on_log(averaged, log.last) or {}
        return dataclasses.replace(denoiser, params=_local(state.ema))


def _diverged(state: TrainState, where: str, checkpoint: int | None) -> Diverged:
    kept = "no checkpoint was saved yet" if checkpoint is None else f"the checkpoint at step {checkpoint} is kept"
    return Diverged(
        f"step {int(state.step)} is not finite, first in {where}. Nothing was updated from there on, and "
        f"{kept}. Look at the data and the loss of that step; if they are sound, lower the "
        "learning rate or clip harder",
        int(state.step),
    )
