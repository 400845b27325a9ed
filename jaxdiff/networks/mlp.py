"""A residual multilayer perceptron, for points and short vectors."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_batch, check_room, check_shape, check_whole
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs


class MLP(nnx.Module):
    """Dense layers of widths `hidden`, each told the noise level; a layer as wide as its input is residual.

    `event` is the event's shape, or its size for events [features]; an event is flattened and given back in
    its shape, or with `outputs` values for each one in, side by side in its last axis (2 for a learned variance).
    The last layer begins at zero. cond is a label of `classes`, or floats [batch, `vector`], which a network with
    `vector` always needs; of both it is {"label": ..., "vector": ...} (`Conditions`). Raises ValueError for an empty
    `hidden`, and for x of another event.
    """

    def __init__(
        self,
        event: int | Sequence[int],
        hidden: Sequence[int] = (128, 128, 128),
        classes: int = 0,
        waves: Waves = Sinusoidal(),
        outputs: int = 1,
        vector: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        self.event = check_shape(
            "event", (event,) if np.ndim(event) == 0 else event, "the shape of an event, or its size"
        )
        if np.ndim(hidden) == 1 and not len(hidden):
            raise ValueError("hidden is empty; expected the widths of one layer or more, for example (128, 128)")
        hidden = check_shape("hidden", hidden, "the widths of the layers, for example (128, 128)")
        check_whole("outputs", outputs)
        widths = [math.prod(self.event), *hidden]
        for a, b in (*zip(widths, hidden), (widths[-1], outputs * widths[0])):
            check_room("a dense layer", a, b)
        self.embed = NoiseEmbedding(hidden[0], waves, classes, vector, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(widths, hidden)])
        self.levels = nnx.List([nnx.Linear(hidden[0], b, rngs=rngs) for b in hidden])
        self.out = nnx.Linear(widths[-1], outputs * widths[0], kernel_init=nnx.initializers.zeros, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not of the network's classes and vector, as `Conditions.check` says."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for none, the number of classes; None without classes."""
        return self.embed.no_label()

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """Return [batch, *event], the last axis times `outputs`, for x [batch, *event], c_noise and labels [batch]."""
        x = check_batch(x)
        if x.shape[1:] != self.event:
            raise ValueError(f"x has shape {x.shape}; expected [batch, {', '.join(map(str, self.event))}]")
        embedding = self.embed(x, c_noise, cond)
        h = x.reshape(len(x), -1)
        for layer, level in zip(self.layers, self.levels):
            update = nnx.silu(layer(h) + level(embedding))
            h = h + update if h.shape == update.shape else update
        return self.out(h).reshape(*x.shape[:-1], -1)
