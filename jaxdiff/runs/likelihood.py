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
from jaxdiff.runs.summary import read_summary, update_summary
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
    """Likelihood of data under a run, into the summary of its folder: bits/dim of pictures, nats of rows.

    The number of a conditional run is that of p(x | condition), as its words say. Estimates of single pictures go into
    likelihood_*.npz, one file for each set of settings: a call that was interrupted goes on.

    Args:
        data: what to score; by default the data that the run was trained on, in another split.
        split: "train", "validation" or "test"; by default "test" of the run's own data, and all of others.
        limit: the first examples alone.
        unconditional: of a conditional run p(x), which it learned where it dropped its condition.
        precision: what the network is computed in: float32, also where the run was trained in another dtype, with
            products as JAX is set (None) or of "default", "high" or "highest" precision; or "bfloat16".
        condition: columns that are given, by name, of a run of mixed columns, which models all of them.
        settings: of `jaxdiff.bits_per_dim`, or of rows those of `jaxdiff.log_likelihood`.

    Raises ValueError for data of another kind or shape, for settings that have no meaning for them, for `unconditional`
    of a run that knows no p(x), and for a `condition` of a run that does not model it.
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
        why = "was trained without a condition" if dropout is None else "never dropped it: its p(x) was not learned"
        raise ValueError(f"unconditional = True, but the run in {folder} {why}; leave it out")
    read_summary(folder)
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
    return update_summary(folder, **figures, **scored)
