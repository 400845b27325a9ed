"""Features of pictures for metrics, from a small classifier that is trained once per run.

    x ─ half a U-Net ─ attention pooling ─ 64 features ─ logits            `jaxdiff.networks.Classifier`, without noise

The data determine the classifier, since the seeds of its weights and batches are fixed. Runs of the same data therefore
have the same features, bitwise on the same kind of device; equal hashes of the weights show it.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.arrays import digest, fingerprint, remove_folder
from jaxdiff.arrays.batches import in_batches
from jaxdiff.data.reading import fingerprint_of, first_batch

FEATURES = 64
BATCH, EPOCHS, STEPS = 128, 30, 600  # at most `STEPS` steps
LEAST_SIDE = 4  # pixels; sides are not halved below it
AT_ONCE = 250  # pictures per batch


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierFeatures:
    """`features(images)`: the input of a classifier's last layer, for pictures [n, height, width, channels], integers.

    Attributes:
        name: "classifier" and the first digits of the SHA-256 of its weights.
        scale: features are divided by it, so that their mean square over a training batch is 1. The scale of a
            network's features is arbitrary, and the kernel distance depends on it.
    """

    classifier: jd.NoisyClassifier
    levels: int
    name: str
    scale: float = 1.0

    def __call__(self, images) -> np.ndarray:
        """Features [n, 64], float32."""
        return self._of_batches(_features, images) / np.float32(self.scale)

    def accuracy(self, images, labels) -> tuple[float, float]:
        """The share of pictures that are classified correctly, and its standard error."""
        found = self._of_batches(_logits, images).argmax(-1)
        share = float(np.mean(found == labels))
        return share, float(np.sqrt(share * (1 - share) / len(labels)))

    def _of_batches(self, function, images) -> np.ndarray:
        compute = lambda part: function(self.classifier, centres(images[part], self.levels))
        parts = in_batches(compute, np.arange(len(images)), AT_ONCE, False, "", axis=0)
        return np.concatenate([found for _, found in parts])


@jax.jit
def _features(classifier, x):
    return classifier.features(x, 0.0)


@jax.jit
def _logits(classifier, x):
    return classifier.logits(x, 0.0)


def centres(images, levels: int):
    """Pixels on [-1, 1] at the centres of their levels, float32."""
    return (2 * (images + np.float32(0.5)) / levels - 1).astype(np.float32)


def of_classifier(folder: Path, source, examples, event: tuple[int, ...], progress: bool) -> ClassifierFeatures:
    """Features from the classifier of a run's training pictures, which is trained first unless `folder` has its file.

    `source` has the levels and classes; `examples` are pictures with labels, as `jaxdiff.data.batches` takes them.
    Interrupted training resumes. The weights are written to classifier_*.safetensors, which can be copied to the folder
    of another run of the same data.
    """
    from jaxdiff.networks import Classifier, initialize

    batches = jd.data.batches(examples, min(BATCH, len(source)), 0)
    channels = _channels(event)
    make = lambda rngs: Classifier(event[-1], source.classes, channels, 1, rngs=rngs)
    network, params = initialize(jax.random.key(0), make)
    data_std = 2 / source.levels * jd.data.pixel_moments(source)[1]
    classifier = jd.NoisyClassifier(network, params, jd.VP(), data_std)
    steps = min(STEPS, -(-EPOCHS * len(source) // BATCH))
    of = fingerprint(fingerprint_of(batches), source.levels, source.classes, channels, steps)
    path, place = folder / f"classifier_{of[:8]}.safetensors", folder / f"classifier_{of[:8]}"
    if not path.exists():
        levels = source.levels
        classifier = training.train(
            jax.random.key(1),
            place,
            classifier,
            jd.losses.Classification(jd.losses.times.Fixed(0.0)),
            batches,
            steps=steps,
            optimizer=functools.partial(training.clipped_adam, learning_rate=2e-3),
            ema_decay=0.98,
            prepare=lambda key, batch: (centres(batch["image"], levels), batch["label"]),
            mesh=training.make_mesh(devices=jax.devices()[:1]),
            progress=progress,
        )
        seen = ClassifierFeatures(classifier, levels, "")(first_batch(batches)["image"])
        scale = np.sqrt(np.mean(np.square(seen)))
        jd.pretrained.write_params(path, {"network": classifier.params, "scale": scale})
    if place.exists():
        remove_folder(place)
    kept = jd.pretrained.read_params(path, {"network": params, "scale": np.float32(0)})
    classifier = dataclasses.replace(classifier, params=kept["network"])
    return ClassifierFeatures(classifier, source.levels, f"classifier {digest([path])[:8]}", float(kept["scale"]))


def _channels(event: tuple[int, ...]) -> tuple[int, ...]:
    """Channels by level: one more level for each halving of all sides down to `LEAST_SIDE`; the last has `FEATURES`."""
    halvings = 0
    while all(side % 2 ** (halvings + 1) == 0 and side // 2 ** (halvings + 1) >= LEAST_SIDE for side in event[:-1]):
        halvings += 1
    return tuple(max(16, FEATURES // 2**i) for i in reversed(range(halvings + 1)))
