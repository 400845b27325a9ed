"""The loss that trains a classifier of noised data (Dhariwal and Nichol 2021, section 4)."""

import dataclasses

import jax

from jaxdiff.arrays import count, example_keys, said
from jaxdiff.losses import times as times_
from jaxdiff.losses.inputs import check_times_law, draw_times, prepared
from jaxdiff.processes import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Classification:
    """The cross-entropy of a classifier of noised data, for classifier guidance.

    Call it as `loss(classifier, key, x0, labels)`; it returns -log p(label | x_t) in nats, `[n]`. Its mean is minimal
    if the classifier is Bayes optimal at every noise level.

    Args:
        times: the law of t, one of `jaxdiff.losses.times`; `times.Fixed(0.0)` trains on clean data.

    Raises:
        TypeError: if the model is not a `jaxdiff.NoisyClassifier`.
        ValueError: if labels are missing or out of range.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", section 4.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond=None: params * jnp.ones((len(x), 10))  # logits
        >>> classifier = jd.NoisyClassifier(network, jnp.zeros(()), jd.VP())
        >>> loss = jd.losses.Classification()
        >>> values = loss(classifier, jax.random.key(0), jnp.ones((4, 2)), jnp.array([3, 1, 4, 1]))
        >>> bool(jnp.allclose(values, jnp.log(10)))  # equal logits cost log 10 nats
        True
    """

    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None) -> jax.Array:
        classifier, x0, labels = prepared(denoiser, key, x0, cond)
        if not hasattr(classifier, "logits"):
            raise TypeError(f"classifier = {said(classifier)}; expected a jaxdiff.NoisyClassifier")
        process, n = classifier.process, count(x0)
        time_key, noise_key = jax.random.split(key)
        t, factor = draw_times(self.times, time_key, process, n)
        x_t, _ = process.perturb(example_keys(noise_key, n), x0, t)
        return -factor * classifier(x_t, t, labels)
