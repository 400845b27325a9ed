"""Evaluates the samples of a run by metrics, each with its floor: the same metric of held-out real examples."""

import dataclasses
import logging
import math
import os
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
    in_full,
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
from jaxdiff.samplers import Sampler
from jaxdiff.training.hosts import several
from jaxdiff.vocabulary import WORDS, Data, Guidance

SAMPLES = 2000  # the most samples by default
REFERENCE = 10_000  # the most training examples
AT_ONCE = 250  # examples per batch of features
LEAST = 10  # the fewest examples in a set: the blocks of the Fréchet distance's jackknife
Features = Literal["classifier", "pixels"]
"""The features of pictures that a run computes itself."""
_log = logging.getLogger(__name__)


def evaluate(
    run: Run,
    folder: str | os.PathLike,
    samples: int | None = None,
    features: Features | Callable[[np.ndarray], np.ndarray] | None = None,
    data: Data | None = None,
    split: Split = "test",
    sampler: Sampler | None = None,
    steps: int = 50,
    grid: Grid | None = None,
    condition: Sequence[str] = (),
    guidance: Guidance | None = None,
    seed: int = 0,
    batch_size: int = 256,
    precision: Computed | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure how far samples of a run are from its training examples. Writes evaluation.json.

    Samples are compared with at most 10,000 training examples, drawn at random from a fixed seed. The floor of each
    metric compares as many real examples of `split`, which the model has not seen, with the same training examples. The
    report is logged at level INFO.

    Pictures are compared by features: those of a classifier that is trained on the training pictures
    (`jaxdiff.runs.features`), or pixels if pictures have no labels. Results are comparable if the names and hashes of
    their features agree. Rows are compared by their standardised columns, and by Wasserstein distances in the data's
    units. Texts are compared by frequencies of tokens, maps by shares of categories.

    Samples of a conditional run are drawn for labels in their proportions among the training examples, or for the given
    columns of training rows; rows are compared together with their given columns.

    Args:
        run: the run, such as `jaxdiff.runs.load(folder)`.
        folder: the run's folder.
        samples: the number of samples; None means as many as the split has examples, at most 2,000.
        features: "classifier" or "pixels", or a function of pictures, uint8 `[n, height, width, channels]`, that
            returns floats `[n, d]`, such as `jaxdiff.pretrained.inception(folder)`.
        data: the data set to compare with, and to train the classifier on; None means the run's own.
        split: "validation" or "test".
        sampler: as in `jaxdiff.runs.draw`.
        steps: the number of steps.
        grid: the times of the steps; None means the sampler's default.
        condition: labels, by number or name, to which samples and real examples are restricted.
        guidance: a wrapper of the denoiser, such as `jaxdiff.vocabulary.parse("classifier_free(2)", Guidance)`.
        seed: the seed of the noise, 0 to 2^32 - 1.
        batch_size: how many samples are drawn at a time.
        precision: how the network is computed, as in `jaxdiff.runs.draw`.
        progress: whether to show a progress bar.

    Returns:
        The content of evaluation.json; its "metrics" have a "value", a "standard_error", a "floor" and a
        "floor_standard_error" each.

    Raises:
        ValueError: if the data cannot be read or are of another kind or shape, a split has fewer than 10 examples or
            fewer than `samples`, the features do not fit the data, samples are not finite, or the run has several
            processes.

    Examples:
        >>> from jaxdiff import runs
        >>> run = runs.load("runs/digits")  # doctest: +SKIP
        >>> report = runs.evaluate(run, "runs/digits", samples=400)  # doctest: +SKIP
        >>> report["metrics"]["frechet_distance"]["value"]  # doctest: +SKIP
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
    sampler = sampler or known.SAMPLER
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
    finite = [np.isfinite(part.reshape(n, -1)).all(1) for part in jax.tree.leaves(x)]
    if bad := int((~np.all(finite, axis=0)).sum()):
        raise ValueError(f"{bad} of {n} samples are not finite; check training.png of the run, or take more steps")
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
        "metrics": _with_floors(*figures),
        "evaluation_seconds": time.perf_counter() - began,
    }
    write_json(folder / "evaluation.json", report)
    remove_folder(keep)
    _log.info("%s", in_words(report))
    return report


def distances(real: np.ndarray, fake: np.ndarray, progress: bool = False) -> dict[str, Distance]:
    """Every metric between features fake [n, d] and real [m, d] by name, with its standard error."""
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
    """A report as a table with one line per metric: its value for samples, then its floor."""
    about = report["features"]
    named = f"{about['number']} features: {about['name']}"
    if "accuracy" in about:
        named += f", accuracy {about['accuracy']:.3f} ± {about['accuracy_standard_error']:.3f} on the floor"
    number = lambda value, error: f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
    lines = [
        f"{name:<20}{number(m['value'], m['standard_error']):<24}{number(m['floor'], m['floor_standard_error'])}"
        for name, m in report["metrics"].items()
    ]
    head = f"{'':<20}{report['samples']} samples".ljust(44) + f"floor: {report['floor']}"
    return "\n".join([f"compared with {report['reference']} of {report['data']}, by {named}", head, *lines])


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


def _with_floors(samples: dict[str, Distance], floor: dict[str, Distance]) -> dict[str, dict[str, float | None]]:
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
    """A setting as a word, or its repr if there is no word for it."""
    try:
        return None if value is None else WORDS.write(value, kind)
    except TypeError:
        with in_full():
            return repr(value)
