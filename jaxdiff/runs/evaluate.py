"""How good the samples of a run are: distances and shares beside their floor."""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from tqdm.auto import tqdm

from jaxdiff.arrays import (
    check_choice,
    check_flag,
    check_instance,
    check_path,
    check_whole,
    own_folder,
    remove_folder,
    said,
)
from jaxdiff.config import check_seed
from jaxdiff.data.splits import Split
from jaxdiff.metrics import Distance, density_coverage, frechet_distance, kernel_distance, precision_recall
from jaxdiff.processes.grids import Grid
from jaxdiff.runs.data import SPLITS
from jaxdiff.runs.run import Computed, Run, draw, every_device, examples
from jaxdiff.runs.summary import write_json
from jaxdiff.samplers import DPMSolverPP, Sampler
from jaxdiff.training.hosts import several
from jaxdiff.vocabulary import WORDS, Data, Guidance

SAMPLES = 2000  # unless told, where there are as many other examples
REFERENCE = 10_000  # training examples at most
AT_ONCE = 250  # examples
LEAST = 10  # examples of a set: the parts of the jackknife of the Fréchet distance
Features = Literal["classifier", "pixels"]
"""The features that a run makes of pictures itself."""


def evaluate(
    run: Run,
    folder: str | os.PathLike,
    samples: int | None = None,
    features: Features | Callable[[np.ndarray], np.ndarray] | None = None,
    data: Data | None = None,
    split: Split = "test",
    sampler: Sampler = DPMSolverPP(),
    steps: int = 50,
    grid: Grid | None = None,
    condition: Sequence[str] = (),
    guidance: Guidance | None = None,
    seed: int = 0,
    batch_size: int = 256,
    precision: Computed | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """How far samples of a run are from its training examples, into evaluation.json of its folder, and returns it.

    Every number has its floor beside it: the same of as many real examples of `split`, which the model has not seen,
    in the samples' place. At most 10,000 training examples are compared with, drawn from a seed, as the others are.

    Pictures are compared by features: of a classifier of the training pictures (`jaxdiff.runs.features`), or their
    pixels where they have no labels. Numbers can be compared where their features are the same by name and hash. Rows
    are compared as they are, each column standardised, and by their Wasserstein distances in the data's own units.

    Samples of a conditional run are given labels in the proportions that they have in the training examples, or columns
    of training rows, which are compared along with those that were drawn.

    Args:
        samples: how many; as many as there are examples in the split, at most 2,000, unless given.
        features: "classifier" or "pixels", or a function of pictures, uint8 [n, height, width, channels], that gives
            floats [n, d], such as `jaxdiff.pretrained.inception(folder)`.
        data: what to compare with in the place of what the run was trained on; the classifier is of them, too.
        split: "validation" or "test".
        condition: of a run of labels: samples of these alone, by number or name, beside the real examples of them.
        sampler, steps, grid, guidance, seed, batch_size, precision: as of `jaxdiff.runs.draw`.

    Raises ValueError for data that cannot be read or are of another kind or shape, fewer examples than the metrics
    need, more samples than the split has examples, features that are not for the data, and samples that are not finite.
    """
    check_instance("run", run, Run, "a run, such as jaxdiff.runs.load(folder)")
    folder = check_path("folder", folder)
    if samples is not None:
        check_whole("samples", samples, least=LEAST)
    check_whole("steps", steps)
    check_whole("batch_size", batch_size)
    check_seed(seed)
    check_flag("progress", progress)
    if not (features is None or callable(features)):
        check_choice("features", features, get_args(Features))
    check_choice("split", split, [name for name in SPLITS if name != "train"])
    if several():
        raise ValueError("samples are evaluated by one process; run `jaxdiff evaluate` without --coordinator")
    began, known = time.perf_counter(), run.known
    if guidance is not None:
        check_instance("guidance", guidance, Guidance, 'a guidance, such as parse("classifier_free(2)", Guidance)')
        run = dataclasses.replace(run, denoiser=guidance(denoiser=run.denoiser))
    if condition:
        known.condition(run.config, condition, 1)
    train, held_out = (examples(run, data, part, progress) for part in ("train", split))
    reference, given = known.real(train, run.config, condition, REFERENCE)
    others, labels = known.real(held_out, run.config, condition, samples or SAMPLES)
    n = samples or len(others)
    for part, found, least in (("train", len(reference), LEAST), (split, len(others), max(n, LEAST))):
        if found < least:
            raise ValueError(
                f"samples = {n}, but the {part} split has {found} examples to compare them with; expected at least "
                f"{least}: ask for fewer samples, or give more data"
            )
    compare, about = known.features(features, folder, train, (others, labels), progress)
    real, floor = (_features(compare, z, progress) for z in (reference, others))

    keep, cond = own_folder(folder, "evaluation.partial"), known.as_given(run.config, given, n)
    lasting = {"mesh": every_device(), "keep": keep, "progress": progress, "grid": grid}
    x = draw(run, n, sampler, steps, seed, cond, batch_size, precision, **lasting)
    if bad := int((~np.isfinite(x.reshape(n, -1)).all(1)).sum()):
        raise ValueError(f"{bad} of {n} samples are not finite; look at training.png of the run, or take more steps")
    drawn = known.whole(x, cond)
    key = jax.random.key(seed)
    figures = [
        distances(real, fake, progress) | known.distances(key, reference, z)
        for z, fake in ((drawn, _features(compare, drawn, progress)), (others, floor))
    ]
    report = {
        "data": WORDS.write(data or run.config.data, Data),
        "samples": n,
        "reference": f"{len(reference)} train examples",
        "floor": f"{len(others)} {split} examples",
        "features": about | {"number": real.shape[1]},
        "condition": list(condition),
        "sampler": _written(sampler, Sampler),
        "steps": steps,
        "grid": _written(grid, Grid),
        "guidance": _written(guidance, Guidance),
        "precision": precision,
        "seed": seed,
        "metrics": _beside(*figures),
        "evaluation_seconds": time.perf_counter() - began,
    }
    write_json(folder / "evaluation.json", report)
    remove_folder(keep)
    print(in_words(report), file=sys.stderr)
    return report


def distances(real: np.ndarray, fake: np.ndarray, progress: bool = False) -> dict[str, Distance]:
    """Every metric of features, fake [n, d] beside real [m, d], with its standard error: {its name: (value, error)}."""
    pairs = lambda found: {name: Distance(*found[2 * i : 2 * i + 2]) for i, name in enumerate(found._fields[::2])}
    metrics = {
        "Fréchet distance": lambda: {"frechet_distance": frechet_distance(fake, real)},
        "kernel distance": lambda: {"kernel_distance": kernel_distance(fake, real)},
        "precision and recall": lambda: pairs(precision_recall(real, fake)),
        "density and coverage": lambda: pairs(density_coverage(real, fake)),
    }
    found = {}
    for name in (bar := tqdm(metrics, unit="metric", leave=False, disable=not progress)):
        bar.set_description(name)
        found |= metrics[name]()
    return found


def in_words(report: dict[str, Any]) -> str:
    """A report as a table: a line for each metric, the samples beside their floor."""
    about = report["features"]
    named = f"{about['number']} features: {about['name']}"
    if "accuracy" in about:
        named += f", right about {about['accuracy']:.3f} ± {about['accuracy_standard_error']:.3f} of the floor's labels"
    number = lambda value, error: f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
    lines = [
        f"{name:<20}{number(m['value'], m['standard_error']):<24}{number(m['floor'], m['floor_standard_error'])}"
        for name, m in report["metrics"].items()
    ]
    head = f"{'':<20}{report['samples']} samples".ljust(44) + f"floor: {report['floor']}"
    return "\n".join([f"beside {report['reference']} of {report['data']}, by {named}", head, *lines])


def _features(compare: Callable[[Any], np.ndarray], examples: np.ndarray, progress: bool) -> np.ndarray:
    found = []
    parts = np.split(examples, range(AT_ONCE, len(examples), AT_ONCE))
    for part in tqdm(parts, desc="features", unit="batch", leave=False, disable=not progress):
        of_part = compare(part)
        shape, dtype = getattr(of_part, "shape", None), getattr(of_part, "dtype", None)
        if shape is None or len(shape) != 2 or shape[0] != len(part) or not np.issubdtype(dtype, np.floating):
            raise ValueError(f"the features of {len(part)} examples are {said(of_part)}; expected floats [n, d]")
        found.append(np.asarray(of_part))
    return np.concatenate(found)


def _beside(samples: dict[str, Distance], floor: dict[str, Distance]) -> dict[str, dict[str, float | None]]:
    error = lambda found: None if math.isnan(found.standard_error) else found.standard_error
    return {
        name: {
            "value": found.value,
            "standard_error": error(found),
            "floor": floor[name].value,
            "floor_standard_error": error(floor[name]),
        }
        for name, found in samples.items()
    }


def _written(value: Any, kind: Any) -> str | None:
    """A setting as a word, or as Python shows it where no word makes it."""
    try:
        return None if value is None else WORDS.write(value, kind)
    except TypeError:
        return repr(value)
