"""Draws samples in batches, and keeps finished batches in a folder.

A sample depends on its key and its index alone, not on the run or the batch that drew it. So an interrupted run resumes
with the missing samples. The samples of a truncated file count as missing.
"""

import functools
import inspect
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import (
    atomic_write,
    check_file,
    check_flag,
    check_path,
    check_precision,
    check_room,
    check_shared,
    check_whole,
    example_keys,
    fingerprint,
    own_folder,
    reduced,
    remove_folder,
)
from jaxdiff.arrays.batches import in_batches
from jaxdiff.arrays.mesh import agreed, check_mesh, copied, fetched, spread, writes
from jaxdiff.denoisers import DenoiserLike
from jaxdiff.samplers.sample import check_start_of_shape, sample
from jaxdiff.samplers.sampler import check_run


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of samples by the names under which a file stores them: "x", or "x['image']" and so on."""
    return {f"x{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _kept(folder: Path, mesh: Mesh | None, axis: int, like: Callable[[], Any]) -> Iterator[tuple]:
    """(index, x) of each whole file in `folder`; skips truncated files.

    `like` returns the shapes and dtypes of all samples, whose axis is `axis`.

    Raises:
        ValueError: for a file that holds something else; the message names it.
    """
    names = json.loads(agreed(lambda: json.dumps(sorted(path.name for path in folder.glob("*.npz"))).encode(), mesh))
    seen = np.empty(0, np.int64)
    for path in (folder / name for name in names):
        content = agreed(lambda path=path: check_file(path).read_bytes(), mesh)
        expected = _named(like())
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                index, found = file["index"], {name: file[name] for name in expected}
        except Exception:  # a damaged zip file raises many kinds of errors
            continue
        n = next(iter(expected.values())).shape[axis]
        wrong = None
        if index.ndim != 1 or index.dtype != np.int64:
            wrong = f"index is {index.dtype}{list(index.shape)}; expected int64 [n]"
        elif len(beyond := index[(index < 0) | (index >= n)]):
            wrong = f"it holds sample {beyond[0]}; expected 0 to {n - 1}"
        elif len(np.unique(index)) < len(index) or np.isin(index, seen).any():
            wrong = "it holds a sample twice, or one that another file holds"
        for name, asked in expected.items():
            x = found[name]
            if x.dtype.kind == "V" and x.dtype.itemsize == asked.dtype.itemsize:  # as NumPy stores bfloat16
                found[name] = x = x.view(asked.dtype)
            shape = (*asked.shape[:axis], index.size, *asked.shape[axis + 1 :])
            if wrong is None and (x.shape != shape or x.dtype != asked.dtype):
                wrong = f"{name} is {x.dtype}{list(x.shape)}; expected {asked.dtype}{list(shape)}"
        if wrong:
            raise ValueError(f"{path} does not belong to these samples: {wrong}. Remove it to draw its samples again")
        seen = np.concatenate([seen, index])
        yield index, jax.tree.unflatten(jax.tree.structure(like()), list(found.values()))


def draw(
    key,
    denoiser: DenoiserLike,
    shape: Any,
    batch_size: int = 256,
    cond: Any = None,
    x_start=None,
    *,
    mesh: Mesh | None = None,
    keep: str | os.PathLike | None = None,
    progress: bool = False,
    **settings,
) -> Any:
    """Draw samples as `jaxdiff.sample` does, `batch_size` at a time, into NumPy arrays.

    The samples do not depend on `batch_size`.

    Args:
        key: a typed key, or n keys, one a sample.
        denoiser: any denoiser.
        shape: (n, *event); for a product a tree of shapes.
        batch_size: number of samples drawn at once.
        cond: condition, leaves `[n, ...]`.
        x_start: x at the first time, `[n, *event]`; None draws it from the prior.
        mesh: devices that each batch is split between; the batch size is rounded up to a multiple of their number.
            With several processes a collective: every process must call it, and each returns all samples.
        keep: folder for finished batches. The same call resumes from it, with any batch size. Files from other settings
            or weights are removed. The folder remains after the call.
        progress: show a progress bar.
        **settings: other arguments of `jaxdiff.sample`.

    Returns:
        Samples `[n, *event]` as NumPy arrays, or `[steps + 1, n, *event]` with `trajectory=True`.

    Raises:
        ValueError: if `batch_size` is less than 1, if the samples do not fit in memory, or if a file in `keep` holds
            other samples.
        TypeError: for an unknown setting or a number that is not whole.

    Examples:
        >>> import tempfile
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x = jd.samplers.draw(jax.random.key(0), denoiser, (8, 1), batch_size=4, keep=folder, steps=5)
        >>> type(x).__name__, x.shape
        ('ndarray', (8, 1))
    """
    known = inspect.signature(sample).parameters
    if unknown := sorted(settings.keys() - known.keys()):
        raise TypeError(f"{', '.join(unknown)}: not a setting of jaxdiff.sample, which has {', '.join(known)}")
    sampler = settings.get("sampler", known["sampler"].default)
    check_run(denoiser, sampler)
    check_shared("denoiser", denoiser)
    check_flag("trajectory", settings.get("trajectory", False))
    check_precision(precision := settings.get("precision"))
    check_mesh(mesh)
    check_flag("progress", progress)
    process = denoiser.process
    shape = process.check_shape(shape)
    events = [event for _, *event in process.split(shape, "shape")]
    n = process.split(shape)[0][0]
    batch_size = check_whole("batch_size", batch_size)
    if x_start is not None:
        x_start = check_start_of_shape(process, x_start, shape)
    for event in events:
        check_room("an array of samples", n, *event, on_device=False)
    shape_of = lambda count: process.joined([(count, *event) for event in events])
    keys, axis = example_keys(key, n), int(settings.get("trajectory", False))
    every, model = (sampler.check_cond(denoiser, cond, shape), x_start), copied(denoiser, mesh)

    def compute(part):
        part_keys, (part_cond, start) = spread((keys[part], jax.tree.map(lambda a: a[part], every)), mesh)
        return sample(part_keys, model, shape_of(len(part)), cond=part_cond, x_start=start, **settings)

    done, folder = [], None
    if keep is not None:
        root = check_path("keep", keep)
        folder = root / fingerprint(
            key, *fetched((denoiser, cond, x_start)), events, settings, reduced(precision, mesh)
        )
        if writes(mesh):
            own_folder(root, folder.name)
            for other in root.iterdir():
                if other != folder and re.fullmatch("[0-9a-f]{16}", other.name):
                    remove_folder(other)
        asked = functools.partial(sample, keys, model, shape, cond=every[0], x_start=x_start, **settings)
        done = list(_kept(folder, mesh, axis, functools.cache(lambda: jax.eval_shape(asked))))
    missing = np.setdiff1d(np.arange(n), np.concatenate([index for index, _ in done]) if done else [])
    for part, x in in_batches(compute, missing, min(batch_size, n), progress, "samples", mesh, axis):
        if folder is not None and writes(mesh):
            with atomic_write(folder / f"{part[0]}.npz") as file:
                np.savez(file, index=part, **_named(x))
        done.append((part, x))
    order = np.argsort(np.concatenate([index for index, _ in done]))
    together = lambda *parts: np.concatenate(parts, axis).take(order, axis)
    return jax.tree.map(together, *(x for _, x in done))
