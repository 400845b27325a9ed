"""One update, compiled once.

Step k draws its randomness from fold_in(key, k). The moving average warms up, so that early on it does not
hang on to the initial weights:

    ema <- d ema + (1 - d) params,      d = min(ema_decay, (1 + k) / (10 + k)).

A loss, gradient or update that is not finite changes nothing: the state keeps what it held before that step.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.processes import check_event
from jaxdiff.training.state import TrainState


class Diverged(FloatingPointError):
    """Training met a loss, gradient or update that is not finite. `step` is its index, counted from 0."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def prepare_as_given(key, batch: dict):
    """(x0, cond) = (batch["x"], batch.get("label")): data that is ready as it comes."""
    if "x" not in batch:
        raise KeyError(f'batch has {sorted(batch)} and no "x"; name the data "x", or give train a `prepare`')
    return batch["x"], batch.get("label")


def clipped_adam(
    steps: int, learning_rate: float = 1e-3, warmup: float = 0.05, clip: float = 1.0
) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's global norm at `clip`.

    The learning rate rises linearly over the fraction `warmup` of `steps`, then falls by a cosine to 0.
    """
    for name, value in {"steps": steps, "learning_rate": learning_rate, "clip": clip}.items():
        if not value > 0:
            raise ValueError(f"{name} = {value}; expected a number above 0")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup = {warmup}; expected a fraction of the steps, 0 <= warmup < 1")
    rising = int(warmup * steps)
    schedule = optax.warmup_cosine_decay_schedule(learning_rate / (rising + 1), learning_rate, rising, steps)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule))


def _example_losses(denoiser, loss, prepare, params, key, batch) -> jax.Array:
    prepare_key, loss_key = jax.random.split(key)
    x0, cond = prepare(prepare_key, batch)
    losses = loss(dataclasses.replace(denoiser, params=params), loss_key, check_event(x0, "x0"), cond)
    if losses.shape != x0.shape[:1]:
        raise ValueError(f"loss gave shape {losses.shape} for x0 {x0.shape}; expected one number an example, [batch]")
    return losses


def make_step(
    denoiser,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.999,
    prepare: Callable = prepare_as_given,
) -> Callable:
    """The jitted update `(state, batch) -> (state, {"loss", "grad_norm"})`; it consumes (donates) its state.

    `denoiser` gives all but the weights, which are the state's. `prepare(key, batch) -> (x0, cond)` and
    `loss(denoiser, key, x0, cond) -> [batch]` run inside. grad_norm is the gradient's global norm, unclipped.
    """
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay = {ema_decay}; expected 0 <= ema_decay < 1, for instance 0.999")

    def mean_loss(params, key, batch):
        return _example_losses(denoiser, loss, prepare, params, key, batch).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        value, grads = jax.value_and_grad(mean_loss)(state.params, key, batch)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.tree.cast_like(optax.incremental_update(params, state.ema, 1 - decay), state.ema)

        norms = jnp.stack([value, grad_norm, optax.tree.norm(updates)])
        finite = state.finite & jnp.isfinite(norms).all()
        after = state.step + 1, params, opt_state, ema
        before = state.step, state.params, state.opt_state, state.ema
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        return TrainState(*kept, key=state.key, finite=finite), {"loss": value, "grad_norm": grad_norm}

    return step


def explain(denoiser, loss: Callable, prepare: Callable, state: TrainState, batch: dict) -> str:
    """What is not finite first in the step after `state`: the data, a loss, a gradient or else the update."""
    key = jax.random.fold_in(state.key, state.step)
    x0, _ = prepare(jax.random.split(key)[0], batch)
    bad = ~np.isfinite(np.asarray(x0, np.float64)).reshape(len(x0), -1).all(1)
    if bad.any():
        return f"example {bad.argmax()} of its batch, in the data"

    @jax.jit
    def pull_back(params):
        losses, vjp = jax.vjp(lambda p: _example_losses(denoiser, loss, prepare, p, key, batch), params)
        return losses, vjp(jnp.full_like(losses, 1 / len(losses)))[0]

    losses, grads = jax.device_get(pull_back(state.params))
    bad = ~np.isfinite(losses)
    if bad.any():
        return f"the loss of {bad.sum()} of its {len(bad)} examples (the first: {bad.argmax()})"
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    bad = [path for path, leaf in leaves if not np.isfinite(leaf).all()]
    if bad:
        name = jax.tree_util.keystr(bad[0], simple=True, separator="/")
        return f"the gradient of {len(bad)} of {len(leaves)} parameter arrays (the first: {name})"
    return "the update of the parameters, though each loss and gradient is finite"
