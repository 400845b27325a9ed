"""A run exported as three files."""

import os
from pathlib import Path

import jaxdiff as jd
from jaxdiff.arrays import check_path, is_leftover, own_folder
from jaxdiff.runs.known import write_known
from jaxdiff.runs.run import WEIGHTS, Run
from jaxdiff.runs.summary import write_json

FILES = "config.json", "data.json", WEIGHTS


def export(run: Run, folder: str | os.PathLike) -> list[Path]:
    """Write the model of a run as three files: its averaged weights as safetensors, its config, and data.json.

    `jaxdiff.runs.load` and the command line take the folder as they take a run's folder.

    Args:
        run: the run.
        folder: a new or empty folder.

    Returns:
        The paths of config.json, data.json and weights.safetensors.

    Raises:
        ValueError: if `folder` is neither new nor empty.

    Examples:
        >>> import tempfile
        >>> from jaxdiff import runs
        >>> config = runs.Config(data=None, network="mlp(hidden=(8,))")
        >>> known = runs.Pictures(event=(4, 4, 1), data_std=0.5, levels=17, classes=10)
        >>> run = runs.Run(config, known, runs.build(config, known))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in runs.export(run, folder)]
        ['config.json', 'data.json', 'weights.safetensors']
    """
    folder = check_path("folder", folder)
    if folder.exists() and not (folder.is_dir() and all(map(_is_unfinished, folder.iterdir()))):
        raise ValueError(f"{folder} is not an empty folder; give one that is new or empty")
    jd.pretrained.write_params(own_folder(folder) / WEIGHTS, run.denoiser.params)
    write_known(folder, run.known)
    config = run.known.completed(run.config)
    write_json(folder / "config.json", config.written())  # last, because it makes the folder a run
    return [folder / name for name in FILES]


def _is_unfinished(path: Path) -> bool:
    """Whether an interrupted export can have left this file."""
    return is_leftover(path) or (path.name in FILES and not path.with_name("config.json").exists())
