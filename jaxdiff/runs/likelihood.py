"""The likelihood of a run's data."""

import dataclasses
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import check_path, check_whole, fingerprint
from jaxdiff.config import IMAGES, Config, check_config, check_seed
from jaxdiff.runs.models import every_device, labels, load_images, load_points, pixels
from jaxdiff.runs.summary import read_summary, update_summary


def _figures(report: jd.BitsPerDim) -> dict:
    """The numbers of a report, its budget's among them, for a summary."""
    numbers = lambda value: {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    figures = numbers(report)
    if (budget := report.budget) is not None:
        shifts = {name: getattr(budget, name)._asdict() for name in ("solver", "truncation")}
        bound = {name: getattr(budget.bound, name) for name in ("bits_per_dim", "standard_error")}
        figures["budget"] = numbers(budget) | shifts | {"bound": bound}
    return figures


def likelihood(
    config: Config,
    denoiser,
    folder: str | os.PathLike,
    split,
    limit,
    seed,
    progress,
    samples=1,
    target_error=None,
    budget=None,
    unlabelled=False,
    **settings,
) -> dict:
    """Likelihood of a split of the data into the summary: bits/dim of images, mean nats of points.

    A conditional model is given the labels: the number is that of p(x | label). `unlabelled` asks for its p(x).
    The estimates of every image go into likelihood_SPLIT_*.npz, one file for each set of settings: a run that was
    interrupted goes on.

    Raises ValueError for `unlabelled` of a run without labels, or that never dropped them and so knows no p(x).
    """
    check_config(config)
    folder = check_path("folder", folder)
    key = jax.random.key(check_seed(seed))
    if limit is not None:
        check_whole("limit", limit)
    if unlabelled and not config.dropout:
        why = "never dropped them: its p(x) was not learned" if config.conditional else "was trained without labels"
        raise ValueError(f"unlabelled = True, but the run in {folder} {why}; leave it out")
    read_summary(folder)
    began = time.perf_counter()
    if config.data in IMAGES:
        data = load_images(config, split)
        given = config.conditional and not unlabelled
        record = folder / f"likelihood_{split}_{fingerprint(limit, seed, samples, settings, given)[:8]}.npz"
        report = jd.bits_per_dim(
            key,
            denoiser,
            pixels(data, limit),
            samples,
            data.levels,
            cond=labels(data, limit) if given else None,
            progress=progress,
            target_error=target_error,
            budget=64 if budget is None else budget,
            record=record,
            mesh=every_device(),
            **settings,
        )
        print(report, file=sys.stderr)
        figures = _figures(report) | {"per_example": str(record)}
    else:
        if samples != 1:
            raise ValueError(f"dequantization_samples = {samples}: {config.data} is continuous; leave it at 1")
        if budget:
            raise ValueError(f"budget = {budget}: for images; {config.data} is a set of points")
        if target_error is not None:
            raise ValueError(f"target_error = {target_error}: for images; {config.data} is a set of points")
        found = jd.log_likelihood(key, denoiser, jnp.asarray(load_points(config, split)[: limit or 2000]), **settings)
        nats = np.asarray(found.log_prob, np.float64)[np.asarray(found.converged)]
        figures = {
            "log_likelihood": float(nats.mean()),
            "standard_error": float(nats.std(ddof=1) / np.sqrt(len(nats))),
            "examples": len(found.log_prob),
            "not_converged": int((~found.converged).sum()),
        }
        print(f"{figures['log_likelihood']:.4f} +- {figures['standard_error']:.4f} nats", file=sys.stderr)
    return update_summary(folder, **figures, split=split, likelihood_seconds=time.perf_counter() - began)
