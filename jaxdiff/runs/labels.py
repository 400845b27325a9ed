"""What runs of labelled examples have in common: the label as the condition."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import jaxdiff as jd
from jaxdiff.config import Config

LABEL = ("label",)
SHOWN = 256  # the most pictures in a grid


def check_label(config: Config, noun: str, classes: int, fix: str = "") -> None:
    """Raise ValueError if a config names a condition other than the label, or a label of fewer than two classes.

    `noun` is what the examples are called in the message.
    """
    if config.condition not in ((), LABEL):
        raise ValueError(f"condition = {' '.join(config.condition)}; {noun} have only one condition: label")
    if config.condition and classes < 2:
        raise ValueError(f"condition = label, but all {noun} are of one class{fix}")


class Labelled:
    """Labels 0 to `classes` - 1; `names` are the names of the classes, or empty."""

    classes: int
    names: tuple[str, ...]

    def dropout(self, config: Config) -> float | None:
        """The config's rate, by default 0.1; None without a condition."""
        return (0.1 if config.dropout is None else config.dropout) if config.condition else None

    def condition(self, config: Config, given: Sequence[str], n: int) -> np.ndarray | None:
        """Labels in turn, from numbers or names of classes: "3" and "cat", "3,cat" or "label=3"."""
        if not given:
            return None
        if not config.condition:
            raise ValueError(f"condition = {' '.join(given)}, but the run was trained without one; leave it out")
        return np.resize(np.array([label for text in given for label in self._labels(text)], np.int32), n)

    def _labels(self, text: str) -> list[int]:
        """The labels in a text. The name of a class may contain commas and "label="."""
        if text in self.names:
            return [self.names.index(text)]
        name, equals, value = text.partition("=")
        text = value if equals and name.strip() == "label" else text
        parts = [part.strip() for part in ([text] if text.strip() in self.names else text.split(","))]
        return [self._label(part) for part in parts]

    def _label(self, text: str) -> int:
        if text in self.names:
            return self.names.index(text)
        if text.isdecimal() and len(text) < 20 and int(text) < self.classes:
            return int(text)
        names = f"one of {', '.join(self.names)}, or " if self.names else ""
        raise ValueError(f"label = {text:.80}; expected {names}0 to {self.classes - 1}")

    def in_turn(self, source, n: int) -> np.ndarray:
        """The labels 0, 1, ... in turn."""
        return np.arange(n, dtype=np.int32) % self.classes

    def as_given(self, config, given, n) -> np.ndarray | None:
        """Labels in the proportions of `given`."""
        if not config.condition:
            return None
        return np.sort(given)[np.arange(n) * len(given) // n].astype(np.int32)

    def in_rows(self, x, path: Path, title: str | None, cond) -> Path:
        """Draw the first 256 samples in a grid. With several labels each has a row, of at most 16 samples."""
        given = [] if cond is None else np.asarray(cond).tolist()
        labels = list(dict.fromkeys(given))
        if len(labels) < 2:
            jd.plotting.sample_grid(x[:SHOWN], path, title=title)
            return path
        columns = min(16, *map(given.count, labels))
        shown = labels[: SHOWN // columns]
        rows = [x[np.flatnonzero(np.equal(given, label))[:columns]] for label in shown]
        names = [self.names[label] if self.names else str(label) for label in shown]
        jd.plotting.sample_grid(np.concatenate(rows), path, columns, title, names)
        return path
