"""metrics.jsonl, with one JSON object per line and rising `step`, and writers for TensorBoard and Weights & Biases.

A writer is called as `writer(metrics, picture)` with a line of metrics.jsonl and the path of a new picture or None.
When a run continues, both services keep what they have of earlier steps.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxdiff.arrays import NOFOLLOW, atomic_write, check_file, check_path, fingerprint, own_folder, require


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Read a metrics file.

    Args:
        path: the file, such as `folder/metrics.jsonl` of a run.

    Returns:
        One dict per line. A last line that a kill cut short is dropped.

    Raises:
        ValueError: if any other line is not a JSON object of numbers with a "step".

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff.training import read_metrics
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "metrics.jsonl")
        ...     _ = path.write_text('{"step": 50, "loss": 0.5}')
        ...     read_metrics(path)
        [{'step': 50, 'loss': 0.5}]
    """
    lines = check_file(check_path("path", path)).read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}; repair or remove it") from None
            break
        if not _is_record(records[-1]):
            raise ValueError(f'{path}, line {number}: expected numbers with a "step", not {line[:80]!r}; remove it')
    return records


def _is_record(value) -> bool:
    numbers = isinstance(value, dict) and all(isinstance(number, int | float) for number in value.values())
    return numbers and isinstance(value.get("step"), int)


class MetricsLog:
    """A metrics file open for appending, as a context manager.

    Args:
        path: the file; None writes nothing, for all processes but one.
        step: lines above this step are dropped, since a resumed run writes them again.

    Attributes:
        last: the last record, or {}.

    Examples:
        >>> import tempfile
        >>> from jaxdiff.training import MetricsLog, read_metrics
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with MetricsLog(f"{folder}/metrics.jsonl", step=0) as log:
        ...         log.write({"step": 50, "loss": 0.5})
        ...     read_metrics(f"{folder}/metrics.jsonl")
        [{'step': 50, 'loss': 0.5}]
    """

    def __init__(self, path: str | os.PathLike | None, step: int):
        self.last, self._file = {}, None
        if path is None:
            return
        path = check_path("path", path)
        kept = [r for r in read_metrics(path) if r["step"] <= step] if path.exists() else []
        self.last = kept[-1] if kept else {}
        with atomic_write(path) as file:
            file.write("".join(json.dumps(r) + "\n" for r in kept).encode())
        self._file = open(  # noqa: SIM115
            path, "a", opener=lambda path, flags: os.open(path, flags | NOFOLLOW)
        )

    def write(self, record: dict) -> None:
        """Append `record`; every number in it must be finite."""
        line = json.dumps(record, allow_nan=False)
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        self.last = record

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def tensorboard(folder: str | os.PathLike) -> Iterator[Callable[[dict, Path | None], None]]:
    """Open a writer for TensorBoard, as a context manager.

    Args:
        folder: the run's folder; the writer writes into `folder`/tensorboard.

    Returns:
        The context yields `write(metrics, picture)`, with a dict of numbers, "step" among them, and a path or None.

    Raises:
        ImportError: if tensorboardX is not installed.

    Examples:
        >>> from jaxdiff.training import tensorboard
        >>> with tensorboard("runs/digits") as write:  # doctest: +SKIP
        ...     write({"step": 50, "loss": 0.5}, None)
    """
    require("tensorboardX")
    import numpy as np
    from PIL import Image
    from tensorboardX import SummaryWriter

    events, opened = own_folder(check_path("folder", folder), "tensorboard"), []

    def write(metrics: dict, picture: Path | None) -> None:
        step = metrics["step"]
        if not opened:
            opened.append(SummaryWriter(os.fspath(events), purge_step=step, flush_secs=5))
        (writer,) = opened
        for name, value in metrics.items():
            if name != "step":
                writer.add_scalar(name, value, step)
        if picture is not None:
            writer.add_image("samples", np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")

    try:
        yield write
    finally:
        for writer in opened:
            writer.close()


@contextlib.contextmanager
def wandb(folder: str | os.PathLike, project: str, config: dict) -> Iterator[Callable[[dict, Path | None], None]]:
    """Open a writer for Weights & Biases, as a context manager. Each folder is one run there.

    Args:
        folder: the run's folder.
        project: the name of the project.
        config: the settings that are shown with the run.

    Returns:
        The context yields `write(metrics, picture)`, with a dict of numbers, "step" among them, and a path or None.

    Raises:
        ImportError: if wandb is not installed.

    Examples:
        >>> from jaxdiff.training import wandb
        >>> with wandb("runs/digits", project="digits", config={"steps": 4000}) as write:  # doctest: +SKIP
        ...     write({"step": 50, "loss": 0.5}, None)
    """
    require("wandb")
    import wandb

    folder = check_path("folder", folder).absolute()
    own_folder(folder, "wandb")
    name = fingerprint(os.fspath(folder))[:8]
    with wandb.init(project=project, name=folder.name, id=name, resume="allow", dir=folder, config=config) as run:

        def write(metrics: dict, picture: Path | None) -> None:
            seen = {} if picture is None else {"samples": wandb.Image(os.fspath(picture))}
            run.log({k: v for k, v in metrics.items() if k != "step"} | seen, step=metrics["step"])

        yield write
