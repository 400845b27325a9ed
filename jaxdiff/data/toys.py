"""Toy distributions in the plane, of roughly unit scale: `toy(key, n) -> float32 [n, 2]`.

Point i depends on the key and on i alone: `toy(key, 10)` are the first ten points of `toy(key, 100)`. Each function
raises ValueError for n < 1 or a noise below 0; under tracing a noise below 0 gives NaN.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_key, check_room, check_scalar, check_whole


def two_moons(key: jax.Array, n: int, noise: float = 0.1) -> jax.Array:
    """Draw points from two interleaved half circles of radius 1.

    Args:
        key: one typed key.
        n: the number of points.
        noise: the standard deviation of Gaussian noise around the curves.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.two_moons(jax.random.key(0), 100).shape
        (100, 2)
    """
    which, along, around, noise = _keys(key, n, noise)
    angle = jnp.pi * _uniform(along, n)
    sign = jax.random.rademacher(which, (n, 1), jnp.float32)  # -1 turns the first moon into the second
    points = sign * (_polar(1.0, angle) - jnp.float32([0.5, 0.25]))
    return points + noise * _normal(around, n)


_RADIUS, _NOISE = math.sqrt(2), 0.1


def eight_gaussians(key: jax.Array, n: int) -> jax.Array:
    """Draw points from eight Gaussians of standard deviation 0.1, evenly spaced on a circle of radius √2.

    Args:
        key: one typed key.
        n: the number of points.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.eight_gaussians(jax.random.key(0), 100).shape
        (100, 2)
    """
    which, _, around, _ = _keys(key, n)
    angle = jnp.pi / 4 * jax.random.randint(which, (n,), 0, 8)
    return _polar(_RADIUS, angle) + _NOISE * _normal(around, n)


def eight_gaussians_mixture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parameters of `eight_gaussians`, for `jaxdiff.exact.Mixture`.

    Returns:
        Weights `[8]`, means `[8, 2]` and covariances `[8, 2, 2]`.

    Examples:
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Mixture(jd.VP(), *jd.data.eight_gaussians_mixture())
        >>> denoiser.means.shape
        (8, 2)
    """
    angle = np.pi / 4 * np.arange(8)
    means = _RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.full(8, 1 / 8), means, np.tile(_NOISE**2 * np.eye(2), (8, 1, 1))


def checkerboard(key: jax.Array, n: int) -> jax.Array:
    """Draw points uniformly from the eight squares of one colour of a 4 x 4 board on [-2, 2]²; their density is 1/8.

    Args:
        key: one typed key.
        n: the number of points.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> x = data.checkerboard(jax.random.key(0), 100)
        >>> bool((abs(x) <= 2).all())
        True
    """
    which, inside, _, _ = _keys(key, n)
    square = jax.random.randint(which, (n,), 0, 8)
    row, column = square // 2, square % 2 * 2
    corner = jnp.stack([column + row % 2, row], axis=1) - 2
    return corner + jax.random.uniform(inside, (n, 2), jnp.float32)


def swiss_roll(key: jax.Array, n: int, noise: float = 0.05) -> jax.Array:
    """Draw points from a spiral of one and a half turns: the cross-section of the 3-D swiss roll, divided by 7.

    Args:
        key: one typed key.
        n: the number of points.
        noise: the standard deviation of Gaussian noise around the curve.

    Returns:
        float32 `[n, 2]`.

    Source:
        Marsland 2009, "Machine learning: an algorithmic perspective", chapter 6.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.swiss_roll(jax.random.key(0), 100).shape
        (100, 2)
    """
    _, along, around, noise = _keys(key, n, noise)
    angle = 1.5 * jnp.pi * (1 + 2 * _uniform(along, n))
    return _polar(angle / 7, angle) + noise * _normal(around, n)


def s_curve(key: jax.Array, n: int, noise: float = 0.05) -> jax.Array:
    """Draw points from the letter S, two arcs of three quarters of a circle: the cross-section of the 3-D S-curve.

    Args:
        key: one typed key.
        n: the number of points.
        noise: the standard deviation of Gaussian noise around the curve.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.s_curve(jax.random.key(0), 100).shape
        (100, 2)
    """
    _, along, around, noise = _keys(key, n, noise)
    angle = 3 * jnp.pi * (_uniform(along, n) - 0.5)
    points = jnp.stack([jnp.sin(angle), jnp.sign(angle) * (jnp.cos(angle) - 1)], axis=1)
    return points + noise * _normal(around, n)


