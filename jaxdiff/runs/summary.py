"""The figures of a run: summary.json, and the last line of its metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import training
from jaxdiff.arrays import atomic_write, read_json
from jaxdiff.training.hosts import first


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _finite(value) -> Any:
    """`value` with None for every float in it that is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_summary(folder: Path) -> dict[str, Any]:
    """What summary.json says, {} where there is none; ValueError for one that is damaged."""
    path = folder / "summary.json"
    return read_json(path) if path.exists() else {}


def update_summary(folder: Path, **figures) -> dict[str, Any]:
    """The summary with `figures`, which the first process writes."""
    summary = read_summary(folder) | _finite(figures)
    if first():
        write_json(folder / "summary.json", summary)
    return summary


def last_line(folder: Path) -> dict:
    """The last line of a run's metrics, {} where there is none."""
    path = folder / "metrics.jsonl"
    lines = training.read_metrics(path) if path.exists() else []
    return lines[-1] if lines else {}
