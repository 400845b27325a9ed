"""Checkpoints of a run: one sealed folder per step.

    checkpoints/40/arrays/        Orbax: `ema`, the averaged weights, which are all that sampling needs; `state`, the
    rest checkpoints/40/manifest.json  the identity and the position of the run, and the SHA-256 of every file and of
    itself

A step is written in the background as 40.draft, first by Orbax and then the manifest, and renamed atomically: a folder
named after a step is complete. An old step is renamed before it is deleted. A kill at any moment therefore leaves the
complete steps and some drafts, which the next start removes.

Orbax reads a flipped bit as a different weight. Before a step is read, its files are validated against the manifest. If
one differs, is missing, is unknown or is a link, a warning names it and the step before is used. If no step is left,
reading raises: a run never starts from scratch in a folder that already holds one.
"""

import concurrent.futures
import json
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdiff.arrays import atomic_write, check_path, check_whole, digest, own_folder, read_json, remove_folder
from jaxdiff.arrays.mesh import free
from jaxdiff.training.flat import Flat, flat
from jaxdiff.training.hosts import barrier, first, from_first
from jaxdiff.training.log import read_metrics
from jaxdiff.training.preemption import uninterrupted
from jaxdiff.training.state import TrainState

MANIFEST = "manifest.json"
_STEP = re.compile("0|[1-9][0-9]{0,17}")


def _seal_of(content: dict) -> str:
    return digest([json.dumps(content, sort_keys=True).encode()])


def _files(step: Path) -> list[Path]:
    """The files of a step. Raises ValueError for a link, pipe, socket or device, without opening it."""
    found, folders = [], [step]
    for folder in folders:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise ValueError(f"{folder} is {_kind(folder)}; expected a checkpoint folder")
        for path in folder.iterdir():
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif stat.S_ISREG(mode):
                found.append(path)
            else:
                raise ValueError(f"{path} is {_kind(path)}; a checkpoint holds plain files only: do not trust this one")
    return sorted(found)


def _kind(path: Path) -> str:
    return "a symbolic link" if path.is_symlink() else "a file" if path.is_file() else "a pipe, a socket or a device"


def _seal(step: Path, content: dict) -> None:
    """Write the manifest of the files in `step`."""
    content = content | {"files": {str(path.relative_to(step)): digest([path]) for path in _files(step)}}
    sealed = json.dumps({"sha256": _seal_of(content), "content": content}, indent=1, allow_nan=False)
    with atomic_write(step / MANIFEST) as file:
        file.write(sealed.encode())


def read_manifest(step: Path) -> dict:
    """The manifest of a step, with every file validated against it. Raises ValueError for the first that differs."""
    held = _files(step)
    try:
        manifest = read_json(step / MANIFEST)
        content, sealed = manifest["content"], manifest["sha256"]
        number, files = content["step"], {str(step / name): known for name, known in content["files"].items()}
        found = _seal_of(content)
    except FileNotFoundError:
        raise ValueError(f"{step / MANIFEST} is missing") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{step / MANIFEST} is damaged ({error!r})") from None
    if found != sealed:
        raise ValueError(f"{step / MANIFEST} is damaged (its SHA-256 differs)")
    if str(number) != step.name:
        raise ValueError(f"{step} holds step {number}; rename it to {number}")
    for name in sorted({str(path) for path in held} ^ {*files, str(step / MANIFEST)}):
        raise ValueError(f"{name} is {'missing' if name in files else 'not part of this checkpoint'}")
    for name, known in files.items():
        if digest([Path(name)]) != known:
            raise ValueError(f"{name} is damaged (its SHA-256 differs)")
    return content


def _steps(folder: Path) -> list[int]:
    return sorted((int(path.name) for path in folder.iterdir() if _STEP.fullmatch(path.name)), reverse=True)


def _newest(folder: Path) -> tuple[int, dict] | None:
    """The newest undamaged step and its manifest. Process 0 reads, and every process gets its result."""
    chosen = -1
    steps = _steps(folder)
    if first():
        for step in steps:
            try:
                read_manifest(folder / str(step))
            except ValueError as error:
                warnings.warn(f"{error}: skipping step {step} of {folder}", stacklevel=4)
                continue
            chosen = step
            break
    chosen = from_first(chosen)
    if chosen >= 0:
        return chosen, read_json(folder / str(chosen) / MANIFEST)["content"]
    if steps:
        raise ValueError(
            f"{folder} has no undamaged checkpoint (of steps {', '.join(map(str, steps))}); restore a copy, or start "
            "in another folder"
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


def _items(state: TrainState, tree: Callable[[Flat], Any]) -> dict[str, Any]:
    """The items of a checkpoint, each a tree of arrays: files do not depend on how arrays are grouped in vectors."""
    parts = {"params": tree(state.weights), "opt_state": tree(state.moments), "ema": None}
    alone = {"step": state.step, "key": state.key, "finite": state.finite}
    return {"ema": tree(state.mean), "state": parts | alone}


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(ema=ocp.StandardCheckpointHandler(), state=ocp.StandardCheckpointHandler())


@uninterrupted()
def _restore(folder: Path, step: int, **targets) -> Any:
    """The items named in `targets`, each with the structure of its target, a pytree of arrays or abstract arrays."""
    arrays = folder / str(step) / "arrays"
    with ocp.Checkpointer(_handler()) as checkpointer:
        items = checkpointer.metadata(arrays).item_metadata
        for item, target in targets.items():
            saved, wanted = _shapes(items[item].tree), _shapes(target)
            for name in sorted(saved.keys() | wanted.keys()):
                if saved.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{folder / str(step)} does not fit this model and optimiser: {item}/{name} has shape "
                        f"{saved.get(name, 'none')} in the checkpoint and {wanted.get(name, 'none')} here; use the "
                        "settings of the run, or another folder"
                    )
        args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        return checkpointer.restore(arrays, args=ocp.args.Composite(**args))