def pinwheel(key: jax.Array, n: int) -> jax.Array:
    """Draw points from five Gaussian arms; a point at radius r is rotated by exp(r)/4.

    Args:
        key: one typed key.
        n: the number of points.

    Returns:
        float32 `[n, 2]`.

    Source:
        Johnson et al. 2016, "Composing graphical models with neural networks for structured representations and fast
        inference", figure 2.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.pinwheel(jax.random.key(0), 100).shape
        (100, 2)
    """
    which, _, around, _ = _keys(key, n)
    arm = jnp.float32([1.0, 0.0]) + jnp.float32([0.3, 0.1]) * _normal(around, n)
    angle = 2 * jnp.pi / 5 * jax.random.randint(which, (n,), 0, 5) + jnp.exp(arm[:, 0]) / 4
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.stack([cos * arm[:, 0] - sin * arm[:, 1], sin * arm[:, 0] + cos * arm[:, 1]], axis=1)
    return jnp.float32(_RADIUS) * turned


def circles(key: jax.Array, n: int, noise: float = 0.05) -> jax.Array:
    """Draw points from two concentric circles of radius 1.5 and 0.75, each with probability 1/2.

    Args:
        key: one typed key.
        n: the number of points.
        noise: the standard deviation of Gaussian noise around the circles.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> x = data.circles(jax.random.key(0), 100, noise=0.0)
        >>> sorted({round(float(radius), 3) for radius in (x**2).sum(1) ** 0.5})
        [0.75, 1.5]
    """
    which, along, around, noise = _keys(key, n, noise)
    radius = jnp.where(jax.random.bernoulli(which, shape=(n,)), 1.5, 0.75).astype(jnp.float32)
    return _polar(radius, 2 * jnp.pi * _uniform(along, n)) + noise * _normal(around, n)


def _arc(centre, radii, start: float, stop: float) -> np.ndarray:
    """96 points of an ellipse's arc between two angles in degrees, counted from the right and anticlockwise."""
    angle = np.radians(np.linspace(start, stop, 96))
    return np.array(centre) + np.array(radii) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _cat_strokes() -> list[np.ndarray]:
    """The drawing as polylines [points, 2]; strokes of the right half are mirrored to the left."""
    head, radii = (0.0, -0.25), (1.5, 1.3)
    right = [
        np.concatenate([_arc(head, radii, -90, 33), [[1.5, 1.85]], _arc(head, radii, 67, 90)]),  # half the head, an ear
        _arc((0.6, 0.1), (0.3, 0.22), 0, 360),  # an eye
        np.array([[0.6, -0.08], [0.6, 0.28]]),  # its pupil
        _arc((0.24, -0.78), (0.24, 0.24), -180, -15),  # half the mouth
        *(np.array([[0.66, -0.5 - 0.14 * i], [2.1, -0.2 - 0.4 * i]]) for i in range(3)),  # whiskers
    ]
    nose = np.array([[-0.16, -0.42], [0.16, -0.42], [0.0, -0.62], [-0.16, -0.42]])
    return right + [stroke * [-1, 1] for stroke in right] + [nose, np.array([[0.0, -0.62], [0.0, -0.78]])]


def cat(key: jax.Array, n: int, noise: float = 0.02) -> jax.Array:
    """Draw points from the face of a cat, uniformly along the lines of the drawing.

    Args:
        key: one typed key.
        n: the number of points.
        noise: the standard deviation of Gaussian noise around the lines.

    Returns:
        float32 `[n, 2]`.

    Examples:
        >>> import jax
        >>> from jaxdiff import data
        >>> data.cat(jax.random.key(0), 100).shape
        (100, 2)
    """
    _, along, around, noise = _keys(key, n, noise)
    strokes = _cat_strokes()
    steps = [np.linalg.norm(np.diff(stroke, axis=0, prepend=stroke[:1]), axis=1) for stroke in strokes]
    length = np.concatenate(steps).cumsum()  # the jump to the first point of a stroke has length 0
    at = length[-1] * _uniform(along, n)
    x, y = np.concatenate(strokes).T
    points = jnp.stack([jnp.interp(at, length, x), jnp.interp(at, length, y)], axis=1).astype(jnp.float32)
    return points + noise * _normal(around, n)


def _keys(key, n, noise=0.0):
    check_room("points, with what they are made of,", check_whole("n", n, noun="point"), 2, itemsize=16)
    return *jax.random.split(check_key(key), 3), check_scalar("noise", noise, least=0)


def _polar(radius, angle):
    return (radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])).T.astype(jnp.float32)


def _uniform(key, n):
    return jax.random.uniform(key, (n,), jnp.float32)


def _normal(key, n):
    return jax.random.normal(key, (n, 2), jnp.float32)
