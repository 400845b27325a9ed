"""One update, compiled once.

Step k draws its randomness from fold_in(key, k). The moving average warms up, so that early on it does not
hang on to the initial weights:

    ema <- d ema + (1 - d) params,      d = min(ema_decay, (1 + k) / (10 + k)).

A loss, gradient or update that is not finite changes nothing: the state keeps what it held before that step.

With `accumulate` = k the batch goes through in k parts, one after another, each with noise of its own, and the update
is made of the mean of their gradients: the memory of a k-th of the batch. Part i takes every k-th example from the i-th
on, so that each device works on its own examples throughout.

The model, the loss and `prepare` are arguments of the compiled function like the state, so that what they hold, such as
a teacher's weights, is no part of the program and new numbers in them compile nothing.
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
    """Training met a loss, gradient or update that is not finite. `step` is its index, counted from 0."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def prepare_as_given(key, batch: dict):
    """(x0, cond) of data that is ready as it comes: "x", and the parts of a condition by their names, or "cond".

    A label alone is cond as it is, other parts ("vector", "image", "level", "tokens", "token_mask") a dictionary of
    them. With a "weight", 1 for each value of x0 that counts and 0 for one that is given, (x0, cond, weight). Raises
    KeyError for a batch without "x", ValueError for one with anything else, which nothing would read.
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
    """Adam behind a clip of the gradient's global norm at `clip`.

    The learning rate rises linearly over the fraction `warmup` of `steps`, then falls by a cosine to 0. `steps` may be
    several rising numbers, (100, 200): from each to the next the rate rises and falls once more (a warm restart;
    Loshchilov and Hutter 2017).
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
    """`denoiser` without its weights: those of a step are the state's."""
    return with_params(denoiser, jax.tree.map(lambda leaf: None, denoiser.params))


def _example_losses(denoiser, loss, params, key, x0, cond, weight) -> jax.Array:
    losses = called(loss, with_params(denoiser, params), key, x0, cond, weight)
    if losses.shape != (count(x0),):
        shapes = x0.shape if hasattr(x0, "shape") else jax.tree.map(np.shape, x0)
        raise ValueError(f"loss gave shape {losses.shape} for x0 {shapes}; expected one number an example, [batch]")
    return losses


def _parts(key, examples: tuple, accumulate: int) -> tuple:
    """(keys, x0, cond, weight) of the parts of a batch, along a new first axis."""
    if accumulate == 1:
        return jax.tree.map(lambda array: array[None], (key, *examples))
    split = lambda array: array.reshape(-1, accumulate, *array.shape[1:]).swapaxes(0, 1)
    return jax.random.split(key, accumulate), *jax.tree.map(split, examples)


def _towards(rate, new, mean):
    """The average `mean`, of its own type, moved by `rate` towards `new`."""
    rate = rate.astype(mean.dtype)
    return rate * new.astype(mean.dtype) + (1 - rate) * mean


def check_parts(denoiser, loss, ema_decay, prepare, accumulate) -> None:
    """Raise TypeError or ValueError for what no step can be made of."""
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
    """(x0, cond, weight) of `prepare`, weight None where it gives none; TypeError for what is no such tuple."""
    made = prepare(key, batch)
    if not isinstance(made, tuple | list) or len(made) not in (2, 3):
        raise TypeError(
            f"prepare returned {said(made)}; expected (x0, cond), cond None where there is none, or (x0, cond, weight)"
        )
    return made[0], made[1], made[2] if len(made) == 3 else None


@dataclasses.dataclass(frozen=True)
class Step:
    """The compiled update of a model, `(state, batch) -> (state, {"loss", "grad_norm"})`; it donates its state.

    `update(state, batch, denoiser, loss, prepare)` is the jitted function. A step of another loss or model of the same
    form, `dataclasses.replace(step, loss=...)`, compiles nothing.
    """

    update: Callable
    denoiser: Any
    loss: Any
    prepare: Any

    @property
    def parts(self) -> tuple:
        """What `update` is called with beside the state and the batch."""
        return self.denoiser, self.loss, self.prepare

    def __call__(self, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        """One update."""
        return self.update(state, batch, *self.parts)

    def lower(self, state: TrainState, batch: dict) -> jax.stages.Lowered:
        """The program of `update`, for a state and a batch."""
        return self.update.lower(state, batch, *self.parts)  # pyright: ignore[reportFunctionMemberAccess]

    def _cache_size(self) -> int:
        """How many programs were compiled."""
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
    """The jitted update `(state, batch) -> (state, {"loss", "grad_norm"})`; it consumes (donates) its state.

    `denoiser` gives all but the weights, which are the state's. `prepare(key, batch) -> (x0, cond)`, or
    (x0, cond, weight), and `loss(denoiser, key, x0, cond) -> [batch]`, with `weight=` where there is one, run inside.
    grad_norm is the gradient's global norm, unclipped. The state and the batch lie on `mesh` (by default `make_mesh()`:
    data parallel over all devices), and what denoiser, loss and `prepare` hold beside the weights lies there as a state
    does.

    Raises TypeError for a denoiser, a loss or a `prepare` that is neither a pytree of numbers nor a plain function.
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
                f"a batch of {count(x0)} is not accumulate x devices = {accumulate} x {mesh.size} times a whole number"
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
    """What is not finite first in the step after `state`: data, parameters, losses, gradients or updates.

    Every process of a run calls it, and every one gets the same answer.
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
