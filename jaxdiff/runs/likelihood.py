"""The likelihood of data under a run."""

import logging
import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_choice, check_flag, check_instance, check_path, check_whole, fingerprint
from jaxdiff.config import check_seed
from jaxdiff.data.splits import Split
from jaxdiff.denoisers import arithmetic
from jaxdiff.runs.data import SPLITS
from jaxdiff.runs.run import Computed, Run, computed, every_device, examples
from jaxdiff.runs.summary import append_likelihood, read_likelihoods, read_summary, update_summary
from jaxdiff.vocabulary import WORDS, Data

_log = logging.getLogger(__name__)


def likelihood(
    run: Run,
    folder: str | os.PathLike,
    data: Data | None = None,
    split: Split | None = None,
    limit: int | None = None,
    seed: int = 0,
    unconditional: bool = False,
    progress: bool = True,
    precision: Computed | None = None,
    condition: Sequence[str] = (),
    **settings,
) -> dict:
    """Measure the likelihood of data under a run: bits/dim of pictures, nats of rows, bits of texts and maps.

    A conditional run gives the likelihood of p(x | condition). The report is logged at level INFO. Estimates of single
    pictures are recorded in likelihood_*.npz, one file per set of settings, so that an interrupted call can continue.

    Args:
        run: the run, such as `jaxdiff.runs.load(folder)`.
        folder: the run's folder. The figures are written to its summary.json, in place of those of an earlier call, and
            appended to its likelihoods.jsonl as a line.
        data: the data to score; None means the run's own data.
        split: "train", "validation" or "test"; None means "test" of the run's own data, and all examples of other data.
        limit: how many examples are scored, drawn at random with a fixed seed; None means all pictures, in their order,
            2,000 rows, or 500 texts or maps.
        seed: the seed of noise, 0 to 2^32 - 1.
        unconditional: for a conditional run, score p(x), which it learned from examples with a dropped condition.
        progress: whether to show a progress bar.
        precision: how the network is computed: in float32 with products of "default", "high" or "highest" precision, or
            as JAX is set (None), or in "bfloat16".
        condition: for a joint model of mixed columns, the names of columns that are given.
        settings: those of `jaxdiff.bits_per_dim` for pictures, of `jaxdiff.log_likelihood` for rows.

    Returns:
        The content of summary.json, with the new figures.

    Raises:
        ValueError: if the data are of another kind or shape, a setting does not apply to them, or the run has not
            learned what `unconditional` or `condition` asks for.

    Examples:
        >>> from jaxdiff import runs
        >>> run = runs.load("runs/digits")  # doctest: +SKIP
        >>> runs.likelihood(run, "runs/digits", limit=100)["bits_per_dim"]  # doctest: +SKIP
    """
    check_instance("run", run, Run, "a run, such as jaxdiff.runs.load(folder)")
    folder = check_path("folder", folder)
    key = jax.random.key(check_seed(seed))
    if limit is not None:
        check_whole("limit", limit)
    if split is not None:
        check_choice("split", split, SPLITS)
    check_flag("unconditional", unconditional)
    check_instance("condition", condition, (tuple, list), "the names of columns")
    if names := [name.strip() for text in condition for name in text.split(",")]:
        settings["condition"] = run.known.given(names)
    denoiser, products = computed(run.denoiser, precision)
    dropout = run.known.dropout(run.config)
    if unconditional and not dropout:
        why = "was trained without a condition" if dropout is None else "never dropped it, so it has not learned p(x)"
        raise ValueError(f"unconditional = True, but the run in {folder} {why}; leave it out")
    steps = read_summary(folder).get("steps")
    read_likelihoods(folder)
    began = time.perf_counter()
    conditional = bool(run.config.condition) and not unconditional
    split = split or ("test" if data is None else None)
    source = examples(run, data, split, progress)
    name = WORDS.write(data or run.config.data, Data)
    mesh = every_device()
    made = fingerprint(name, limit, seed, settings, conditional, arithmetic(denoiser, jnp.float32, products, mesh))
    record = folder / f"likelihood_{split or 'all'}_{made[:8]}.npz"
    lasting = {"record": record, "progress": progress, "mesh": mesh, "precision": products}
    figures, words = run.known.score(key, denoiser, source, limit, conditional, lasting, **settings)
    _log.info("%s", words)
    given = ", ".join(names or run.config.condition * conditional) or None
    scored = {
        "data": name,
        "split": split or "all",
        "condition": given,
        "likelihood_seconds": time.perf_counter() - began,
    }
    append_likelihood(folder, steps=steps, **scored, **figures)
    return update_summary(folder, **figures, **scored)
