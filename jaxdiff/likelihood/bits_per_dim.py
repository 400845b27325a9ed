"""Bits per dimension of integer images, with an analysis of their error."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import (
    Precision,
    check_flag,
    check_function,
    check_precision,
    check_scalar,
    check_shared,
    check_whole,
    example_keys,
    fingerprint,
    said,
)
from jaxdiff.arrays.batches import in_batches
from jaxdiff.arrays.mesh import check_mesh, copied, fetched
from jaxdiff.denoisers import DenoiserLike, check_cond, check_numbers
from jaxdiff.likelihood.budget import ErrorBudget, measure
from jaxdiff.likelihood.dequantization import Dequantizer, Uniform, check_images, place
from jaxdiff.likelihood.estimate import Estimator, condition_of
from jaxdiff.likelihood.mean import finite, mean_of
from jaxdiff.likelihood.record import Record, named
from jaxdiff.likelihood.trace import Hutchinson, Trace, check_trace
from jaxdiff.samplers import ProbabilityFlow
from jaxdiff.samplers.probability_flow import check_flow

_FIRST_LOOK = 64  # examples before a target error may end the run
_REPEATS = 64


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of a data set, with its standard error.

    Attributes:
        bits_per_dim: mean over the examples that converged.
        standard_error: over examples; it covers all independent noise, of images, dequantisation and probes.
        kind: description of the estimate and its condition.
        precision: the arithmetic, "float32" or what is less precise.
        examples: number of examples evaluated: all, unless a target error was met before.
        not_converged: number of these whose solve failed.
        evaluations_mean: mean evaluations of the flow an estimate; NaN for an implicit solver, which does not count
            them.
        evaluations_max: largest number of evaluations; -1 for an implicit solver.
        reached: whether the target error was met; None without one.
        budget: the `ErrorBudget`; None without one.
        per_example: mean over the repeats of each image, `[n]`; NaN if a solve failed or none was made.
        repeats: number of estimates of each image, `[n]`.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[0.25]])
        >>> images = np.array([[100], [128], [150], [180]])
        >>> found = jd.bits_per_dim(jax.random.key(0), denoiser, images, budget=0)
        >>> found.per_example.shape, found.examples, found.not_converged
        ((4,), 4, 0)
    """

    bits_per_dim: float
    standard_error: float
    kind: str
    precision: str
    examples: int
    not_converged: int
    evaluations_mean: float
    evaluations_max: int
    reached: bool | None
    budget: ErrorBudget | None
    per_example: np.ndarray = dataclasses.field(repr=False)
    repeats: np.ndarray = dataclasses.field(repr=False)

    def __str__(self):
        lost = f", {self.not_converged} of {self.examples} not converged and left out" if self.not_converged else ""
        known = self.evaluations_max >= 0
        cost = f", {self.evaluations_mean:.0f} evaluations each, at most {self.evaluations_max}" if known else ""
        times = f" {self.repeats.max()} times" if self.repeats.max() > 1 else ""
        seen = f"{self.examples} of {len(self.repeats)}" if self.examples < len(self.repeats) else self.examples
        lines = [
            f"{self.bits_per_dim:.4f} +- {self.standard_error:.4f} bits/dim "
            f"({self.kind}; {self.precision}; {seen} examples{times}{cost}{lost})"
        ]
        if self.reached is False:
            lines.append("the target error was not met: the spread of the images alone exceeds it; give more images")
        return "\n".join(lines + [str(self.budget)] * (self.budget is not None))


