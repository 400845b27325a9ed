"""scikit-learn's digits as a TFDS data set; it ships with scikit-learn, so nothing is downloaded."""

import numpy as np
import tensorflow_datasets as tfds

SPLITS = {"train": range(0, 1000), "validation": range(1000, 1350), "test": range(1350, 1797)}


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """1,797 handwritten digits of 8 x 8 pixels with 17 levels, 0 to 16 (Alpaydin and Kaynak 1998).

    The splits are `SPLITS`, slices in scikit-learn's order, and keep that order.
    """

    name = "sklearn_digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(indices) for split, indices in SPLITS.items()}

    def _generate_examples(self, indices):
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        for i in indices:
            yield i, {"image": pixels[i].reshape(8, 8, 1).astype(np.uint8), "label": int(labels[i])}
