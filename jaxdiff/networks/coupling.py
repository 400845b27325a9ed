"""A small conditional flow: affine couplings on a checkerboard (Dinh et al. 2017, "Real NVP", section 3.4).

    y_i <- y_i exp(s_i) + b_i        for the pixels i of one colour; s, b from the others and from x

alternating between the two colours, after a first layer that sees x alone and moves all pixels. The Jacobian is
triangular, and the log of its determinant the sum of the s. s is held within (-2, 2) by tanh. Every layer begins as the
identity.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_room, check_whole
from jaxdiff.networks.blocks import Conv
from jaxdiff.networks.embeddings import check_rngs


class _Layer(nnx.Module):
    def __init__(self, channels: int, hidden: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([Conv(2 * channels, hidden, rngs=rngs), Conv(hidden, hidden, rngs=rngs)])
        self.out = Conv(hidden, 2 * channels, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, y, x):
        h = jnp.concatenate([y, x], axis=-1)
        for layer in self.layers:
            h = nnx.silu(layer(h))
        s, b = jnp.split(self.out(h), 2, axis=-1)
        return 2 * jnp.tanh(s / 2), b


class Coupling(nnx.Module):
    """A conditional flow from noise to y given an image, the network of `jaxdiff.likelihood.Variational`.

    Called with noise and x, both `[batch, height, width, channels]`, it returns y of the same shape and log |det
    ∂y/∂noise| `[batch]`. It begins as the identity.

    Args:
        channels: the channels of the images.
        hidden: the channels of the three convolutions of each layer.
        layers: the number of couplings, which alternate between the two colours of a checkerboard.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size is less than 1.

    Source:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.4.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.Coupling(1, hidden=4, layers=2, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> noise = x = jnp.zeros((3, 4, 4, 1))
        >>> y, log_det = jax.eval_shape(network, params, noise, x)
        >>> y.shape, log_det.shape
        ((3, 4, 4, 1), (3,))
    """

    def __init__(self, channels: int, hidden: int = 32, layers: int = 4, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        for name, count in (("channels", channels), ("hidden", hidden), ("layers", layers)):
            check_whole(name, count)
        check_room("a convolution", 9, max(2 * channels, hidden), hidden)
        self.first = _Layer(channels, hidden, rngs=rngs)
        self.layers = nnx.List([_Layer(channels, hidden, rngs=rngs) for _ in range(layers)])

    def __call__(self, noise: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """y and log |det ∂y/∂noise| `[batch]`."""
        _, height, width, _ = x.shape
        colour = np.indices((height, width)).sum(0)[..., None] % 2
        s, b = self.first(jnp.zeros_like(noise), x)
        y, log_det = noise * jnp.exp(s) + b, s
        for index, layer in enumerate(self.layers):
            kept = colour == index % 2
            s, b = layer(jnp.where(kept, y, 0.0), x)
            y, log_det = jnp.where(kept, y, y * jnp.exp(s) + b), log_det + jnp.where(kept, 0.0, s)
        return y, log_det.sum(range(1, x.ndim))