def _per_example(rows: dict, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each example's estimates, NaN if one failed or none was made, and their number."""
    repeats = np.bincount(rows["example"], minlength=n)
    total = np.bincount(rows["example"], np.where(rows["converged"], rows["bits_per_dim"], np.nan), n)
    return np.where(repeats > 0, total / np.maximum(repeats, 1), np.nan), repeats


def _spread_alone(rows: dict, n: int) -> float:
    """A lower bound on the standard error that any number of repeats would leave: two of its standard errors below."""
    per_example, repeats = _per_example(rows, n)
    found = np.isfinite(per_example)
    if found.sum() < 2:
        return math.inf
    used = found[rows["example"]]
    squares = (rows["bits_per_dim"] - per_example[rows["example"]])[used] ** 2
    within = squares.sum() / np.maximum(repeats[found] - 1, 0).sum()
    total = per_example[found].var(ddof=1)
    alone = total * (1 - 2 * math.sqrt(2 / (found.sum() - 1))) - within / repeats[found].mean()
    return math.sqrt(max(alone, 0.0) / found.sum())


def bits_per_dim(
    key,
    denoiser: DenoiserLike,
    images_uint8,
    dequantization_samples: int = 1,
    levels: int = 256,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    *,
    flow: ProbabilityFlow = ProbabilityFlow(),
    trace: Trace = Hutchinson(),
    t_min: float = 1e-5,
    source: Callable | None = None,
    target_error: float | None = None,
    budget: int = 64,
    record: str | os.PathLike | None = None,
    dequantizer: Dequantizer = Uniform(),
    mesh: Mesh | None = None,
    precision: Precision | None = None,
) -> BitsPerDim:
    """Estimate -log2 P(image)/D of integer images under a denoiser of data on [-1, 1].

    With one dequantisation sample this is the dequantisation bound, an upper bound on the bits; with more, the tighter
    importance-weighted bound. It is a bound under the exact trace. Under random probes the logarithm of a mean of noisy
    exponentials is biased towards fewer bits, less so with more probes. Example i depends on `key` and i alone.

    Args:
        key: a typed key, or n keys, one an image.
        denoiser: any denoiser of continuous data.
        images_uint8: integers `[n, *event]` in 0..levels-1.
        dequantization_samples: samples K of each image.
        levels: number of integer levels.
        batch_size: images evaluated at once.
        cond: condition, leaves `[n, ...]`.
        progress: show a progress bar.
        flow: solver and tolerances, as in `jaxdiff.log_likelihood`.
        trace: trace of the flow's Jacobian, as in `jaxdiff.log_likelihood`.
        t_min: time of the data, as in `jaxdiff.log_likelihood`.
        source: density at t = 1, as in `jaxdiff.log_likelihood`.
        target_error: evaluate images in a random order until the standard error, in bits/dim, is at most this, at least
            64. If all do not suffice, repeat with new dequantisation and probes, until it is met or the spread of the
            images alone exceeds it.
        budget: number of images on which the error budget is measured; 0 leaves it out. It costs about five times as
            much as the likelihood of these, and once more in full precision if theirs was not.
        record: .npz file for the estimates of every image, written after each batch. The same call resumes from it, on
            any number of devices.
        dequantizer: `Uniform()`, a trained `Variational`, or `Argmax` for categories as K continuous values each.
        mesh: devices that each batch is split between; the batch size is rounded up to a multiple of their number. With
            several processes a collective: every process must call it, and each gets the report; the first reads and
            writes the record.
        precision: of the network's float32 products, as in `jaxdiff.sample`.

    Raises:
        TypeError: for images that are not integers.
        ValueError: for values out of range, an empty set, fewer than one sample or example a batch, a target error that
            is not above 0, or a record of other settings.

    Warns:
        UserWarning: if the largest value of all images is at most an eighth of `levels`.

    Source:
        Theis et al. 2016, "A note on the evaluation of generative models", section 3.1; Burda et al. 2016 for K > 1.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [0.0], [[0.25]])
        >>> images = np.array([[100], [128], [150], [180]])
        >>> found = jd.bits_per_dim(jax.random.key(0), denoiser, images, budget=0)
        >>> bool(5 < found.bits_per_dim < 9)  # 8 for a uniform density
        True
    """
    check_numbers(denoiser, "bits_per_dim", "take continuous_bound()")
    images = check_images(images_uint8, levels, batch_size)
    n = len(images)
    check_whole("dequantization_samples", dequantization_samples)
    if target_error is not None:
        check_scalar("target_error", target_error, above=0, noun="bits/dim")
    check_whole("budget", budget, least=0, fix=": how many images, or 0 to leave it out")
    check_flag("progress", progress)
    check_precision(precision)
    check_function("dequantizer", dequantizer, "one of jaxdiff.likelihood, such as Uniform()")
    check_shared("denoiser", denoiser)
    check_mesh(mesh)
    if budget and hasattr(dequantizer, "place"):
        raise ValueError(
            f"budget = {budget} with dequantizer = {said(dequantizer)}: the budget supports only dequantizers that "
            "draw within the cells of images; give budget=0"
        )
    if budget and source is not None:
        raise ValueError(
            f"budget = {budget} with a source: the budget's bound and prior term use the process's prior; give budget=0"
        )
    check_flow(flow)
    cond, keys = check_cond(denoiser, cond, n), example_keys(key, n)
    event = images.shape[1:]
    if hasattr(dequantizer, "place"):
        event = jax.eval_shape(lambda keys, images: place(dequantizer, keys, images, levels)[0], keys, images).shape[1:]
    check_trace(trace, (batch_size, *event), np.float32)
    likelihood = {"flow": flow, "trace": trace, "t_min": t_min, "source": source}
    model, put = copied((denoiser, dequantizer), mesh)
    estimator = Estimator(keys, model, images, cond, put, dequantization_samples, levels, likelihood, mesh, precision)
    size = min(batch_size, n)

    kept = Record(
        record,
        lambda: {
            "images": fingerprint(fetched((images, cond))),
            "denoiser": fingerprint(fetched(denoiser)),
            "key": fingerprint(keys),
            "levels": levels,
            "dequantizer": fingerprint(dequantizer),
            "dequantization_samples": dequantization_samples,
            **named("flow", dataclasses.replace(flow, solver=flow.method)),
            **named("trace", trace),
            **named("t_min", t_min),
            **named("source", source),
            "precision": estimator.arithmetic,
        },
        mesh,
        n,
    )
    order = np.random.default_rng(np.asarray(jax.random.key_data(keys[0]))).permutation(n)
    least = min(n, max(_FIRST_LOOK, budget))

    def enough() -> bool:
        if target_error is None:
            return False
        per_example, repeats = _per_example(kept.rows, n)
        return mean_of(finite(per_example)).standard_error <= target_error and (repeats > 0).sum() >= least

    for repeat in range(1 if target_error is None else _REPEATS):
        if repeat > 1 and target_error is not None and _spread_alone(kept.rows, n) > target_error:
            break
        missing = kept.missing(order, repeat)
        compute = lambda part, repeat=repeat: estimator(part, repeat)
        if enough():
            break
        for part, found in in_batches(compute, missing, size, progress, "likelihood", mesh):
            kept.add(example=part, repeat=repeat, **found._asdict())
            if enough():
                break

    rows = kept.rows
    per_example, repeats = _per_example(rows, n)
    values = finite(per_example)
    mean, error = mean_of(values)
    kind = getattr(dequantizer, "kind", "variational dequantisation")
    if dequantization_samples > 1:
        probed = ", estimated by probes" if trace.random else ""
        of = "" if isinstance(dequantizer, Uniform) else f" of {kind}"
        kind = f"importance-weighted bound{of}, K = {dequantization_samples}{probed}"
    kind += condition_of(denoiser, cond)
    measured = None
    if budget:
        index = order[:budget]
        first = rows["repeat"] == 0
        base = dict(zip(rows["example"][first], rows["bits_per_dim"][first]))
        base = np.array([base[i] for i in index])
        measured = measure(key, estimator, index, base, per_example, repeats, size, progress)
    evaluations = rows["evaluations"]
    return BitsPerDim(
        bits_per_dim=mean,
        standard_error=error,
        kind=kind,
        precision=estimator.arithmetic,
        examples=int((repeats > 0).sum()),
        not_converged=int((repeats > 0).sum()) - len(values),
        evaluations_mean=float(evaluations.mean()) if evaluations.min() >= 0 else math.nan,
        evaluations_max=int(evaluations.max()) if evaluations.min() >= 0 else -1,
        reached=None if target_error is None else error <= target_error,
        budget=measured,
        per_example=per_example,
        repeats=repeats,
    )
