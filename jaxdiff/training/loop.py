"""The training loop: batches in, a denoiser out, everything about the run in one folder.

    folder/checkpoints/     the newest states, from which the same call continues, bit for bit
    folder/metrics.jsonl    {"step", "loss", "grad_norm", "seconds", ...} every `log_every` steps
    folder/lock             locked while the run is active

Numbers are fetched from the device only at the end of an interval of `log_every` steps, and a state is saved only
there, once its numbers are known to be finite. A preemption ends the interval early, and the checkpoint keeps the
interval's metrics so far for the restart. At most two steps are in flight at a time.
"""

import contextlib
import logging
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
from jaxdiff.arrays.mesh import fetched, free, place_batch, training_mesh
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

_log = logging.getLogger(__name__)
MOST = 2**31 - 1  # the most steps, an int32
TOO_LARGE = 20.0  # root mean square over data_std that is an error; 0..255 in place of [-1, 1] gives about 250
FAR = 3.0  # mean over standard deviation that is warned of
ENOUGH = 8  # the fewest values from which a standard deviation is measured


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
    """Raise if the loss does not take this batch. Concrete values are validated too, labels among them."""
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
    """Warn if the mean is large compared with the standard deviation, each measured per value of the last axis."""
    columns = x0.reshape(-1, x0.shape[-1])
    mean, std = (float(np.sqrt(np.mean(part))) for part in (columns.mean(0) ** 2, columns.var(0)))
    if len(columns) >= ENOUGH and mean > FAR * std:
        warnings.warn(
            f"x0 (batches[0], prepared) has a mean of size {mean:.3g} and a standard deviation of {std:.3g}: the "
            "network spends capacity on the mean, and the model is worse. Subtract the mean of the data, and add it to "
            "samples",
            UserWarning,
            stacklevel=4,
        )


