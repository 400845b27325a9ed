"""Checkpoints of a run: one folder a step, written in the background and named when complete (Orbax).

A checkpoint has two items: `ema`, the averaged weights and all that sampling needs; and `state`, the rest.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxdiff.training.state import TrainState


def _manager(folder: Path, **options) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={item: ocp.StandardCheckpointHandler() for item in ("ema", "state")},
    )


def _shapes(tree) -> dict[str, tuple]:
    def stored(leaf):  # a typed key is stored as its data
        return jax.eval_shape(jax.random.key_data, leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    tree = jax.tree.map(stored, tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _restore(manager: ocp.CheckpointManager, step: int, **targets) -> Mapping:
    """The items named in `targets`, each as the pytree of arrays (abstract or not) given for it."""
    folder = Path(manager.directory) / str(step)
    links = [p for p in folder.rglob("*") if p.is_symlink()]
    if links:
        raise ValueError(f"{links[0]} is a symbolic link; a checkpoint holds plain files only: do not trust this one")
    for item, target in targets.items():
        saved, wanted = _shapes(manager.item_metadata(step)[item].tree), _shapes(target)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise ValueError(
                    f"{folder} does not fit this model and optimiser: {item}/{name} has shape "
                    f"{saved.get(name, 'none')} in the checkpoint and {wanted.get(name, 'none')} here; use "
                    "the settings the run was made with, or another folder"
                )
    args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
    return manager.restore(step, args=ocp.args.Composite(**args))


class Checkpoints:
    """The checkpoints in `folder` (made if missing), the newest `keep` of them kept; a context manager.

    Saving goes on in the background; a failure is raised at the next save or on leaving the context. What an
    interrupted save left behind is removed at the start.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep = {keep}; expected at least 1 checkpoint")
        self._manager = _manager(
            Path(folder),
            preservation_policy=checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Start saving `state` under its step, which must be above every step saved so far, and finite."""
        step = int(state.step)
        if not state.finite:
            raise ValueError(f"the run stopped being finite at step {step}; its checkpoints are left as they are")
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(state.ema),
            state=ocp.args.StandardSave(dataclasses.replace(state, ema=None)),
        )
        if not self._manager.save(step, args=items):
            raise ValueError(
                f"step {step} is not above step {self.latest}, the newest in {self._manager.directory}: "
                "restore that first, or save to another folder"
            )

    def restore(self, like: TrainState) -> TrainState:
        """The newest complete state, with the structure, shapes and placement of `like` (arrays or abstract).

        Raises FileNotFoundError where there is none, ValueError where it has other parameters than `like`.
        """
        if self.latest is None:
            raise FileNotFoundError(f"{self._manager.directory} has no complete checkpoint yet")
        items = _restore(self._manager, self.latest, ema=like.ema, state=dataclasses.replace(like, ema=None))
        return dataclasses.replace(items["state"], ema=items["ema"])

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()


def load_params(folder: str | os.PathLike, like):
    """The newest averaged weights of the run in `folder`; `like` is a pytree of arrays, abstract or not.

    Raises FileNotFoundError where `folder` is not a run or has no complete checkpoint, ValueError where its
    parameters are others than `like`.
    """
    checkpoints = Path(folder) / "checkpoints"
    if not checkpoints.is_dir():
        raise FileNotFoundError(f"{folder} is not a run: it has no folder checkpoints/. Give the folder train wrote to")
    with _manager(checkpoints, create=False) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{checkpoints} has no complete checkpoint yet; train until the first is saved")
        return _restore(manager, step, ema=like)["ema"]
