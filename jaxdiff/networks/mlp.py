"""A residual multilayer perceptron, for points and short vectors."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_batch, check_room, check_shape, check_whole
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs


class MLP(nnx.Module):
    """A residual multilayer perceptron for points and short vectors.

    Dense layers with SiLU, each modulated by the noise level; a layer as wide as its input is residual. An event is
    flattened, and the output has its shape. The last layer begins at zero.

    Args:
        event: the event's shape, or its size for events `[features]`.
        hidden: the widths of the layers, one or more.
        classes: the number of labels in cond, 0 for none.
        waves: the features of the noise level, such as `Sinusoidal()` or `Fourier()`.
        outputs: values out for each value in, concatenated along the last axis (2 for a learned variance).
        vector: the size of the vectors in cond, 0 for none. A network with vectors always needs one. Labels and vectors
            together are `{"label": ..., "vector": ...}` (see `Conditions`).
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if `hidden` is empty; when called, if x has another event.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.MLP(2, hidden=(4, 4), classes=10, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> x, labels = jnp.zeros((3, 2)), jnp.array([0, 1, 9])
        >>> jax.eval_shape(network, params, x, jnp.zeros(3), labels).shape
        (3, 2)
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
        """Raise for a `cond` that does not match the network's classes and vector (see `Conditions.check`)."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for "no label", which is the number of classes; None without classes."""
        return self.embed.no_label()

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """The output for x `[batch, *event]` and c_noise `[batch]`: the shape of x, the last axis times `outputs`."""
        x = check_batch(x)
        if x.shape[1:] != self.event:
            raise ValueError(f"x has examples of shape {x.shape[1:]}; expected {self.event}")
        embedding = self.embed(x, c_noise, cond)
        h = x.reshape(len(x), -1)
        for layer, level in zip(self.layers, self.levels):
            update = nnx.silu(layer(h) + level(embedding))
            h = h + update if h.shape == update.shape else update
        return self.out(h).reshape(*x.shape[:-1], -1)
