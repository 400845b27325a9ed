"""One update, compiled once.

Step k draws its randomness from fold_in(key, k). The decay of the moving average warms up, so that the initial weights
are forgotten early:

    ema <- d ema + (1 - d) params,      d = min(ema_decay, (1 + k) / (10 + k)).

A loss, gradient or update that is not finite changes nothing: the state keeps what it held before that step.

With `accumulate` = k the batch is processed in k parts, one after another, each with its own noise, and the update uses
the mean of their gradients. This needs the memory of a k-th of the batch. Part i takes every k-th example from the i-th
on, so that each device works on its own examples throughout.

The model, the loss and `prepare` are arguments of the compiled function like the state. The arrays they hold, such as
a teacher's weights, are therefore not constants of the program, and new values do not recompile it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.arrays import as_argument, check_function, check_scalar, check_whole, count, said
from jaxdiff.arrays.mesh import batch_sharding, on_mesh, replicated, sharded, state_sharding, training_mesh
from jaxdiff.denoisers import with_params
from jaxdiff.denoisers.condition import PARTS
from jaxdiff.losses.counted import called
from jaxdiff.losses.inputs import check_examples
from jaxdiff.training.alike import updated
from jaxdiff.training.flat import flat
from jaxdiff.training.state import TrainState, check_optimizer


class Diverged(FloatingPointError):
    """Raised by training when a loss, gradient or update is not finite.

    The message says where the first non-finite number appeared: in the data, parameters, losses, gradients or updates.

    Args:
        message: what is not finite, and what to do.
        step: the index of the step, from 0.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params["w"] * x, {"w": jnp.ones(1)}, jd.VP())
        >>> loss = lambda denoiser, key, x0, cond: jnp.log(-jnp.square(denoiser.params["w"] * x0[:, 0]))
        >>> batches = [{"x": jnp.linspace(-1, 1, 8)[:, None]}] * 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         jd.training.train(jax.random.key(0), folder, denoiser, loss, batches, steps=2, progress=False)
        ...     except jd.training.Diverged as error:
        ...         error.step
        0
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def prepare_as_given(key, batch: dict):
    """Return (x0, cond) of a batch that needs no preparation: the default `prepare` of `train`.

    Args:
        key: not used.
        batch: a dict with "x", the data; the condition, either as "cond" or as its parts "label", "vector", "image",
            "level", "tokens" and "token_mask"; and "weight", of the shape of "x", 1 for values to learn and 0 for
            values that are given. All but "x" may be missing.

    Returns:
        (x0, cond), or (x0, cond, weight) if the batch has a "weight". A label alone is `cond` itself; other parts are a
        dictionary.

    Raises:
        KeyError: if the batch has no "x".
        ValueError: if it has anything else, which would not be read.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.training import prepare_as_given
        >>> x0, cond = prepare_as_given(jax.random.key(0), {"x": jnp.zeros((4, 2)), "label": jnp.arange(4)})
        >>> x0.shape, cond.shape
        ((4, 2), (4,))
    """
    if "x" not in batch:
        raise KeyError(f'batch has {sorted(batch)} and no "x"; name the data "x", or give train a `prepare`')
    parts = {} if "cond" in batch else {name: batch[name] for name in PARTS if name in batch}
    if unread := sorted(batch.keys() - {"x", "cond", "weight", *parts}):
        raise ValueError(
            f'batch has {sorted(batch)}, of which {unread} would not be read; name what the model is given "cond", or '
            f'its parts {", ".join(PARTS)}, what counts of x "weight", leave the others out, or give train '
            "a `prepare` that reads them"
        )
    cond = parts["label"] if [*parts] == ["label"] else parts or batch.get("cond")
    return (batch["x"], cond, batch["weight"]) if "weight" in batch else (batch["x"], cond)


