"""The training loop: batches in, a denoiser out, everything about the run in one folder.

    folder/checkpoints/     the newest states, from which the same call continues, bit for bit
    folder/metrics.jsonl    {"step", "loss", "grad_norm", "seconds", ...} every `log_every` steps
    folder/lock             held while the run goes on

The device is asked for numbers only at the end of an interval of `log_every` steps, and a state is saved only there,
after its numbers were found finite; a preemption ends the interval early, and what it had so far is kept in the
checkpoint for the restart to go on with. At most two steps are on their way at a time.
"""

import contextlib
import operator
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxdiff.arrays import as_argument, check_function, check_path
from jaxdiff.arrays.mesh import fetched, place_batch, training_mesh
from jaxdiff.data.reading import by_step, check_length, fingerprint_of, first_batch, read_from
from jaxdiff.denoisers import innermost, no_label_of, warn_uncovered, with_params
from jaxdiff.losses.counted import called
from jaxdiff.losses.inputs import check_examples
from jaxdiff.processes import Process
from jaxdiff.training import hosts, labels
from jaxdiff.training.checkpoints import Checkpoints
from jaxdiff.training.identity import (
    LATER,
    as_recorded_now,
    check,
    check_draws,
    check_known,
    check_names,
    figures,
    of_batch,
    of_settings,
    same_weights,
)
from jaxdiff.training.lock import in_use
from jaxdiff.training.log import MetricsLog
from jaxdiff.training.preemption import Preemption
from jaxdiff.training.speed import Speed, Waiting
from jaxdiff.training.state import TrainState, check_optimizer, check_trainable
from jaxdiff.training.step import (
    Diverged,
    check_parts,
    clipped_adam,
    explain,
    make_step,
    prepare_as_given,
    prepared_by,
)

MOST = 2**31 - 1  # steps, an int32
TOO_LARGE = 20.0  # times data_std: 0..255 where [-1, 1] is due is 250 times
FAR = 3.0  # a mean beyond so many standard deviations
ENOUGH = 8  # values from which a standard deviation is measured


def _counts(**counts) -> Iterator[int]:
    for name, value in counts.items():
        try:
            whole = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            whole = -1
        if whole < 1:
            raise ValueError(f"{name} = {value!r}; expected a whole number above 0")
        yield whole


def _check_batch(denoiser, loss, key, x0, cond, weight) -> None:
    """Raise where the loss does not take this batch. What holds values here is checked by them, labels among it."""
    check_examples(loss, denoiser, x0, cond, "x0 (batches[0], prepared)")
    losses = lambda params, x0: called(loss, with_params(denoiser, params), key, x0, cond, weight)
    jax.eval_shape(losses, denoiser.params, x0)
    process = getattr(denoiser, "process", None)
    split = process.split if isinstance(process, Process) else lambda tree, name: [tree]
    parts, data_std = split(x0, "x0"), getattr(innermost(denoiser), "data_std", None)
    for part, expected in zip(parts, [None] * len(parts) if data_std is None else split(data_std, "data_std")):
        if not jnp.issubdtype(part.dtype, jnp.floating):
            continue
        values = np.asarray(part, np.float64)
        expected = float(np.max(np.inf if expected is None else expected))
        found = float(np.sqrt(np.mean(np.square(values))))
        if found > TOO_LARGE * expected:
            raise ValueError(
                f"x0 (batches[0], prepared) has root mean square {found:.3g}, but the denoiser has data_std = "
                f"{expected:.3g}; scale the data, images to [-1, 1] (jaxdiff.dequantize), or give the denoiser their "
                "standard deviation"
            )
        if isinstance(process, Process):
            _warn_far(values)
    if isinstance(process, Process):
        warn_uncovered(denoiser)


