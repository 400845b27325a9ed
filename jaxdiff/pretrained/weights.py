"""Files of weights: complete, finite, and, if a file holds their SHA-256, bit for bit as written."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, atomic_write, check_file, check_path, digest, read_json, require, said

_NAME = "diffusion_pytorch_model"
_WHOLE = re.compile(rf"{_NAME}(?:\.(?P<variant>[\w-]+?))?\.safetensors")
_SHARD = re.compile(rf"{_NAME}(?:\.[\w-]+?)?-\d+-of-\d+\.safetensors")
_INDEX = re.compile(rf"{_NAME}\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    named = (
        f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes() for name, array in sorted(arrays.items())
    )
    return digest(named)


def _check_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds a value that is not finite")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: complete, finite, and bit for bit as written if it holds their SHA-256."""
    require("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(check_file(path), framework="numpy") as file:
            known = (file.metadata() or {}).get("sha256")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    except (AttributeError, TypeError) as error:  # a dtype that NumPy does not have
        raise ValueError(f"{path} holds weights of an unsupported dtype ({error}); save them as float32") from error
    if known not in (None, _digest(arrays)):
        raise ValueError(f"{path} is damaged: its weights do not match their SHA-256; fetch it again")
    _check_finite(path, arrays)
    return arrays


def check_shapes(path: Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    """Raise if the shapes `found` in a file are not those `expected` by its config."""
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{path} has no weight {missing[0]!r} that its config requires; do both belong to one model?")
    if surplus := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{path} has {len(surplus)} weights that its config does not have, the first {surplus[0]!r}")
    for name, shape in sorted(expected.items()):
        if found[name] != shape:
            raise ValueError(f"{path}: {name} has shape {found[name]}; expected {shape} by its config")


def _names(tree) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two arrays have the name {min(twice)!r} in a file; rename one, without dots")
    return names


def _array(name: str, leaf) -> np.ndarray:
    array = None if isinstance(leaf, jax.core.Tracer) else as_array(leaf)
    if array is None or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name} = {said(leaf)}; expected an array of numbers")
    return np.asarray(array, order="C")


def write_params(path: str | os.PathLike, params) -> None:
    """Write a pytree of arrays to a safetensors file with its SHA-256, then read it back to verify it.

    The write is atomic. The name of a leaf is its path from the root, joined by dots.

    Args:
        path: the file, in a folder that exists.
        params: a pytree of arrays.

    Raises:
        TypeError: if a leaf is not an array of numbers.
        ValueError: if a value is not finite, or two leaves have the same name.
        OSError: if the file reads back differently, or cannot be written.

    Examples:
        >>> import pathlib
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> params = {"layer": {"bias": jnp.zeros(3)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "params.safetensors"
        ...     jd.pretrained.write_params(path, params)
        ...     path.exists()
        True
    """
    require("safetensors")
    from safetensors.numpy import save

    path = check_path("path", path)
    arrays = {name: _array(name, leaf) for name, leaf in zip(_names(params), jax.tree.leaves(params))}
    _check_finite(path, arrays)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; make it first")
    with atomic_write(path) as file:
        file.write(save(arrays, {"sha256": _digest(arrays)}))
    if _digest(read_weights(path)) != _digest(arrays):
        raise OSError(f"{path} reads back differently from what was written; check the disk")


def read_params(path: str | os.PathLike, like):
    """Read a pytree of arrays that `write_params` wrote.

    Args:
        path: the file.
        like: a pytree of arrays, concrete or abstract, with the structure, shapes and dtypes of the result.

    Returns:
        The arrays, with the structure and dtypes of `like`.

    Raises:
        TypeError: if a leaf of `like` is not an array.
        ValueError: if the file is damaged or cut short, a value is not finite, or names, shapes or kinds of numbers do
            not match `like`.

    Examples:
        >>> import pathlib
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> params = {"layer": {"bias": jnp.ones(3)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "params.safetensors"
        ...     jd.pretrained.write_params(path, params)
        ...     restored = jd.pretrained.read_params(path, like={"layer": {"bias": jnp.zeros(3)}})
        >>> restored["layer"]["bias"].tolist()
        [1.0, 1.0, 1.0]
    """
    path, names, leaves = check_path("path", path), _names(like), jax.tree.leaves(like)
    for name, leaf in zip(names, leaves):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"like: {name} = {said(leaf)}; expected arrays, such as the params of a new network")
    found = read_weights(path)
    shapes = {name: array.shape for name, array in found.items()}
    check_shapes(path, shapes, {name: tuple(leaf.shape) for name, leaf in zip(names, leaves)})
    for name, leaf in zip(names, leaves):
        if jnp.issubdtype(found[name].dtype, jnp.floating) != jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path}: {name} has dtype {found[name].dtype}; expected {leaf.dtype}")
    arrays = [jnp.asarray(found[name], leaf.dtype) for name, leaf in zip(names, leaves)]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def read_model(folder: Path, variant: str | None) -> tuple[Path, dict[str, np.ndarray]]:
    """The weights of a model written by diffusers' `save_pretrained`, and the file that represents them.

    They are in one file, or in several with an index. Of several variants `variant` is read, where None is the one
    without a name, or the only one. A folder is that of a pipeline, with unet/ in it, or of the model alone.
    """
    for place in (folder / "unet", folder):
        names = sorted(path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else []
        found = [(match["variant"], place / name) for name in names if (match := _match(name))]
        if found:
            path = _chosen(place, found, variant)
            return path, read_weights(path) if path.suffix == ".safetensors" else _read_shards(path)
    pickled = [path for place in (folder / "unet", folder) for path in place.glob("*.bin")]
    why = f": {pickled[0]} is a pickle, which is never loaded" if pickled else ""
    raise ValueError(f"{folder} has no {_NAME}.safetensors{why}; save the model by diffusers' save_pretrained")


def _match(name: str) -> re.Match | None:
    return None if _SHARD.fullmatch(name) else _WHOLE.fullmatch(name) or _INDEX.fullmatch(name)


def _chosen(place: Path, found: list[tuple[str | None, Path]], variant: str | None) -> Path:
    if variant is None and all(name is not None for name, _ in found):
        variant = found[0][0]
        if any(name != variant for name, _ in found):
            names = ", ".join(sorted({f'"{name}"' for name, _ in found}))
            raise ValueError(f"{place} has the variants {names}; choose one by variant=...")
    chosen = [path for name, path in found if name == variant]
    if not chosen:
        names = ", ".join(sorted("None" if name is None else f'"{name}"' for name, _ in found))
        raise ValueError(f"variant = {variant!r}, but {place} has the variants {names}")
    if len(chosen) > 1:
        raise ValueError(f"{place} has both {chosen[0].name} and {chosen[1].name}; remove the one that is out of date")
    return chosen[0]


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    """The weights in the files that an index lists."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()) or not files:
        raise ValueError(f'{index} has no "weight_map" of names of weights and files; fetch it again')
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(files.values())):
        if not _SHARD.fullmatch(name):
            raise ValueError(f"{index} names {name!r}; expected a file beside it, {_NAME}-00001-of-00002.safetensors")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index} names {name}, which does not exist; fetch it")
        part = read_weights(index.parent / name)
        if part.keys() != {weight for weight, file in files.items() if file == name}:
            raise ValueError(f"{index.parent / name} has other weights than {index.name} says; fetch both again")
        arrays |= part
    return arrays
