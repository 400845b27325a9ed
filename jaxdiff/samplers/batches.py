"""Many examples in batches of one size, the last filled up, so that nothing recompiles; what is done is kept.

A sample depends on its key and its index alone, so that it does not matter in which run or batch it was drawn: a run
that was stopped goes on with what is missing. A file that is not whole counts as missing, too.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.denoisers import DenoiserLike
from jaxdiff.samplers.mesh import agreed, copied, fetched, filled, spread, writes
from jaxdiff.samplers.sample import sample
from jaxdiff.samplers.sampler import check_cond, example_keys


def in_batches(
    compute: Callable[[np.ndarray], Any],
    index: np.ndarray,
    batch_size: int,
    progress: bool,
    label: str,
    mesh: Mesh | None = None,
    axis: int = -1,
) -> Iterator[tuple[np.ndarray, Any]]:
    """(part, compute(part)) for the parts of `index`, `batch_size` at a time; `axis` of its leaves is that of `part`.

    On a `mesh` it is the next multiple of the number of devices. The last batch is filled up, and the filling dropped.
    """
    batch_size = filled(batch_size, mesh)
    starts = range(0, len(index), batch_size)
    if progress and len(index):
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=label, unit="batch", leave=False)
    for start in starts:
        part = index[start : start + batch_size]
        result = fetched(compute(np.resize(part, batch_size)))
        count = len(part)
        yield part, jax.tree.map(lambda a, count=count: np.split(a, [count], axis)[0], result)


def over_all(
    compute: Callable[[np.ndarray], Any],
    index: np.ndarray,
    batch_size: int,
    progress: bool,
    label: str,
    mesh: Mesh | None = None,
):
    """`compute` over all of `index` in batches, its leaves joined to [..., len(index)]."""
    results = [result for _, result in in_batches(compute, index, batch_size, progress, label, mesh)]
    return jax.tree.map(lambda *batches: np.concatenate(batches, axis=-1), *results)


def fingerprint(tree) -> str:
    """A hash of a pytree's structure and the values of its leaves, the same in every process.

    Functions count by their names: where they lie in memory is another place each time.
    """
    structure = re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree.structure(tree)))
    digest = hashlib.sha256(structure.encode())
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(fetched(leaf))
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def write_npz(path: Path, **arrays) -> None:
    """Write by a rename once all is on the disk, so that whatever stops this, the file is whole: the old or the new."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _finished(folder: Path, axis: int, event: tuple[int, ...], mesh: Mesh | None) -> Iterator[tuple[np.ndarray, Any]]:
    """(index, x) of the whole files in `folder`."""
    names = json.loads(agreed(lambda: json.dumps(sorted(path.name for path in folder.glob("*.npz"))).encode(), mesh))
    for name in names:
        content = agreed((folder / name).read_bytes, mesh)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                index, x = file["index"], file["x"]
        except Exception:  # a damaged zip file is found out in many ways
            continue
        if x.shape[axis:] == (len(index), *event):
            yield index, x


def draw(
    key,
    denoiser: DenoiserLike,
    shape: tuple[int, ...],
    batch_size: int = 256,
    cond: Any = None,
    x_start=None,
    *,
    mesh: Mesh | None = None,
    keep: str | os.PathLike | None = None,
    progress: bool = False,
    **settings,
) -> np.ndarray:
    """What `jaxdiff.sample` draws, `batch_size` samples at a time; `settings` are its other arguments.

    Args:
        mesh: the devices each batch is split between, its size rounded up to a multiple of their number. Several
            processes call alike, and all get the samples.
        keep: a folder for finished batches, by whose help the same call goes on where it was stopped, in batches of
            any size; what other settings or weights left in it is removed. It is the caller's to remove at the end.
        progress: show a bar.

    Raises ValueError for fewer than one sample a batch, and what `jaxdiff.sample` raises.
    """
    n, *event = shape
    if n < 1 or batch_size < 1:
        raise ValueError(f"n = {n}, batch_size = {batch_size}; expected at least one")
    keys, axis = example_keys(key, n), int(settings.get("trajectory", False))
    every, model = (check_cond(denoiser, cond, n), x_start), copied(denoiser, mesh)

    def compute(part):
        part_keys, (part_cond, start) = spread((keys[part], jax.tree.map(lambda a: a[part], every)), mesh)
        return sample(part_keys, model, (len(part), *event), cond=part_cond, x_start=start, **settings)

    done, folder = [], None
    if keep is not None:
        folder = Path(keep) / fingerprint((key, denoiser, event, cond, x_start, settings))
        if writes(mesh):
            folder.mkdir(parents=True, exist_ok=True)
            for other in Path(keep).iterdir():
                if other != folder and re.fullmatch("[0-9a-f]{16}", other.name):
                    shutil.rmtree(other)
        done = list(_finished(folder, axis, tuple(event), mesh))
    missing = np.setdiff1d(np.arange(n), np.concatenate([index for index, _ in done]) if done else [])
    for part, x in in_batches(compute, missing, min(batch_size, n), progress, "samples", mesh, axis):
        if folder is not None and writes(mesh):
            write_npz(folder / f"{part[0]}.npz", index=part, x=x)
        done.append((part, x))
    _, first = np.unique(np.concatenate([index for index, _ in done]), return_index=True)
    return np.concatenate([x for _, x in done], axis).take(first[:n], axis)
