"""A trained run, loaded from its folder without its data."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff import training
from jaxdiff.arrays import Precision, check_choice, check_instance, check_path, check_whole, rebuilt, replaced
from jaxdiff.config import Config, check_seed, read_config
from jaxdiff.data.splits import Split
from jaxdiff.denoisers import uncast, with_params
from jaxdiff.denoisers.denoiser import OfNetwork
from jaxdiff.losses import Loss
from jaxdiff.runs.data import read
from jaxdiff.runs.known import SEEN, Known, kind_of, learned, read_known, write_known
from jaxdiff.training.hosts import first
from jaxdiff.vocabulary import WORDS, Data, Network

WEIGHTS = "weights.safetensors"
Computed = Literal["bfloat16", "default", "high", "highest"]
"""What a run's network is computed in: bfloat16, or float32 with products of that precision."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with what is needed to use it.

    config: what it was made from. known: what it keeps of its data. denoiser: with its averaged weights.
    """

    config: Config
    known: Known
    denoiser: Any

    def restore(self, x) -> Any:
        """Samples as the user gave the data, from what the denoiser sees: pixels, or rows in the user's units."""
        return self.known.restore(x)


def build(config: Config, known: Known) -> Any:
    """The denoiser of a config, with its initial weights, as its loss trains it.

    Raises ValueError for a network that is not for its data, and for a loss that trains no denoiser.
    """
    from jaxdiff.networks import Cast, initialize

    check_instance("config", config, Config, "a Config, such as jaxdiff.runs.load(folder).config")
    recipe = config.network or known.default_network(config)
    learns = getattr(config.loss, "learns", "denoiser")
    if learns == "bridge":
        raise ValueError(
            f"loss = {WORDS.write(config.loss, Loss)} trains a bridge, which a config does not describe; train it from "
            "Python: jaxdiff.training.train(key, folder, jaxdiff.Bridge(network, params), loss, batches, steps=...)"
        )
    offered = known.offered(config) | ({"outputs": 2} if learns == "variance" else {})
    written = WORDS.write(recipe, Network)
    asked = {name: offered[name] for name in recipe.asks if name in offered}
    if "channels_in" in recipe.asks and "channels_in" not in offered:
        raise ValueError(f"network = {written} is for pictures, and the data are of shape {known.event}; give an mlp")
    for name, what in (("ends", "several parts"), ("event", "rows of numbers")):
        if name in recipe.asks and name not in offered:
            fix = WORDS.write(known.NETWORK, Network)
            raise ValueError(f"network = {written} is for {what}, and the data are {known.KIND}; give {fix}")
    if lost := [name for name in ("classes", "vector") if name in offered and name not in asked]:
        what = {"classes": "labels", "vector": "columns as its condition"}[lost[0]]
        raise ValueError(f"network = {written} takes no {what}; give one that does")
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    network, params = initialize(key, lambda rngs: known.network(recipe, asked, rngs))
    if config.dtype != "float32":
        network = Cast(network, jnp.dtype(config.dtype))
    denoiser = jd.Denoiser(
        network,
        params,
        **known.reading(config),
        learned_variance=learns == "variance",
        condition_dropout=known.dropout(config),
    )
    return jd.denoisers.WithProcess(denoiser) if learns == "process" else denoiser


def load(folder: str | os.PathLike) -> Run:
    """The run of a folder, with its averaged weights, or one that `jaxdiff export` wrote. Its data are not read.

    Raises ValueError for what is no folder of a run, and for one that was written before runs kept what they learned of
    their data where these are gone.
    """
    folder = check_path("folder", folder)
    config = read_config(folder)
    known = read_known(folder) if (folder / "data.json").exists() else _learn_again(config, folder)
    denoiser = build(config, known)
    if (weights := folder / WEIGHTS).exists():
        params = jd.pretrained.read_params(weights, denoiser.params)
    else:
        params = training.load_params(folder, denoiser.params)
    return Run(config, known, with_params(denoiser, params))


def _learn_again(config: Config, folder: Path) -> Known:
    """What a run from before data.json learned of its data, read from them once and written.

    Its checkpoints recorded the standard deviation that the weights go with; an export of that time did not, and it is
    measured as it was then, on every picture in memory.
    """
    try:
        source = read(config.data, "train", config.condition)
        known = learned(config, source, len(source) if isinstance(source, jd.data.Images) else SEEN)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} has no data.json: it was written before runs kept what they learn of their data, and these "
            f"cannot be read ({error}). Put them back for one call"
        ) from None
    recorded = training.recorded_identity(folder).get("data_std", known.data_std)
    known = dataclasses.replace(known, data_std=recorded)
    if first():
        write_known(folder, known)
    return known


def examples(run: Run, data: Data | None, split: Split | None, progress: bool) -> Any:
    """The examples of a split of `data`, or of the run's training data for None.

    Raises ValueError for training data that cannot be read, and for data of another kind.
    """
    try:
        source = read(data or run.config.data, split, run.config.condition, progress)
    except OSError as error:
        if data is not None:
            raise
        raise ValueError(
            f"the data that the run learned from cannot be read ({error}); name others by --data"
        ) from None
    if (kind := kind_of(source)) is not type(run.known):
        named = WORDS.write(data or run.config.data, Data)
        raise ValueError(f"data = {named} are {kind.KIND}; expected {run.known.KIND}, as the run's own")
    return source


def computed(denoiser, precision: Computed | None) -> tuple[Any, Precision | None]:
    """`denoiser` of a run, its network computed as `precision` says, and the precision of products in float32.

    None is float32, with products as JAX is set.
    """
    from jaxdiff.networks import Cast

    if precision is not None:
        check_choice("precision", precision, get_args(Computed))
    denoiser = uncast(denoiser)[0]
    if precision != "bfloat16":
        return denoiser, precision
    cast = lambda part: rebuilt(part, network=Cast(part.network, jnp.bfloat16)) if isinstance(part, OfNetwork) else None
    return replaced(denoiser, cast), None


def draw(
    run: Run,
    n: int,
    sampler: jd.samplers.Sampler | None = None,
    steps: int = 50,
    seed: int = 0,
    cond: Any = None,
    batch_size: int = 4096,
    precision: Computed | None = None,
    **more,
) -> Any:
    """n samples, as the model sees them; `run.restore` gives them in the user's units.

    `sampler` None is DPM-Solver++, of texts and maps Ancestral. `cond` is a label for all samples, or has one entry a
    sample. `precision` None computes the network as the run was
    trained, "bfloat16" in that, and "default", "high" or "highest" in float32 with products of that precision. Further
    arguments go to `jaxdiff.samplers.draw`.
    """
    check_instance("run", run, Run, "a run, such as jaxdiff.runs.load(folder)")
    check_whole("n", n)
    key = jax.random.key(check_seed(seed))
    denoiser, products = (run.denoiser, None) if precision is None else computed(run.denoiser, precision)
    settings = {"steps": steps, "precision": products, **more}
    return run.known.draw(key, denoiser, n, sampler or run.known.SAMPLER, batch_size, cond, **settings)


def every_device() -> jax.sharding.Mesh | None:
    """The mesh that samples and likelihoods are split over; None where there is one device."""
    return None if jax.device_count() == 1 else training.make_mesh()