def clipped_adam(
    steps: int | Sequence[int], learning_rate: float = 1e-3, warmup: float = 0.05, clip: float = 1.0
) -> optax.GradientTransformation:
    """Adam with a clipped gradient norm, a linear warmup and a cosine decay to 0: the default optimiser of `train`.

    Args:
        steps: the number of steps, or several rising numbers, such as (100, 200): from each to the next the learning
            rate rises and falls once more (a warm restart).
        learning_rate: the peak of the learning rate.
        warmup: the fraction of the steps over which the learning rate rises, in [0, 1).
        clip: the largest global norm of the gradient.

    Source:
        Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdiff.training import clipped_adam
        >>> optimizer = clipped_adam(steps=100, learning_rate=0.01, warmup=0.0)
        >>> params = {"w": jnp.zeros(1)}
        >>> updates, state = jax.jit(optimizer.update)({"w": jnp.ones(1)}, optimizer.init(params))
        >>> round(float(updates["w"][0]), 3)  # Adam's first update is the learning rate against the gradient's sign
        -0.01
    """
    ends = [check_whole("steps", end) for end in (steps if isinstance(steps, tuple | list) else [steps])]
    lengths = np.diff([0, *ends])
    if not ends or lengths.min() < 1:
        raise ValueError(f"steps = {steps}; expected one whole number, or several that rise")
    check_scalar("learning_rate", learning_rate, above=0)
    check_scalar("clip", clip, above=0, most=math.inf)
    check_scalar("warmup", warmup, least=0, below=1, noun="a fraction of the steps")

    def once(length: int):
        rising = int(warmup * length)
        return optax.warmup_cosine_decay_schedule(learning_rate / (rising + 1), learning_rate, rising, length)

    schedule = once(ends[0]) if len(ends) == 1 else optax.join_schedules([*map(once, lengths.tolist())], ends[:-1])
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule))


def hollow(denoiser) -> Any:
    """`denoiser` without its weights, which a step takes from its state."""
    return with_params(denoiser, jax.tree.map(lambda leaf: None, denoiser.params))


def _example_losses(denoiser, loss, params, key, x0, cond, weight) -> jax.Array:
    losses = called(loss, with_params(denoiser, params), key, x0, cond, weight)
    if losses.shape != (count(x0),):
        shapes = x0.shape if hasattr(x0, "shape") else jax.tree.map(np.shape, x0)
        raise ValueError(f"loss gave shape {losses.shape} for x0 {shapes}; expected one number per example, [batch]")
    return losses


def _parts(key, examples: tuple, accumulate: int) -> tuple:
    """(keys, x0, cond, weight) of the parts of a batch, along a new first axis."""
    if accumulate == 1:
        return jax.tree.map(lambda array: array[None], (key, *examples))
    split = lambda array: array.reshape(-1, accumulate, *array.shape[1:]).swapaxes(0, 1)
    return jax.random.split(key, accumulate), *jax.tree.map(split, examples)


def _towards(rate, new, mean):
    """`mean` moved by `rate` towards `new`, in the type of `mean`."""
    rate = rate.astype(mean.dtype)
    return rate * new.astype(mean.dtype) + (1 - rate) * mean


def check_parts(denoiser, loss, ema_decay, prepare, accumulate) -> None:
    """Raise TypeError or ValueError for arguments that do not make a step."""
    if not dataclasses.is_dataclass(denoiser) or isinstance(denoiser, type) or not hasattr(denoiser, "params"):
        raise TypeError(
            f"denoiser = {said(denoiser)}; expected one with `params` to train, such as "
            "jaxdiff.Denoiser(network, params, process)"
        )
    as_argument("denoiser", denoiser)
    check_function("loss", loss, "a function (denoiser, key, x0, cond) -> [batch], such as jaxdiff.losses.Denoising()")
    as_argument("loss", loss)
    check_function("prepare", prepare, "a function (key, batch) -> (x0, cond) or (x0, cond, weight)")
    as_argument("prepare", prepare)
    check_scalar("ema_decay", ema_decay)
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay = {ema_decay}; expected 0 <= ema_decay < 1, for instance 0.999")
    check_whole("accumulate", accumulate, noun="part of a batch")


