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
    """Read the data set of a config.

    Args:
        data: the data set, such as `Config.data`.
        split: "train", "validation" or "test". None means all examples, or those for testing if the data set is
            published in splits.
        condition: the columns that are given, for a table.
        progress: whether to show a progress bar.

    Returns:
        A data set of `jaxdiff.data`; for a toy distribution a table of 20,000 points. Files of a folder of pictures
        that are left out are logged as warnings.

    Raises:
        ValueError: if `data` is None, as in the config of a run whose data were given by a script.

    Examples:
        >>> from jaxdiff import runs
        >>> config = runs.Config(data="two_moons")
        >>> runs.read(config.data, "train").values.shape
        (20000, 2)
    """
    if data is None:
        raise ValueError("data = None: the data were given by a script; name a data set")
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
