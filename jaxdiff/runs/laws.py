"""Likelihoods of some columns given others under a joint model of all columns, and their report in words."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.denoisers import SideBySide

DRAWS = 64  # draws of the bound of the categories per row


@dataclasses.dataclass(frozen=True)
class Asked:
    """The likelihood of rows. `given` are the columns that the user conditions on, `held` further ones."""

    known: Any
    key: jax.Array
    denoiser: Any
    parts: dict[str, np.ndarray]
    given: Sequence[str]
    lasting: dict
    settings: dict

    def _cond(self, held: Sequence[str]) -> dict[str, np.ndarray] | None:
        return {name: self.parts[name] for name in held} or None

    def density(self, numbers: Sequence[str], held: Sequence[str] = (), hidden: Sequence[str] = ()) -> np.ndarray:
        """log p(numbers | given, held), nats [n] in the user's units; NaN if the flow did not converge."""
        held = (*self.given, *held)
        model = self.known.given_of(self.known.given_of(self.denoiser, hidden), held)
        model = SideBySide(model, dict.fromkeys(numbers, 1)) if len(numbers) > 1 else model
        x = np.concatenate([self.parts[name] for name in numbers], axis=1)
        found = jd.log_likelihood(
            self.key, model, x, self._cond(held), precision=self.lasting["precision"], **self.settings
        )
        nats = np.where(found.converged, np.asarray(found.log_prob, np.float64), np.nan)
        return nats - self.known.log_scale(self.given)

    def bound(self, categories: Sequence[str], held: Sequence[str]) -> np.ndarray:
        """A lower bound of log p(categories | given, held), nats [n]."""
        held = (*self.given, *held)
        model = self.known.given_of(self.denoiser, held)
        data = {name: self.parts[name] for name in categories}
        lasting = {name: self.lasting[name] for name in ("progress", "mesh", "precision")}
        x = data if len(data) > 1 else data[categories[0]]
        found = jd.continuous_bound(self.key, model, x, DRAWS, batch_size=256, cond=self._cond(held), **lasting)
        return -found.per_example * len(categories) * math.log(2)


def law_of(names: Sequence[str], given: Sequence[str]) -> str:
    """The name of a law: "log p(x, y | z)"."""
    return f"log p({', '.join(names)}{' | ' if given else ''}{', '.join(given)})"


def in_words(laws: dict[str, str], figures: dict, categories: int) -> str:
    """The report: one line per law."""
    lines = []
    for name, of in laws.items():
        value, error = figures[name], figures[f"{name}_standard_error"]
        line = f"{of} {'>=' if name.endswith('bound') else '='} {value:.4f} +- {error:.4f} nats a row"
        if name == "numbers":
            line += f", a density ({figures['precision']}); one Gaussian has {figures['numbers_baseline']:.4f}"
        if name == "categories_bound":
            bits = -value / categories / math.log(2)
            line += (
                f", a probability, {bits:.4f} bits a value; their frequencies have {figures[f'{name}_baseline']:.4f}"
            )
        if name == "row_bound":
            line += ", the sum of that density and that probability"
        lines.append(line)
    return "\n".join(lines)