def _local(params):
    """Gather the weights to this process. A collective: every process must call it."""
    return fetched(params) if hosts.several() else free(params)


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
    """Train a denoiser, or continue a run, and keep everything about the run in one folder.

    The same call on the same folder continues the run: 200 steps are bitwise equal to 100 steps, a kill and 100 more. A
    run may continue on other devices and with another number of processes; the numbers are then the same up to the
    order of sums (with "rbg" keys the noise differs too, since it depends on the kind of device). A run is rejected,
    finished or not, if parts of it differ from those it began with, unless `allow` names them.

    `steps` may be raised, also for a finished run. If `optimizer` is an optimiser, the run continues with it: with a
    constant learning rate, 200 steps are bitwise equal to 100 and then 100 more. If it is a function of the steps, as
    by default, the first steps keep their schedule, which ends at a rate of 0, and the added steps get a schedule of
    their own: the rate rises and falls once more (a warm restart), with a warning. If `steps` is lowered, such a run
    ends early on the schedule it has.

    Args:
        key: one typed key; step k uses fold_in(key, k).
        folder: the run's folder; made if missing.
        denoiser: a pytree with `params`: a `jaxdiff.Denoiser`, a bridge, a `jaxdiff.likelihood.Variational`, or one of
            your own. If `params` is not a field, the denoiser must have a method `with_params(params)` that returns a
            copy with other weights, as `jaxdiff.denoisers.WithProcess` has.
        loss: `loss(denoiser, key, x0, cond) -> [batch]`, a function or a pytree; its mean is minimised. It is called
            with `weight=` if `prepare` returns a weight, which it must then take. A method
            `check(denoiser, x0, cond)`, if it has one, validates batches in place of the process's `check`. After
            training with `jaxdiff.losses.ConditionDropout(loss)` the denoiser can be guided
            (`jaxdiff.guidance.ClassifierFree`).
        batches: `batches[step]` is a dict of arrays `[batch, ...]` of constant shapes that depends on the step (from 0)
            alone: `jaxdiff.data.batches`, a `grain.MapDataset` or a list. A Grain data set of one epoch is repeated,
            each epoch in its own order. With several processes, each gives its rows of the batch. None is enough for a
            finished run, whose data are then not compared.
        steps: how many updates the run has in the end.
        optimizer: an optax optimiser, or a function that takes the steps at which schedules end and returns one:
            (100,), or (100, 200) for a run of 100 steps that was raised to 200. None means `clipped_adam`.
        ema_decay: the decay of the moving average of the weights, in [0, 1).
        prepare: `prepare(key, batch) -> (x0, cond)` or `(x0, cond, weight)`, compiled into the step; by default
            `prepare_as_given`. x0 is what the process takes: an array, or a tree of arrays for a product. A weight, of
            the shape of x0, is 1 for values to learn and 0 for values that are given (`jaxdiff.losses.counted`). A
            `prepare` that holds weights, such as an encoder's, is a pytree: `jax.tree_util.Partial(encode, weights)`.
        mesh: the devices; None means `make_mesh()`, data parallel over all of them.
        accumulate: into how many parts a batch is split; their gradients are computed one after another and averaged.
            A coupling pairs the examples within each part.
        identity: more parts of the run's identity (JSON). These are recorded always: the arguments that decide the
            numbers, a hash of the data of `jaxdiff.data.batches` or of the first batch of other data, and the versions
            of the libraries.
        allow: names of parts that may differ from the run that is continued.
        log_every: the number of steps between two lines of metrics.jsonl.
        checkpoint_every: a checkpoint is saved at the first log at or after each multiple of it, and at the end.
        on_log: `on_log(denoiser, metrics)`, called after each log with the denoiser with EMA weights, which is valid
            during the call only, and the line just written. In it `seconds` is the time spent in steps so far, and
            `waiting` the share of the time since the last line in which the devices waited for batches.
        extra: `extra()` returns more numbers for each line.
        progress: whether to show a progress bar.

    Returns:
        `denoiser` with the averaged (EMA) weights, and with the share of examples that were trained without a condition
        as `condition_dropout`.

    Raises:
        Diverged: if a loss, gradient or update is not finite. The checkpoints and metrics of the steps before are kept.
        Preempted: after a SIGTERM, once the run is saved.
        KeyboardInterrupt: after Ctrl-C, once the run is saved. A second Ctrl-C ends the process.
        OSError: if a checkpoint cannot be written. Earlier checkpoints are kept.
        TypeError: before the first step, for arguments of the wrong type.
        ValueError: before the first step, for arguments or a first batch that cannot work, for a checkpoint that is
            damaged or belongs to another run, and for a folder in use; at a step, for a batch unlike the first.

    Warns:
        UserWarning: if the mean of the data is large compared with their standard deviation; if the noise of the
            process does not cover their spread; once, if the devices wait for batches more than half of the time.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params["scale"] * x
        >>> denoiser = jd.Denoiser(network, {"scale": jnp.zeros(2)}, jd.VP())
        >>> batches = jd.data.batches({"x": jax.random.normal(jax.random.key(1), (64, 2))}, 16, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained = jd.training.train(
        ...         jax.random.key(0), folder, denoiser, jd.losses.Denoising(), batches, steps=2, progress=False
        ...     )
        ...     jd.training.saved_steps(folder)
        [2]
        >>> trained.params["scale"].shape
        (2,)
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
                now["initial_weights"] = kept  # a run may continue from the denoiser that it returned
            check(before, now, allow, folder)
        if done > steps:
            raise ValueError(f"steps = {steps}, but the run in {folder} has {done} already; ask for at least as many")
        if now["condition_dropout"] is not None:
            denoiser = labels.recorded(denoiser, now["condition_dropout"])
        trained = lambda: with_params(denoiser, _local(state.averaged))
        if done == steps:
            return trained()
        if done and hosts.first():
            _log.info("resuming from step %d of %d, in %s", done, steps, folder)
        if longer != ends:
            now["schedule"] = longer
            warnings.warn(
                f"the schedule of the run in {folder} ends at {ends[-1]} steps; the steps from there to {steps} get a "
                "schedule of their own (a warm restart), unlike a run that has that many steps from the start",
                UserWarning,
                stacklevel=2,
            )

        _check_batch(denoiser, loss, key, x0, cond, weight)
        check_length(batches, steps)
        history = checkpoints.manifest.get("interval", [])  # metrics of an interval that a preemption ended early
        log = held.enter_context(MetricsLog(folder / "metrics.jsonl" if hosts.first() else None, done - len(history)))
        update = make_step(denoiser, loss, chosen, ema_decay, prepare, mesh, accumulate)
        placed = place_batch(mesh, batch)
        show = progress and hosts.first()
        bar = held.enter_context(tqdm(total=steps, initial=done, unit="step", desc="compiling", disable=not show))
        compiled = update.lower(state, placed).compile()
        bar.set_description()
        bar.unpause()  # its rate is that of the steps
        watch = labels.Watch(prepare, key, denoiser, mesh)
        speed, waiting = Speed(compiled, mesh, len(jax.tree.leaves(placed)[0])), Waiting()

        def save(history):
            checkpoints.save(state, identity=now, data={"next_index": int(state.step)}, interval=history)

        with preemption.held():
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
        f"{kept}. Check the data and the loss of that step; if they are sound, lower the learning rate or the clip",
        int(state.step),
    )