class Checkpoints:
    """The checkpoints of a run, as a context manager.

    Saving continues in the background; a failure is raised by the next `check` or `save`, or on leaving the context.
    The constructor removes what an interrupted run left behind. It is a collective: with several processes every one
    must call it, and likewise `save` and `restore`.

    Args:
        folder: the folder of the checkpoints; made if missing.
        keep: how many of the newest steps are kept.

    Attributes:
        latest: the newest step that was saved or found undamaged, or None.
        manifest: the content of its manifest, a dict.

    Raises:
        ValueError: if every checkpoint in `folder` is damaged, or if checkpoints that were there have disappeared.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.training import Checkpoints, TrainState
        >>> state = TrainState.create(jax.random.key(0), {"w": jnp.ones(2)}, optax.sgd(0.1))
        >>> with tempfile.TemporaryDirectory() as run, Checkpoints(f"{run}/checkpoints") as checkpoints:
        ...     checkpoints.save(state, note="the start")
        ...     restored = checkpoints.restore(like=state)
        >>> checkpoints.latest, checkpoints.manifest
        (0, {'step': 0, 'note': 'the start'})
        >>> restored.params["w"]
        Array([1., 1.], dtype=float32)
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        self._folder, self._keep = check_path("folder", folder).absolute(), check_whole("keep", keep)
        if first():
            own_folder(self._folder.parent, self._folder.name)
            self._sweep()
        barrier("jaxdiff: checkpoints")
        found = _newest(self._folder)
        self.latest, self.manifest = found or (None, {})
        barrier("jaxdiff: newest checkpoint")
        if first():
            if self.latest is None:
                self._check_none_lost()
                with atomic_write(self._unsaved):
                    pass
            else:
                self._unsaved.unlink(missing_ok=True)
            for step in _steps(self._folder):  # a step above `latest` is damaged
                if self.latest is not None and step > self.latest:
                    _rename(self._folder / str(step), self._folder / f"{step}.damaged")
        self._checkpointer = ocp.AsyncCheckpointer(_handler())
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future | None = None

    @property
    def _unsaved(self) -> Path:
        """A file that marks a run without a checkpoint so far. If it and all checkpoints are missing, they are lost."""
        return self._folder.with_name(f".{self._folder.name}.unsaved")

    def _check_none_lost(self) -> None:
        """Raise ValueError if checkpoints have disappeared, naming the files that show that there were some."""
        traces = sorted(self._folder.glob("*.damaged"))
        log = self._folder.with_name("metrics.jsonl")
        if log.exists() and not self._unsaved.exists() and (records := read_metrics(log)):
            traces.append(log)
        if traces:
            of = f", whose last line is step {records[-1]['step']}" if log in traces else ""
            raise ValueError(
                f"the checkpoints in {self._folder} are gone, but there is {traces[-1]}{of}: restore the checkpoints, "
                f"or start in another folder. To start from scratch here, remove {', '.join(map(str, traces))}"
            )

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            if path.suffix in (".draft", ".old"):
                remove_folder(path)

    @uninterrupted()
    def save(self, state: TrainState, **content) -> None:
        """Start saving `state` under its step.

        Args:
            state: a finite state whose step is above every step saved so far.
            content: JSON for the manifest.

        Raises:
            ValueError: if the state is not finite, or its step is not above those saved so far.
            OSError: if the checkpoint, or the one before, could not be written.
        """
        step = int(state.step)
        if not state.finite:
            raise ValueError(f"the state is not finite at step {step}; the checkpoints before it are unchanged")
        if self.latest is not None and step <= self.latest:
            raise ValueError(
                f"step {step} is not above step {self.latest}, the newest in {self._folder}: restore that step, or "
                "save to another folder"
            )
        self.check(wait=True)
        draft = self._folder / f"{step}.draft"
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if first() and needed > free:
            raise _not_written(draft, OSError(f"it needs {needed:,} bytes, but {free:,} are free"))
        trees = {name: ocp.args.StandardSave(tree) for name, tree in _items(state, Flat.tree).items()}
        items = ocp.args.Composite(**trees)
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
                self._unsaved.unlink(missing_ok=True)
        except Exception as error:
            raise _not_written(draft, error) from error
        if first():
            for old in _steps(self._folder)[self._keep :]:
                unnamed = self._folder / f"{old}.old"
                _rename(self._folder / str(old), unnamed)
                remove_folder(unnamed)

    def check(self, wait: bool = False) -> None:
        """Raise the error of a save in the background, if one failed. With `wait`, first wait until the save ends."""
        if self._saving is not None and (wait or self._saving.done()):
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except BaseException:
                self.latest = max(_steps(self._folder), default=None)
                raise

    def restore(self, like: TrainState) -> TrainState:
        """Read the newest state.

        Args:
            like: a state with the structure, shapes and shardings to restore to, of arrays or abstract arrays.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if the parameters or the optimiser's state have other names or shapes than those of `like`.
        """
        self.check(wait=True)
        if self.latest is None:
            raise FileNotFoundError(f"{self._folder} has no complete checkpoint yet")
        items = _restore(self._folder, self.latest, **_items(like, Flat.abstract))
        found = items["state"]
        return TrainState(
            step=found["step"],
            weights=flat(found["params"], like.weights.form),
            moments=flat(found["opt_state"], like.moments.form),
            mean=flat(items["ema"], like.mean.form),
            key=found["key"],
            finite=found["finite"],
        )

    def __enter__(self) -> "Checkpoints":
        return self

    @uninterrupted()
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
        time.sleep(0.1)  # other threads may still be writing into it
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return OSError(
        f"the checkpoint of step {draft.stem} could not be written: {reason[0]}. Earlier checkpoints are unchanged: "
        f"make room in {draft.parent}, then run the same command to continue from the newest"
    )


def _rename(path: Path, to: Path) -> None:
    if os.path.lexists(to):
        remove_folder(to)
    path.rename(to)


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """List the steps of the checkpoints of a run.

    Args:
        folder: the run's folder.

    Returns:
        The steps, newest first, including those of damaged checkpoints; empty if there are none.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.training import Checkpoints, TrainState, saved_steps
        >>> state = TrainState.create(jax.random.key(0), {"w": jnp.ones(2)}, optax.sgd(0.1))
        >>> with tempfile.TemporaryDirectory() as run:
        ...     with Checkpoints(f"{run}/checkpoints") as checkpoints:
        ...         checkpoints.save(state)
        ...     saved_steps(run)
        [0]
    """
    checkpoints = check_path("folder", folder) / "checkpoints"
    return _steps(checkpoints) if checkpoints.is_dir() else []


def load_params(folder: str | os.PathLike, like):
    """Read the newest averaged (EMA) weights of a run.

    Args:
        folder: the run's folder.
        like: a pytree of arrays or of `jax.ShapeDtypeStruct` with the structure and shapes of the weights.

    Returns:
        The averaged weights, a pytree like `like`.

    Raises:
        FileNotFoundError: if `folder` is not a run or has no complete checkpoint.
        ValueError: if the weights have other names or shapes than those of `like`, or every checkpoint is damaged.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.training import Checkpoints, TrainState, load_params
        >>> params = {"w": jnp.ones(2)}
        >>> with tempfile.TemporaryDirectory() as run:
        ...     with Checkpoints(f"{run}/checkpoints") as checkpoints:
        ...         checkpoints.save(TrainState.create(jax.random.key(0), params, optax.sgd(0.1)))
        ...     load_params(run, like=params)
        {'w': Array([1., 1.], dtype=float32)}
    """
    folder = check_path("folder", folder)
    checkpoints = (folder / "checkpoints").absolute()
    if not checkpoints.is_dir():
        raise FileNotFoundError(f"{folder} is not a run: it has no checkpoints/. Give the folder that train wrote to")
    found = _newest(checkpoints)
    if found is None:
        raise FileNotFoundError(f"{checkpoints} has no complete checkpoint yet; train until one is saved")
    return free(_restore(checkpoints, found[0], ema=like)["ema"])


def recorded_identity(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the identity of a run: the settings, data and versions that decide its numbers.

    Args:
        folder: the run's folder.

    Returns:
        The identity in its newest undamaged checkpoint, JSON by name; {} if there is no checkpoint.

    Examples:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.training import Checkpoints, TrainState, recorded_identity
        >>> state = TrainState.create(jax.random.key(0), {"w": jnp.ones(2)}, optax.sgd(0.1))
        >>> with tempfile.TemporaryDirectory() as run:
        ...     with Checkpoints(f"{run}/checkpoints") as checkpoints:
        ...         checkpoints.save(state, identity={"data": "two moons"})
        ...     recorded_identity(run)
        {'data': 'two moons'}
    """
    checkpoints = (check_path("folder", folder) / "checkpoints").absolute()
    found = _newest(checkpoints) if checkpoints.is_dir() else None
    return {} if found is None else found[1].get("identity", {})
