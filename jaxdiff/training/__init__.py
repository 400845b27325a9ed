"""Training: a state, a compiled step, checkpoints, and the loop around them. Modules are imported when first used."""

import importlib
from typing import TYPE_CHECKING

from jaxdiff.arrays import require
from jaxdiff.arrays.mesh import batch_sharding, make_mesh

if TYPE_CHECKING:
    from jaxdiff.training.checkpoints import Checkpoints, load_params, recorded_identity, saved_steps
    from jaxdiff.training.hosts import connect, failing_together
    from jaxdiff.training.log import MetricsLog, read_metrics, tensorboard, wandb
    from jaxdiff.training.loop import train
    from jaxdiff.training.preemption import Preempted, Preemption
    from jaxdiff.training.state import TrainState
    from jaxdiff.training.step import Diverged, clipped_adam, make_step, prepare_as_given

_MODULE_OF = {
    "Checkpoints": "checkpoints",
    "Diverged": "step",
    "MetricsLog": "log",
    "Preempted": "preemption",
    "Preemption": "preemption",
    "TrainState": "state",
    "clipped_adam": "step",
    "connect": "hosts",
    "failing_together": "hosts",
    "load_params": "checkpoints",
    "make_step": "step",
    "prepare_as_given": "step",
    "read_metrics": "log",
    "recorded_identity": "checkpoints",
    "saved_steps": "checkpoints",
    "tensorboard": "log",
    "train": "loop",
    "wandb": "log",
}

__all__ = [
    "Checkpoints",
    "Diverged",
    "MetricsLog",
    "Preempted",
    "Preemption",
    "TrainState",
    "batch_sharding",
    "clipped_adam",
    "connect",
    "failing_together",
    "load_params",
    "make_mesh",
    "make_step",
    "prepare_as_given",
    "read_metrics",
    "recorded_identity",
    "saved_steps",
    "tensorboard",
    "train",
    "wandb",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("optax", "orbax", "tqdm")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__():
    return __all__
