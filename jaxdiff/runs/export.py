"""A run as three files, to hand on."""

import os
from pathlib import Path

import jaxdiff as jd
from jaxdiff.arrays import check_path, is_leftover, own_folder
from jaxdiff.runs.known import write_known
from jaxdiff.runs.run import WEIGHTS, Run
from jaxdiff.runs.summary import write_json

FILES = "config.json", "data.json", WEIGHTS


def export(run: Run, folder: str | os.PathLike) -> list[Path]:
    """Write the model of a run: its averaged weights as safetensors, its config, and what it keeps of its data.

    The folder is then a run's folder to `jaxdiff.runs.load` and all that calls it. Returns the files. Raises ValueError
    for a folder that is neither new nor empty.
    """
    folder = check_path("folder", folder)
    if folder.exists() and not (folder.is_dir() and all(map(_is_unfinished, folder.iterdir()))):
        raise ValueError(f"{folder} is not an empty folder; give one that is new or empty")
    jd.pretrained.write_params(own_folder(folder) / WEIGHTS, run.denoiser.params)
    write_known(folder, run.known)
    write_json(folder / "config.json", run.config.written())  # last: without it a folder is no run
    return [folder / name for name in FILES]


def _is_unfinished(path: Path) -> bool:
    """Whether an export that was stopped can have left this in an empty folder."""
    return is_leftover(path) or (path.name in FILES and not path.with_name("config.json").exists())
