"""The figures of a run: summary.json, likelihoods.jsonl and the last line of metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import training
from jaxdiff.arrays import atomic_write, check_file, read_json
from jaxdiff.training.hosts import first


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _finite(value) -> Any:
    """`value` with None in place of floats that are not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json of a run.

    Args:
        folder: the run's folder.

    Returns:
        Its figures by name; {} if there is no summary.json.

    Raises:
        ValueError: if the file is damaged.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "summary.json").write_text('{"steps": 4000}')
        ...     runs.read_summary(pathlib.Path(folder))
        {'steps': 4000}
    """
    path = folder / "summary.json"
    return read_json(path) if path.exists() else {}


def update_summary(folder: Path, **figures) -> dict[str, Any]:
    """Add `figures` to summary.json, which process 0 writes, and return its content."""
    summary = read_summary(folder) | _finite(figures)
    if first():
        write_json(folder / "summary.json", summary)
    return summary


def read_likelihoods(folder: Path) -> bytes:
    """The content of likelihoods.jsonl, b"" if there is none; ValueError if it is not a file."""
    path = folder / "likelihoods.jsonl"
    return check_file(path).read_bytes() if path.exists() else b""


def append_likelihood(folder: Path, **figures) -> None:
    """Append `figures` to likelihoods.jsonl as a line, which process 0 writes."""
    line = json.dumps(_finite(figures), allow_nan=False) + "\n"
    if first():
        before = read_likelihoods(folder)
        with atomic_write(folder / "likelihoods.jsonl") as file:
            file.write(before + line.encode())


def last_line(folder: Path) -> dict:
    """The last line of a run's metrics; {} if there is none."""
    path = folder / "metrics.jsonl"
    lines = training.read_metrics(path) if path.exists() else []
    return lines[-1] if lines else {}
