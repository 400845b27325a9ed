"""The loss of a classifier of noised data (Dhariwal and Nichol 2021, section 4)."""

import dataclasses

import jax

from jaxdiff.arrays import count, example_keys, said
from jaxdiff.losses import times as times_
from jaxdiff.losses.inputs import check_times_law, draw_times, prepared
from jaxdiff.processes import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Classification:
    """`loss(classifier, key, x0, labels) -> [batch]`: -log p(label | x_t) of a `jaxdiff.NoisyClassifier`, nats.

    Its mean is least where the classifier is Bayes' own at every noise level. `times` is one of `jaxdiff.losses.times`;
    `times.Fixed(0.0)` trains on clean data.

    Raises TypeError for what is no classifier, ValueError for examples without labels or with one out of range.
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