def prepared_by(prepare: Callable, key, batch: dict) -> tuple[Any, Any, Any]:
    """(x0, cond, weight) of `prepare`, weight None if it returns none; TypeError for anything but such a tuple."""
    made = prepare(key, batch)
    if not isinstance(made, tuple | list) or len(made) not in (2, 3):
        raise TypeError(
            f"prepare returned {said(made)}; expected (x0, cond), cond None if there is none, or (x0, cond, weight)"
        )
    return made[0], made[1], made[2] if len(made) == 3 else None


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled update, `(state, batch) -> (state, {"loss", "grad_norm"})`. It donates its state.

    `update(state, batch, denoiser, loss, prepare)` is the jitted function. `dataclasses.replace(step, loss=...)` with a
    loss or a model of the same pytree structure does not recompile it.
    """

    update: Callable
    denoiser: Any
    loss: Any
    prepare: Any

    @property
    def parts(self) -> tuple:
        """The arguments of `update` after the state and the batch."""
        return self.denoiser, self.loss, self.prepare

    def __call__(self, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        """One update."""
        return self.update(state, batch, *self.parts)

    def lower(self, state: TrainState, batch: dict) -> jax.stages.Lowered:
        """`update` lowered for a state and a batch."""
        return self.update.lower(state, batch, *self.parts)  # pyright: ignore[reportFunctionMemberAccess]

    def _cache_size(self) -> int:
        """The number of compiled programs."""
        return self.update._cache_size()  # pyright: ignore[reportFunctionMemberAccess]


def make_step(
    denoiser,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.999,
    prepare: Callable = prepare_as_given,
    mesh: jax.sharding.Mesh | None = None,
    accumulate: int = 1,
) -> Step:
    """Compile one update, for a training loop of your own.

    Args:
        denoiser: the model; its weights are taken from the state.
        loss: `loss(denoiser, key, x0, cond) -> [batch]`, called with `weight=` if `prepare` returns a weight.
        optimizer: an optax optimiser.
        ema_decay: the decay of the moving average of the weights, in [0, 1).
        prepare: `prepare(key, batch) -> (x0, cond)` or `(x0, cond, weight)`.
        mesh: the devices on which state and batch lie; None means `make_mesh()`, data parallel over all of them.
        accumulate: into how many parts a batch is split, whose gradients are averaged.

    Returns:
        `step(state, batch) -> (state, {"loss", "grad_norm"})`, jitted. It donates its state: the old one cannot be used
        afterwards. grad_norm is the global norm of the gradient before any clipping.

    Raises:
        TypeError: if `denoiser`, `loss` or `prepare` is neither a pytree of numbers nor a plain function.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> import jaxdiff as jd
        >>> from jaxdiff.training import TrainState, make_step
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params["w"] * x, {"w": jnp.ones(2)}, jd.VP())
        >>> optimizer = optax.sgd(0.1)
        >>> step = make_step(denoiser, jd.losses.Denoising(), optimizer)
        >>> state = TrainState.create(jax.random.key(0), denoiser.params, optimizer)
        >>> state, metrics = step(state, {"x": jnp.ones((8, 2))})
        >>> int(state.step), sorted(metrics)
        (1, ['grad_norm', 'loss'])
    """
    check_parts(denoiser, loss, ema_decay, prepare, accumulate)
    mesh = training_mesh(mesh)
    check_optimizer(optimizer)
    like = TrainState.like(denoiser.params, optimizer, mesh)
    shardings, lies = state_sharding(mesh, like), state_sharding(mesh, like.weights.abstract())

    def mean_loss(params, given, key, *examples):
        params, (denoiser, loss) = jax.lax.with_sharding_constraint((params, given), replicated(mesh))
        return _example_losses(denoiser, loss, params, key, *examples).mean()

    def gradient(params, given, key, *examples):
        value, grads = jax.value_and_grad(mean_loss)(params, given, key, *examples)
        return value, flat(jax.lax.with_sharding_constraint(grads, lies), like.weights.form)

    def mean_gradient(params, given, key, examples):
        parts = _parts(key, examples, accumulate)
        first = jax.tree.map(lambda part: part[0], parts)
        if accumulate == 1:
            return gradient(params, given, *first)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, given, *part)), None

        shapes = jax.eval_shape(gradient, params, given, *first)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, nothing, parts)
        return jax.tree.map(lambda leaf: leaf / accumulate, total)

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), None, None, None),
        out_shardings=(shardings, replicated(mesh)),
    )
    @on_mesh(mesh)
    def update(state: TrainState, batch: dict, denoiser, loss, prepare) -> tuple[TrainState, dict]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        prepare = jax.lax.with_sharding_constraint(prepare, replicated(mesh))
        x0, cond, weight = prepared_by(prepare, prepare_key, batch)
        params = state.params
        check_examples(loss, with_params(denoiser, params), x0, cond)
        if count(x0) % (accumulate * mesh.size):
            raise ValueError(
                f"a batch of {count(x0)} is not a multiple of accumulate x devices = {accumulate} x {mesh.size}"
            )
        value, grads = mean_gradient(params, (denoiser, loss), loss_key, (x0, cond, weight))
        with jax.named_scope("optimizer"):
            thin = updated(optimizer, grads.thin(), state.moments.thin(), state.weights.thin())
            updates, moments = (held.of_thin(tree) for held, tree in zip((grads, state.moments), thin))
            weights: Any = optax.apply_updates(state.weights, updates)  # pyright: ignore[reportArgumentType]

            with jax.named_scope("average"):
                decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
                mean = jax.tree.map(functools.partial(_towards, 1 - decay), weights, state.mean)

            grad_norm = optax.tree.norm(grads)
            norms = value, grad_norm, optax.tree.norm(updates)
            finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, norms), state.finite)
            after = state.step + 1, weights, moments, mean
            before = state.step, state.weights, state.moments, state.mean
            kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        return TrainState(*kept, key=state.key, finite=finite), {"loss": value, "grad_norm": grad_norm}

    parts = hollow(denoiser), as_argument("loss", loss), as_argument("prepare", prepare)
    return Step(update, *(sharded(part, mesh) for part in parts))


def explain(step: Step, optimizer, mesh, accumulate: int, state, batch) -> str:
    """What is first not finite in the step after `state`: data, parameters, losses, gradients or updates.

    A collective: every process of a run must call it, and all get the same answer.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    @on_mesh(mesh)
    def look(state, batch, denoiser, loss, prepare):
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x0, cond, weight = prepared_by(prepare, prepare_key, batch)
        parts = _parts(loss_key, (x0, cond, weight), accumulate)

        def losses_of(params):
            part = lambda i: jax.tree.map(lambda leaf: leaf[i], parts)
            return jnp.stack([_example_losses(denoiser, loss, params, *part(i)) for i in range(accumulate)], 1).ravel()

        losses, vjp = jax.vjp(losses_of, state.params)
        grads = vjp(jnp.full_like(losses, 1 / len(losses)))[0]
        updates, _ = updated(optimizer, grads, state.opt_state, state.params)
        each = lambda tree: functools.reduce(
            jnp.logical_and, [jnp.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(tree)]
        )
        whole = lambda tree: jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
        return x0, cond, each(x0), each(losses), *map(whole, (state.params, grads, updates))

    def named(what: str, tree) -> str | None:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, finite in leaves if not finite]
        return f"the {what} of {len(bad)} of {len(leaves)} parameter arrays (the first: {bad[0]})" if bad else None

    x0, cond, data, losses, params, grads, updates = jax.device_get(look(state, batch, *step.parts))
    if not data.all():
        return f"example {data.argmin()} of its batch, in the data"
    try:
        check_examples(step.loss, step.denoiser, x0, cond)
    except ValueError as error:
        return f"the data of its batch: {error}"
    if found := named("value", params):
        return found
    if not losses.all():
        return f"the loss of {(~losses).sum()} of its {len(losses)} examples (the first: {losses.argmin()})"
    return (
        named("gradient", grads)
        or named("update", updates)
        or "the norm of the update, though each of its numbers is finite"
    )
