"""Reading the data that a config names."""

import inspect
import logging
from typing import Any, get_args

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.data.splits import Split
from jaxdiff.runs.rows import Points
from jaxdiff.vocabulary import Data

POINTS_IN_A_SET = 20_000
SPLITS = get_args(Split)
_log = logging.getLogger(__name__)


def read(data: Data | None, split: Split | None, condition: tuple[str, ...] = (), progress: bool = True) -> Any:
    """The examples of a split; of None all, where a set has all in one, and otherwise those for testing.

    Files of a folder that are left out are printed.
    """
    if data is None:
        raise ValueError("data = None: they were given by a script; name them")
    supplied: dict[str, Any] = {}
    if "key" in data.asks:
        split = split or "test"
        key = jax.random.fold_in(jax.random.key(0), SPLITS.index(split))
        return Points(np.asarray(data(key=key, n=POINTS_IN_A_SET)))
    if split is None and inspect.signature(data.make).parameters["split"].default is not None:
        split = "test"
    if "condition" in data.asks:
        supplied["condition"] = condition
    if "progress" in data.asks:
        supplied["progress"] = progress
    source = data(split=split, **supplied)
    if not isinstance(source, jd.data.ImageFolder):
        return source
    held = source.held(progress)
    for path, reason in source.skipped:
        _log.warning("left out %s: %s", path, reason)
    return held
