"""Samples drawn in batches and kept in a folder.

A sample depends on its key and its index alone, so that it does not matter in which run or batch it was drawn: a run
that was stopped goes on with what is missing. A file that is not whole counts as missing, too.
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
    """The leaves of samples by the names that a file stores them under: "x", or "x['image']" and the like."""
    return {f"x{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _kept(folder: Path, mesh: Mesh | None, axis: int, like: Callable[[], Any]) -> Iterator[tuple]:
    """(index, x) of the files in `folder`, without those that an interruption left torn.

    `like` gives the shapes and dtypes of all samples, which lie along `axis`. Raises ValueError, by name, for a file of
    others.
    """
    names = json.loads(agreed(lambda: json.dumps(sorted(path.name for path in folder.glob("*.npz"))).encode(), mesh))
    seen = np.empty(0, np.int64)
    for path in (folder / name for name in names):
        content = agreed(lambda path=path: check_file(path).read_bytes(), mesh)
        expected = _named(like())
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                index, found = file["index"], {name: file[name] for name in expected}
        except Exception:  # a damaged zip file is found out in many ways
            continue
        n = next(iter(expected.values())).shape[axis]
        wrong = None
        if index.ndim != 1 or index.dtype != np.int64:
            wrong = f"index is {index.dtype}{list(index.shape)}; expected int64 [n]"
        elif len(beyond := index[(index < 0) | (index >= n)]):
            wrong = f"it holds sample {beyond[0]}; expected 0 to {n - 1}, those that are asked for"
        elif len(np.unique(index)) < len(index) or np.isin(index, seen).any():
            wrong = "it holds a sample that is there twice"
        for name, asked in expected.items():
            x = found[name]
            if x.dtype.kind == "V" and x.dtype.itemsize == asked.dtype.itemsize:  # as NumPy stores bfloat16
                found[name] = x = x.view(asked.dtype)
            shape = (*asked.shape[:axis], index.size, *asked.shape[axis + 1 :])
            if wrong is None and (x.shape != shape or x.dtype != asked.dtype):
                wrong = f"{name} is {x.dtype}{list(x.shape)}; expected {asked.dtype}{list(shape)}"
        if wrong:
            raise ValueError(f"{path} is no part of these samples: {wrong}. Remove it, and they are drawn again")
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
    """What `jaxdiff.sample` draws, as NumPy arrays, `batch_size` samples at a time; `settings` are its other arguments.

    Args:
        mesh: the devices each batch is split between, its size rounded up to a multiple of their number. Several
            processes call alike, and all get the samples.
        keep: a folder for finished batches, by whose help the same call goes on where it was stopped, in batches of
            any size; what other settings or weights left in it is removed. It is the caller's to remove at the end.
        progress: show a bar.

    Raises ValueError for fewer than one sample a batch, more samples than memory holds, and a whole file in `keep`
    that holds others than those asked for; TypeError for what is no whole number; and what `jaxdiff.sample` raises.
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
