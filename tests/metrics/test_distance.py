"""What every metric refuses."""

import jax
import numpy as np
import pytest

from jaxdiff import metrics

METRICS = {
    "frechet_distance": metrics.frechet_distance,
    "kernel_distance": metrics.kernel_distance,
    "precision_recall": metrics.precision_recall,
    "density_coverage": metrics.density_coverage,
    "wasserstein": metrics.wasserstein,
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(jax.random.key(0), x, y),
}


@pytest.mark.parametrize("name", METRICS)
def test_values_whose_powers_are_no_floats_and_traced_ones_are_refused(name):
    x = np.random.default_rng(0).standard_normal((12, 3))
    for size in (1e-200, 1e200):
        with pytest.raises(ValueError, match="expected 1e-40 to 1e\\+40: scale both sets alike"):
            METRICS[name](size * x, size * x)
    with pytest.raises(TypeError, match="is traced; metrics are computed on the host"):
        jax.jit(METRICS[name])(x, x)
