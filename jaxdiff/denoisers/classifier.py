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
    """A network as a classifier: `network(params, x, c_noise, cond=None) -> logits` [batch, classes], without cond.

        classifier = jd.NoisyClassifier(network, params, process, data_std)
        classifier = jd.training.train(key, folder, classifier, jd.losses.Classification(), batches, steps=5_000)
        jd.guidance.Classifier(denoiser, classifier, 2.0)                  by p(label | x_t)
        jd.guidance.TweedieClassifier(denoiser, classifier.clean, 2.0)     by p(label | E[x_0 | x_t])

    The network sees x and the noise level as that of a `jaxdiff.Denoiser` does, and `data_std` and `key` are as there.
    Called with x [batch, *event] of the process at t, a scalar or [batch], and labels cond, it gives log p(cond | x_t),
    [batch].

    Raises TypeError for a network that is no function, parameters that are no arrays, or a process that is none; when
    called, for labels that are no integers; ValueError for a label out of range (traced, NaN) or a network that returns
    another shape.
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
        """log p(label | x_t) of each class but for a constant, [batch, classes], float32 or wider."""
        x, t = self.process.at(x, t)
        inputs = self.process.present(x, t, self.data_std), self.process.c_noise(t)
        out = self.network(self.params, *inputs) if self.key is None else self._out(*inputs, None)
        shape, n = getattr(out, "shape", None), count(x)
        if shape is None or len(shape) != 2 or shape[0] != n or not jnp.issubdtype(out.dtype, jnp.floating):
            raise ValueError(f"the network returned {jax.tree.map(jnp.shape, out)}; expected logits [{n}, classes]")
        return out.astype(jnp.promote_types(out.dtype, jnp.float32))

    def __call__(self, x, t, cond) -> jax.Array:
        """log p(cond | x_t), nats, [batch]."""
        log_p = jax.nn.log_softmax(self.logits(x, t), -1)
        labels = jnp.broadcast_to(check_labels(cond, log_p.shape[-1]), len(log_p))
        chosen = jnp.take_along_axis(log_p, labels[:, None], -1, mode="fill", fill_value=jnp.nan)[:, 0]
        return nan_unless(labels >= 0, chosen)

    def clean(self, x0, cond) -> jax.Array:
        """log p(cond | x_0), at t = 0."""
        return self(x0, 0.0, cond)

    def features(self, x, t) -> jax.Array:
        """The input of the network's last layer, [batch, features], by its `features(params, x, c_noise)`."""
        x, t = self.process.at(x, t)
        return self.network.features(self.params, self.process.present(x, t, self.data_std), self.process.c_noise(t))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that holds no labels: TypeError for what is no integer, ValueError for None."""
        if cond is None:
            raise ValueError("cond = None; expected labels, which a classifier tells apart")
        check_labels(cond, jnp.iinfo(jnp.int32).max)
