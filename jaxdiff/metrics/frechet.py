r"""The Fréchet distance of two sets of features.

    d²(x, y) = |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^{1/2})

is the squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances (Dowson and Landau 1982);
on a classifier's features it is the FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6). The root's trace is that of
(C_x^{1/2} C_y C_x^{1/2})^{1/2}, which is symmetric. Finite sets are further apart than their laws, by about 1/n: a
distance says something only beside that of two sets of data, and at one n.
"""

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, with_dtype


def frechet_distance(x, y) -> float:
    """d² of features x [n, d] and y [m, d], in float64 on the host, with covariances over n - 1 and m - 1.

    Raises:
        TypeError: for features that are not real floating numbers.
        ValueError: for other shapes, no more than d examples in a set (its covariance would be singular), or a value
            that is not finite.
    """
    x, y = (_features(features, name) for name, features in (("x", x), ("y", y)))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; expected [n, d] and [m, d], the same d")
    (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(0), np.atleast_2d(np.cov(z, rowvar=False))) for z in (x, y))
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    distance = np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * shared
    return float(max(distance, 0.0))


def _features(features, name: str) -> np.ndarray:
    given, features = features, as_array(features)
    if features is None or not jnp.issubdtype(features.dtype, jnp.floating):
        raise TypeError(f"{with_dtype(name, given)}; expected floating features, not the images themselves")
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} has shape {features.shape}; expected features [n, d]")
    n, d = features.shape
    if n <= d:
        raise ValueError(f"{name} holds {n} examples of {d} features; expected more than {d}: draw more")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds a NaN or an infinity; remove the samples that failed")
    return features.astype(np.float64)
