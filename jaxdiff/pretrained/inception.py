"""The features of the Fréchet inception distance (FID), from a folder with Inception's weights."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_path, check_whole, digest, with_dtype
from jaxdiff.arrays.batches import in_batches
from jaxdiff.arrays.mesh import copied, spread
from jaxdiff.networks.inception import Inception
from jaxdiff.pretrained.weights import check_shapes, read_weights

_UNREAD = ("fc.weight", "fc.bias")  # the logits of 1,008 classes
_COUNTERS = ".num_batches_tracked"


@dataclasses.dataclass(frozen=True, eq=False)
class InceptionFeatures:
    """The 2,048 features per image that the Fréchet inception distance compares. `inception` makes it.

    Args:
        params: the weights.
        name: "inception" and the first digits of the SHA-256 of their file.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> features = jd.pretrained.inception("inception")  # doctest: +SKIP
        >>> features(np.zeros((2, 32, 32, 3), np.uint8)).shape  # doctest: +SKIP
        (2, 2048)
    """

    params: dict
    name: str

    def __call__(
        self,
        images,
        batch_size: int = 32,
        mesh: jax.sharding.Mesh | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Features `[n, 2048]`, float32, of images `[n, height, width, 3]`, uint8.

        Args:
            images: the images.
            batch_size: images per evaluation of the network.
            mesh: the devices over which each batch is sharded; None is the default device.
            progress: whether to show a progress bar.

        Raises:
            TypeError: if the images are not uint8.
            ValueError: if they have another shape.
        """
        dtype = getattr(images, "dtype", None)
        if dtype != np.uint8:
            raise TypeError(f"{with_dtype('images', images)}; expected uint8, the pixels of pictures of 8 bits")
        if images.ndim != 4 or 0 in images.shape or images.shape[-1] != 3:
            raise ValueError(
                f"images has shape {images.shape}; expected [n, height, width, 3]: repeat grey ones in three channels"
            )
        params = copied(self.params, mesh)
        compute = lambda part: _features(params, spread(images[part], mesh))
        size = min(check_whole("batch_size", batch_size), len(images))
        parts = in_batches(compute, np.arange(len(images)), size, progress, "features", mesh, axis=0)
        return np.concatenate([features for _, features in parts])


@jax.jit
def _features(params, images) -> jax.Array:
    return Inception()(params, images)


def inception(folder: str | os.PathLike) -> InceptionFeatures:
    """The network of the Fréchet inception distance (FID), with the weights in a folder.

    The folder holds one safetensors file, with the names of the PyTorch port of the graph of 2015-12-05 that defines
    the FID; pytorch-fid and others use the same port. It is published as a pickle, which is never loaded here. If you
    trust it, convert it once with PyTorch:

        weights = torch.load("pt_inception-2015-12-05-6726825d.pth", weights_only=True)
        safetensors.torch.save_file(weights, "inception/model.safetensors")

    Images are preprocessed as in that graph: resized to 299 x 299 by TensorFlow 1's bilinear rule, which reads row i at
    i height/299 without smoothing (`jaxdiff.networks.inception.resized` has the formula), and scaled to (x - 128)/128.
    Torch-fidelity does the same. Other tools give other distances: pytorch-fid reads row i at (i + 1/2) height/299 -
    1/2 and scales to 2 x/255 - 1; clean-fid resizes by a bicubic rule with smoothing.

    Products have JAX's default precision; on a GPU, call it under `jax.default_matmul_precision("highest")` for
    products in float32.

    Args:
        folder: the folder.

    Returns:
        A function from images, uint8 `[n, height, width, 3]`, to features `[n, 2048]`.

    Raises:
        ValueError: if the folder does not exist or does not hold exactly one safetensors file; if weights are missing,
            unknown, damaged, of other shapes, or not finite.

    Source:
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium".

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> features = jd.pretrained.inception("inception")  # doctest: +SKIP
        >>> images = samples = np.zeros((4, 32, 32, 3), np.uint8)
        >>> jd.metrics.frechet_distance(features(images), features(samples))  # doctest: +SKIP
    """
    folder = check_path("folder", folder)
    path = _file(folder)
    found = {name: array for name, array in read_weights(path).items() if not name.endswith(_COUNTERS)}
    found = {name: array for name, array in found.items() if name not in _UNREAD}
    check_shapes(path, {name: array.shape for name, array in found.items()}, Inception().shapes)
    for name, array in found.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path}: {name} has dtype {array.dtype}; expected floating values")
        if name.endswith(".running_var") and array.min() < 0:
            raise ValueError(f"{path}: {name} has a value below 0; expected variances")
    params = {name: jnp.asarray(array, jnp.float32) for name, array in found.items()}
    return InceptionFeatures(params, f"inception {digest([path])[:8]}")


def _file(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with Inception's weights as a file of safetensors")
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder} has {len(found)} files of safetensors; expected Inception's weights alone")
    pickles = [path for path in sorted(folder.iterdir()) if path.suffix in (".pth", ".pt", ".pkl", ".bin")]
    why = f": {pickles[0].name} is a pickle, which is never loaded" if pickles else ""
    raise ValueError(
        f"{folder} has no file of safetensors{why}; help(jaxdiff.pretrained.inception) says how to make it"
    )
