"""A classifier of noised data: log p(label | x_t) by a network, at every noise level (Dhariwal and Nichol 2021)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_function, check_labels, count, nan_unless
from jaxdiff.denoisers.denoiser import OF_A_MODULE, OfNetwork, check_params
from jaxdiff.processes import Process, check_process, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class NoisyClassifier(OfNetwork):
    """A network as a classifier of noised data: log p(label | x_t).

    The network sees x and the noise level as in a `jaxdiff.Denoiser`. Called with x `[batch, *event]` at t, a scalar or
    `[batch]`, and labels cond, the classifier returns log p(cond | x_t), `[batch]`. Train it with
    `jaxdiff.losses.Classification`; `jaxdiff.guidance.Classifier` guides by it, and
    `jaxdiff.guidance.TweedieClassifier` by its method `clean`.

    Args:
        network: a function `(params, x, c_noise) -> logits`, with logits `[batch, classes]`.
        params: the network's parameters, a pytree of arrays.
        process: the process whose x_t it classifies.
        data_std: the standard deviation of the data, as in `jaxdiff.Denoiser`.
        key: as in `jaxdiff.Denoiser`.

    Raises:
        TypeError: if `network` is not a function, a parameter is not an array, or `process` is not a process; when
            called, if the labels are not integers.
        ValueError: when called, if a label is out of range (a traced one gives NaN instead) or the network returns
            another shape.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", section 4.1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise: x @ params["kernel"]
        >>> classifier = jd.NoisyClassifier(network, {"kernel": jnp.zeros((2, 10))}, jd.VP())
        >>> log_p = classifier(jnp.ones((4, 2)), 0.5, jnp.array([0, 1, 2, 3]))  # all 10 classes are alike
        >>> bool(jnp.allclose(log_p, -jnp.log(10)))
        True
    """

    network: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    params: Any
    process: Process
    data_std: float | None = None
    key: jax.Array | None = None

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise) -> logits", 3, OF_A_MODULE)
        object.__setattr__(self, "params", check_params(self.params))
        check_process(self.process)
        _, data_std = self.process.check_reading(None, self.data_std, False)
        object.__setattr__(self, "data_std", data_std)
        self._check_key()

    def logits(self, x, t) -> jax.Array:
        """Unnormalised log p(label | x_t) of each class, `[batch, classes]`, in float32 or wider."""
        x, t = self.process.at(x, t)
        inputs = self.process.present(x, t, self.data_std), self.process.c_noise(t)
        out = self.network(self.params, *inputs) if self.key is None else self._out(*inputs, None)
        shape, n = getattr(out, "shape", None), count(x)
        if shape is None or len(shape) != 2 or shape[0] != n or not jnp.issubdtype(out.dtype, jnp.floating):
            raise ValueError(f"the network returned {jax.tree.map(jnp.shape, out)}; expected logits [{n}, classes]")
        return out.astype(jnp.promote_types(out.dtype, jnp.float32))

    def __call__(self, x, t, cond) -> jax.Array:
        """log p(cond | x_t), nats, `[batch]`."""
        log_p = jax.nn.log_softmax(self.logits(x, t), -1)
        labels = jnp.broadcast_to(check_labels(cond, log_p.shape[-1]), len(log_p))
        chosen = jnp.take_along_axis(log_p, labels[:, None], -1, mode="fill", fill_value=jnp.nan)[:, 0]
        return nan_unless(labels >= 0, chosen)

    def clean(self, x0, cond) -> jax.Array:
        """log p(cond | x_0), nats, `[batch]`: the classifier at t = 0."""
        return self(x0, 0.0, cond)

    def features(self, x, t) -> jax.Array:
        """The input of the network's last layer, `[batch, features]`, by its `features(params, x, c_noise)`."""
        x, t = self.process.at(x, t)
        return self.network.features(self.params, self.process.present(x, t, self.data_std), self.process.c_noise(t))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that does not hold labels: TypeError if they are not integers, ValueError for None."""
        if cond is None:
            raise ValueError("cond = None; expected integer labels, the classes")
        check_labels(cond, jnp.iinfo(jnp.int32).max)