def _warn_far(x0: np.ndarray) -> None:
    """Warn where the mean is far from 0 beside the standard deviation, each taken over the values of the last axis."""
    columns = x0.reshape(-1, x0.shape[-1])
    mean, std = (float(np.sqrt(np.mean(part))) for part in (columns.mean(0) ** 2, columns.var(0)))
    if len(columns) >= ENOUGH and mean > FAR * std:
        warnings.warn(
            f"x0 (batches[0], prepared) has a mean of size {mean:.3g} and a standard deviation of {std:.3g}: a network "
            "spends itself on the mean, and the model is worse for it. Subtract the mean of the data, and add it to "
            "samples",
            UserWarning,
            stacklevel=4,
        )


def _local(params):
    """Gather the weights to this process. A collective: every process must call it."""
    return fetched(params) if hosts.several() else params


def train(
    key: jax.Array,
    folder: str | os.PathLike,
    denoiser,
    loss: Callable,
    batches,
    *,
    steps: int,
    optimizer: optax.GradientTransformation | Callable | None = None,
    ema_decay: float = 0.999,
    prepare: Callable = prepare_as_given,
    mesh: jax.sharding.Mesh | None = None,
    accumulate: int = 1,
    identity: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    log_every: int = 50,
    checkpoint_every: int = 500,
    on_log: Callable | None = None,
    extra: Callable[[], Mapping[str, float]] = dict,
    progress: bool = True,
):
    """Train `denoiser.params` to `steps` updates and return the denoiser with the averaged (EMA) weights.

    The same call on the same folder continues the run: 200 steps are bitwise 100, a kill and 100 more. It may go on on
    other devices and with other processes; the numbers are then the same but for the order of sums (with "rbg" keys
    also for the noise, which another kind of device draws otherwise). A run of other parts than those it began
    with is refused, finished or not, unless `allow` names them.

    More steps may be asked of a run, finished or not. Where `optimizer` is an optimiser the run goes on under it: with
    a constant rate 200 steps are bitwise 100 and 100 more. Where it is a function of the steps, as by default, the
    steps asked for first keep their schedule, at whose end the rate is 0, and those added get one of their own: the
    rate rises and falls once more, which a warning says. Fewer steps end such a run early, on the schedule it has.

    Args:
        denoiser: a pytree with `params`: a `jaxdiff.Denoiser`, a bridge, a `jaxdiff.likelihood.Variational`, or one of
            your own. Where the params are no field of that name it has `with_params(params)`, which puts others in
            their place, whatever their leaves, as `jaxdiff.denoisers.WithProcess`.
        loss: `loss(denoiser, key, x0, cond) -> [batch]`, a function or a pytree; its mean is minimised. Where there is
            a weight it is called with `weight=`, and one that takes none is refused. Its method
            `check(denoiser, x0, cond)`, where it has one, in place of the process's `check`, raises for what is no
            batch of its data. Under `jaxdiff.losses.ConditionDropout(loss)` the denoiser can be guided afterwards
            (`jaxdiff.guidance.ClassifierFree`), and has the share of examples without condition as `condition_dropout`.
        batches: `batches[step]` is a dict of arrays [batch, ...] that depends on the step (>= 0) alone, all of the same
            shapes: `jaxdiff.data.batches`, a `grain.MapDataset`, a list. A Grain data set of one epoch is repeated,
            each epoch in an order of its own. Of several processes, each gives its rows of the batch. None will do for
            a finished run, whose data are then not compared.
        optimizer: of optax, or a function that makes one of the steps at which its schedules end: (100,), or (100, 200)
            for a run of 100 steps of which 200 are asked. By default `clipped_adam`.
        prepare: `prepare(key, batch) -> (x0, cond)` in the step; by default batch["x"] and "label", other named parts
            of a condition or "cond", where the batch has them (`prepare_as_given`). x0 is what the process takes: an
            array, or a tree of them for a product. `(x0, cond, weight)`, as where the batch has a "weight" of the shape
            of "x", learns what is 1 in it, given what is 0 (`jaxdiff.losses.counted`). One that holds weights, such as
            an encoder's, is a pytree: `jax.tree_util.Partial(encode, weights)`.
        mesh: by default `make_mesh()`, data parallel over all devices.
        accumulate: the parts a batch is computed in, one after another, before one update. A coupling pairs the
            examples of each part.
        identity: what else the run is made of (JSON): it goes on only with the same. All arguments that decide the
            numbers, all data of `jaxdiff.data.batches`, the first batch of others and the versions of the libraries
            count without being named.
        allow: names of what may differ from the run that is continued.
        checkpoint_every: a checkpoint is saved at the first log at or after each multiple, and at the end.
        on_log: `on_log(denoiser, metrics)` after each log: the denoiser with EMA weights, valid during the
            call only, and the line just written, whose `seconds` is the time spent in steps so far, and `waiting` the
            share of the time since the last line in which the devices waited for batches.
        extra: `extra()` gives numbers that each line has beside the loop's own.

    Warns (UserWarning) of data whose mean is far from 0 beside their standard deviation, or whose spread the process's
    noise does not cover; once, where the devices wait for batches for more than half of the time.

    Raises:
        Diverged: a loss, gradient or update was not finite: at which step, where, and what to do. The
            checkpoints and metrics of the finite steps before stay in place.
        Preempted, KeyboardInterrupt: SIGTERM or Ctrl-C came; the run is saved. A second Ctrl-C ends the process.
        OSError: a checkpoint could not be written; those before are in place.
        TypeError, ValueError: before the first step, for settings or a first batch that cannot work, and for
            a checkpoint that belongs to another run, is damaged, or whose folder is in use; at a step, for a batch
            unlike the first.
    """
    steps, log_every, checkpoint_every, accumulate = _counts(
        steps=steps, log_every=log_every, checkpoint_every=checkpoint_every, accumulate=accumulate
    )
    if steps > MOST:
        raise ValueError(f"steps = {steps}; expected at most {MOST}, which a step counts up to")
    check_parts(denoiser, loss, ema_decay, prepare, accumulate)
    check_trainable(key, denoiser.params)
    if jax.tree_util.all_leaves([denoiser.params]):
        raise TypeError("denoiser.params is a single array; expected a tree of arrays, such as a dict with that one")
    if on_log is not None:
        check_function("on_log", on_log, "a function (denoiser, metrics)")
    check_names(allow)
    mesh = training_mesh(mesh)
    given: Any = clipped_adam if optimizer is None else optimizer
    scheduled = not hasattr(given, "update")
    if scheduled:
        check_function("optimizer", given, "one of optax, such as optax.adam(1e-3), or a function of the steps")
    check_optimizer(given((steps,)) if scheduled else given)
    folder = check_path("folder", folder)
    settings = {"loss": loss, "optimizer": given, "ema_decay": ema_decay, "prepare": prepare, "accumulate": accumulate}
    now = of_settings(key, denoiser, identity, **settings)
    batches = None if batches is None else by_step(batches)
    if "data" not in now and (data := fingerprint_of(batches)):
        now["data"] = data

    with contextlib.ExitStack() as held:
        held.enter_context(hosts.failing_together(folder))
        hosts.agree(folder, now | {"steps": steps, "mesh": mesh.shape})
        held.enter_context(in_use(folder))
        preemption = held.enter_context(Preemption())
        checkpoints = held.enter_context(Checkpoints(folder / "checkpoints"))
        done = checkpoints.latest or 0
        before = as_recorded_now(checkpoints.manifest.get("identity", {}))
        if done:
            check_draws(before, folder)
        check_known(allow, {*before, *now, *LATER})
        ends = before.get("schedule", [steps])
        longer = [*ends, steps] if scheduled and steps > ends[-1] else ends
        now |= {"schedule": ends} if scheduled else {}
        chosen = given(tuple(longer)) if scheduled else given
        if batches is not None:
            batch = first_batch(batches)
            x0, cond, weight = jax.jit(prepared_by)(as_argument("prepare", prepare), key, batch)
            share = labels.share_dropped(prepare, key, batch, cond, loss, no_label_of(denoiser))
            now |= of_batch(batch) | {"condition_dropout": share}
        elif done == steps:
            of_data: Any = {name: before.get(name) for name in ("data", *LATER[:3])}
            now = of_data | now
        else:
            raise TypeError(f"batches = None, but the run in {folder} has {done} of its {steps} steps; give batches")
        state = TrainState.create(key, denoiser.params, chosen, mesh)
        if done:
            state = checkpoints.restore(state)
            if not same_weights(kept := before.get("initial_weights"), now["initial_weights"]) and same_weights(
                figures(_local(state.averaged)), now["initial_weights"]
            ):
                now["initial_weights"] = kept  # a run that is given what it returned goes on
            check(before, now, allow, folder)
        if done > steps:
            raise ValueError(f"steps = {steps}, but the run in {folder} has {done} already; ask for at least as many")
        if now["condition_dropout"] is not None:
            denoiser = labels.recorded(denoiser, now["condition_dropout"])
        trained = lambda: with_params(denoiser, _local(state.averaged))
        if done == steps:
            return trained()
        if longer != ends:
            now["schedule"] = longer
            warnings.warn(
                f"the schedule of the run in {folder} ends at {ends[-1]} steps; those from there to {steps} get one of "
                "their own (a warm restart), which is not the schedule of a run of so many steps from the start",
                UserWarning,
                stacklevel=2,
            )

        _check_batch(denoiser, loss, key, x0, cond, weight)
        check_length(batches, steps)
        history = checkpoints.manifest.get("interval", [])  # of an interval that a preemption cut short
        log = held.enter_context(MetricsLog(folder / "metrics.jsonl" if hosts.first() else None, done - len(history)))
        update = make_step(denoiser, loss, chosen, ema_decay, prepare, mesh, accumulate)
        placed = place_batch(mesh, batch)
        compiled = update.lower(state, placed).compile()
        watch = labels.Watch(prepare, key, denoiser, mesh)
        speed, waiting = Speed(compiled, mesh, len(jax.tree.leaves(placed)[0])), Waiting()

        def save(history):
            checkpoints.save(state, identity=now, data={"next_index": int(state.step)}, interval=history)

        with (
            tqdm(total=steps, initial=done, unit="step", disable=not (progress and hosts.first())) as bar,
            preemption.held(),
        ):
            source = read_from(batches, done, batch)
            stop = False
            while done < steps:
                start = done // log_every * log_every
                end = min(steps, start + log_every)
                began = time.perf_counter()
                fresh = []
                while done < end and not stop:
                    rows = waiting.next(source, fresh[-1]["loss"] if fresh else None)
                    placed = place_batch(mesh, rows)
                    watch(done, rows, placed)
                    state, metrics = compiled(state, placed, *update.parts)
                    fresh.append(metrics)
                    waiting.measure(metrics["loss"])
                    if len(fresh) > 1:
                        fresh[-2]["loss"].block_until_ready()
                    done += 1
                    stop = preemption.requested(done)
                numbers = [{name: float(value) for name, value in m.items()} for m in jax.device_get(fresh)]
                history = history + numbers
                spent = time.perf_counter() - began

                watch.check(batches)
                if not state.finite:
                    assert batches is not None
                    batch = place_batch(mesh, batches[int(state.step)])
                    where = explain(update, chosen, mesh, accumulate, state, batch)
                    raise _diverged(state, where, checkpoints.latest)
                checkpoints.check()
                if done == end:
                    means = {name: float(np.mean([m[name] for m in history])) for name in ("loss", "grad_norm")}
                    seconds = log.last.get("seconds", 0.0) + spent
                    rates = speed(len(fresh), spent) | waiting(spent)
                    log.write({"step": end, **means, "seconds": seconds, **rates, **extra()})
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
                    on_log(trained(), log.last)
        return trained()


def _diverged(state: TrainState, where: str, checkpoint: int | None) -> Diverged:
    kept = "no checkpoint was saved yet" if checkpoint is None else f"the checkpoint at step {checkpoint} is kept"
    return Diverged(
        f"step {int(state.step)} is not finite, first in {where}. Nothing was updated from there on, and "
        f"{kept}. Look at the data and the loss of that step; if they are sound, lower the "
        "learning rate or clip harder",
        int(state.step),
    )
