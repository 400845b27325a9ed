"""metrics.jsonl: one JSON object a line, its `step` rising."""

import json
import os
from pathlib import Path


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The lines of a metrics file, without a last line torn by a kill; ValueError for any other bad line."""
    lines = Path(path).read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}; repair or remove it") from error
    return records


class MetricsLog:
    """A metrics file open for appending, its lines past `step` dropped: a resumed run writes those again.

    `last` is the last record kept, or {}. Without a path it writes nothing: of several processes one does.
    """

    def __init__(self, path: str | os.PathLike | None, step: int):
        self.last, self._file = {}, None
        if path is None:
            return
        path = Path(path)
        kept = [r for r in read_metrics(path) if r["step"] <= step] if path.exists() else []
        self.last = kept[-1] if kept else {}
        draft = path.with_name(path.name + ".tmp")
        draft.write_text("".join(json.dumps(r) + "\n" for r in kept))
        draft.replace(path)
        self._file = path.open("a")

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
