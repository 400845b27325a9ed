"""Checkpoints of a run: one sealed folder a step.

    checkpoints/40/arrays/        Orbax: `ema`, the averaged weights and all that sampling needs; `state`, the rest
    checkpoints/40/manifest.json  what the run is and where it stands, and the SHA-256 of every file; its own as well

A step is written as 40.draft in the background, by Orbax and then the manifest, and takes its name by one rename: a
folder with a step's name is whole. An old one loses its name before it is deleted. So a kill at any moment leaves the
sealed steps and things that have no step's name, which the next start removes.

Orbax reads a flipped bit as another weight. Before a step is read, its files are held against the manifest; where one
differs, is missing, is not known or is a link, it is named in a warning and the step before is taken. Where no step is
left, reading raises: a run never begins anew in a folder that holds one.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdiff.training.hosts import barrier, first, from_first
from jaxdiff.training.state import TrainState

MANIFEST = "manifest.json"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_symlink() or path.is_file())


def _seal(step: Path, content: dict) -> None:
    """Write the manifest of all that `step` holds."""
    content = content | {"files": {str(path.relative_to(step)): _sha256(path) for path in _files(step)}}
    with open(step / MANIFEST, "w") as file:
        json.dump({"sha256": _digest(content), "content": content}, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(step: Path) -> dict:
    """The manifest of a step, after every file was held against it; ValueError names the first that does not fit."""
    for path in [step, *_files(step)]:
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; a checkpoint holds plain files only: do not trust this one")
    try:
        manifest = json.loads((step / MANIFEST).read_text())
        content, sealed = manifest["content"], manifest["sha256"]
        files = {str(step / name): digest for name, digest in content["files"].items()}
    except FileNotFoundError:
        raise ValueError(f"{step / MANIFEST} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{step / MANIFEST} is damaged ({error})") from None
    if _digest(content) != sealed:
        raise ValueError(f"{step / MANIFEST} is damaged (its SHA-256 is another)")
    for name in sorted({str(path) for path in _files(step)} ^ {*files, str(step / MANIFEST)}):
        raise ValueError(f"{name} is {'missing' if name in files else 'not of this checkpoint'}")
    for name, digest in files.items():
        if _sha256(Path(name)) != digest:
            raise ValueError(f"{name} is damaged (its SHA-256 is another)")
    return content


def _steps(folder: Path) -> list[int]:
    return sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)


def _newest(folder: Path) -> tuple[int, dict] | None:
    """The newest step that is as it was written, and its manifest; the same in all processes, of which one looks."""
    chosen = -1
    steps = _steps(folder)
    if first():
        for step in steps:
            try:
                read_manifest(folder / str(step))
            except ValueError as error:
                warnings.warn(f"{error}: leaving step {step} of {folder}", stacklevel=4)
                continue
            chosen = step
            break
    chosen = from_first(chosen)
    if chosen >= 0:
        return chosen, json.loads((folder / str(chosen) / MANIFEST).read_text())["content"]
    if steps:
        raise ValueError(
            f"{folder} has no checkpoint that is whole (of {', '.join(map(str, steps))}); put back a copy of it, or "
            "start in another folder"
        )
    return None


def _shapes(tree) -> dict[str, tuple]:
    def stored(leaf):  # a typed key is stored as its data
        return jax.eval_shape(jax.random.key_data, leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    tree = jax.tree.map(stored, tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(ema=ocp.StandardCheckpointHandler(), state=ocp.StandardCheckpointHandler())


def _restore(folder: Path, step: int, **targets) -> Any:
    """The items named in `targets`, each as the pytree of arrays (abstract or not) given for it."""
    arrays = folder / str(step) / "arrays"
    with ocp.Checkpointer(_handler()) as checkpointer:
        items = checkpointer.metadata(arrays).item_metadata
        for item, target in targets.items():
            saved, wanted = _shapes(items[item].tree), _shapes(target)
            for name in sorted(saved.keys() | wanted.keys()):
                if saved.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{folder / str(step)} does not fit this model and optimiser: {item}/{name} has shape "
                        f"{saved.get(name, 'none')} in the checkpoint and {wanted.get(name, 'none')} here; use "
                        "the settings the run was made with, or another folder"
                    )
        args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        return checkpointer.restore(arrays, args=ocp.args.Composite(**args))


class Checkpoints:
    """The checkpoints in `folder` (made if missing), the newest `keep` of them kept; a context manager.

    Saving goes on in the background; a failure is raised by the next `check` or `save`, or on leaving the context. The
    start removes what an interrupted run left behind; of several processes all must make one.

    Attributes:
        latest: the newest step saved or found whole, or None.
        manifest: what it says.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep = {keep}; expected at least 1 checkpoint")
        self._folder, self._keep = Path(folder).absolute(), keep
        if first():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
        barrier("jaxdiff: checkpoints")
        found = _newest(self._folder)
        self.latest, self.manifest = found or (None, {})
        barrier("jaxdiff: newest checkpoint")
        if first():
            for step in _steps(self._folder):  # damaged, since newer than the newest that is whole
                if self.latest is not None and step > self.latest:
                    _rename(self._folder / str(step), self._folder / f"{step}.damaged")
        self._checkpointer = ocp.AsyncCheckpointer(_handler())
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future | None = None

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            if path.suffix in (".draft", ".old") and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)

    def save(self, state: TrainState, **content) -> None:
        """Start saving `state` under its step, which must be above every step saved so far, and finite.

        `content` is JSON for the manifest.
        """
        step = int(state.step)
        if not state.finite:
            raise ValueError(f"the run stopped being finite at step {step}; its checkpoints are left as they are")
        if self.latest is not None and step <= self.latest:
            raise ValueError(
                f"step {step} is not above step {self.latest}, the newest in {self._folder}: "
                "restore that first, or save to another folder"
            )
        self.check(wait=True)
        draft = self._folder / f"{step}.draft"
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if first() and needed > free:
            raise _not_written(draft, OSError(f"it needs {needed:,} bytes, and {free:,} are free"))
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(state.ema),
            state=ocp.args.StandardSave(dataclasses.replace(state, ema=None)),
        )
        try:
            if first():
                draft.mkdir()
            barrier(f"jaxdiff: draft {step}")
            self._checkpointer.save(draft / "arrays", args=items)
        except Exception as error:
            raise _not_written(draft, error) from error
        manifest = {"step": step, **content}
        self._saving = self._background.submit(self._finish, step, draft, manifest)
        self.latest, self.manifest = step, manifest

    def _finish(self, step: int, draft: Path, manifest: dict) -> None:
        try:
            self._checkpointer.wait_until_finished()
            if first():
                _seal(draft, manifest)
                draft.rename(self._folder / str(step))
        except Exception as error:
            raise _not_written(draft, error) from error
        if first():
            for old in _steps(self._folder)[self._keep :]:
                unnamed = self._folder / f"{old}.old"
                (self._folder / str(old)).rename(unnamed)
                shutil.rmtree(unnamed)

    def check(self, wait: bool = False) -> None:
        """Raise what went wrong in the background since; `wait` for a save that is on its way."""
        if self._saving is not None and (wait or self._saving.done()):
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except BaseException:
                self.latest = max(_steps(self._folder), default=None)
                raise

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, with the structure, shapes and placement of `like` (arrays or abstract).

        Raises FileNotFoundError where there is none, ValueError where it has other parameters than `like`.
        """
        self.check(wait=True)
        if self.latest is None:
            raise FileNotFoundError(f"{self._folder} has no complete checkpoint yet")
        items = _restore(self._folder, self.latest, ema=like.ema, state=dataclasses.replace(like, ema=None))
        return dataclasses.replace(items["state"], ema=items["ema"])

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.check(wait=True)
        finally:
            self._background.shutdown()
            self._checkpointer.close()


def _not_written(draft: Path, error: Exception) -> OSError:
    for _ in range(20):
        shutil.rmtree(draft, ignore_errors=True)
        if not draft.exists():
            break
        time.sleep(0.1)  # what else was being written into it still is
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return OSError(
        f"the checkpoint of step {draft.stem} could not be written: {reason[0]}. Those before are in place: make room "
        f"in {draft.parent}, and the same command goes on from the newest"
    )


def _rename(path: Path, to: Path) -> None:
    if to.exists():
        shutil.rmtree(to)
    path.rename(to)


def load_params(folder: str | os.PathLike, like):
    """The newest averaged weights of the run in `folder`; `like` is a pytree of arrays, abstract or not.

    Raises FileNotFoundError where `folder` is not a run or has no complete checkpoint, ValueError where its
    parameters are others than `like`, or none of its checkpoints is whole.
    """
    checkpoints = (Path(folder) / "checkpoints").absolute()
    if not checkpoints.is_dir():
        raise FileNotFoundError(f"{folder} is not a run: it has no folder checkpoints/. Give the folder train wrote to")
    found = _newest(checkpoints)
    if found is None:
        raise FileNotFoundError(f"{checkpoints} has no complete checkpoint yet; train until the first is saved")
    return _restore(checkpoints, found[0], ema=like)["ema"]
