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
"""How a run's network is computed: in bfloat16, or in float32 with products of that precision."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with everything that is needed to use it. `train` and `load` return one.

    Attributes:
        config: its data, model and training.
        known: what it keeps of its data.
        denoiser: the model with its averaged weights.

    Examples:
        >>> from jaxdiff import runs
        >>> config = runs.Config(data=None, network="mlp(hidden=(8,))")
        >>> known = runs.Pictures(event=(4, 4, 1), data_std=0.5, levels=17, classes=10)
        >>> run = runs.Run(config, known, runs.build(config, known))
        >>> pixels = run.restore(runs.draw(run, 2, steps=2))
        >>> pixels.shape, pixels.dtype
        ((2, 4, 4, 1), dtype('uint8'))
    """

    config: Config
    known: Known
    denoiser: Any

    def restore(self, x) -> Any:
        """Samples in the form of the user's data, from samples as the denoiser sees them: pixels, rows or texts."""
        return self.known.restore(x)


def build(config: Config, known: Known) -> Any:
    """Make the untrained denoiser of a config.

    Args:
        config: the config.
        known: what the run keeps of its data, such as `learned(config, source)`.

    Returns:
        A `jaxdiff.Denoiser` with initial weights, which depend on `config.seed`; around it what the loss needs, such as
        `jaxdiff.denoisers.WithProcess` for a loss that trains the process.

    Raises:
        ValueError: if the network does not fit the data, or the loss does not train a denoiser.

    Examples:
        >>> from jaxdiff import runs
        >>> config = runs.Config(data=None, network="mlp(hidden=(8,))", process="edm")
        >>> known = runs.Pictures(event=(4, 4, 1), data_std=0.5, levels=17, classes=10)
        >>> denoiser = runs.build(config, known)
        >>> denoiser.process, denoiser.data_std
        (EDM(sigma_min=0.002, sigma_max=80.0, rho=7.0), 0.5)
    """
    from jaxdiff.networks import initialize

    return _denoiser(config, known, initialize)


def _denoiser(config, known, weights) -> Any:
    """The denoiser of a config, with a network and parameters by `weights(key, make)`, as `initialize` gives them."""
    from jaxdiff.networks import Cast

    check_instance("config", config, Config, "a Config, such as jaxdiff.runs.load(folder).config")
    config = known.completed(config)
    recipe: Any = config.network
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
    network, params = weights(key, lambda rngs: known.network(recipe, asked, rngs))
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
    """Load a run from its folder, with its averaged weights. Its data are not read.

    Args:
        folder: a run's folder, or one that `export` wrote.

    Raises:
        ValueError: if `folder` is not a run's folder, or is one from before data.json whose data are gone.

    Examples:
        >>> import tempfile
        >>> from jaxdiff import runs
        >>> config = runs.Config(data=None, network="mlp(hidden=(8,))")
        >>> known = runs.Pictures(event=(4, 4, 1), data_std=0.5, levels=17, classes=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = runs.export(runs.Run(config, known, runs.build(config, known)), folder)
        ...     run = runs.load(folder)
        >>> run.known == known, run.config.network == config.network
        (True, True)
    """
    from jaxdiff.networks.functional import shapes

    folder = check_path("folder", folder)
    config = read_config(folder)
    known = read_known(folder) if (folder / "data.json").exists() else _learn_again(config, folder)
    denoiser = _denoiser(config, known, shapes)
    if (weights := folder / WEIGHTS).exists():
        params = jd.pretrained.read_params(weights, denoiser.params)
    else:
        params = training.load_params(folder, denoiser.params)
    return Run(config, known, with_params(denoiser, params))


def _learn_again(config: Config, folder: Path) -> Known:
    """Write the data.json of a run from before there was one, by reading its data once.

    The checkpoints of such a run recorded the standard deviation that its weights were trained with. Its exports did
    not; there it is measured as it was then, on every picture in memory.
    """
    try:
        source = read(config.data, "train", config.condition)
        known = learned(config, source, len(source) if isinstance(source, jd.data.Images) else SEEN)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} has no data.json: it was written before runs kept it, and its data cannot be read ({error}). "
            "Put the data back for one call"
        ) from None
    recorded = training.recorded_identity(folder).get("data_std", known.data_std)
    known = dataclasses.replace(known, data_std=recorded)
    if first():
        write_known(folder, known)
    return known


def examples(run: Run, data: Data | None, split: Split | None, progress: bool) -> Any:
    """The examples of a split of `data`, or of the run's own data for None.

    Raises ValueError if the run's data cannot be read, or if `data` are of another kind.
    """
    try:
        source = read(data or run.config.data, split, run.config.condition, progress)
    except OSError as error:
        if data is not None:
            raise
        raise ValueError(f"the data of the run cannot be read ({error}); name others by --data") from None
    if (kind := kind_of(source)) is not type(run.known):
        named = WORDS.write(data or run.config.data, Data)
        raise ValueError(f"data = {named} are {kind.KIND}; expected {run.known.KIND}, as the run's own are")
    return source


def computed(denoiser, precision: Computed | None) -> tuple[Any, Precision | None]:
    """The denoiser with its network computed as `precision` says, and the precision of products in float32.

    None is float32 with products as JAX is set.
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
    """Draw samples of a run.

    Args:
        run: the run, such as `jaxdiff.runs.load(folder)`.
        n: the number of samples.
        sampler: None means DPM-Solver++, and Ancestral for texts and maps.
        steps: the number of steps.
        seed: the seed of the noise, 0 to 2^32 - 1.
        cond: a label for all samples, or an array with one entry per sample, such as `run.known.condition` returns.
        batch_size: how many samples are drawn at a time.
        precision: how the network is computed: as in training (None), in "bfloat16", or in float32 with products of
            "default", "high" or "highest" precision.
        more: further arguments of `jaxdiff.samplers.draw`.

    Returns:
        Samples `[n, *event]` as the model sees them; `run.restore` converts them to the form of the data.

    Examples:
        >>> from jaxdiff import runs
        >>> config = runs.Config(data=None, network="mlp(hidden=(8,))")
        >>> known = runs.Pictures(event=(4, 4, 1), data_std=0.5, levels=17, classes=10)
        >>> run = runs.Run(config, known, runs.build(config, known))  # runs.load("runs/digits")
        >>> runs.draw(run, 2, steps=2).shape
        (2, 4, 4, 1)
    """
    check_instance("run", run, Run, "a run, such as jaxdiff.runs.load(folder)")
    check_whole("n", n)
    key = jax.random.key(check_seed(seed))
    denoiser, products = (run.denoiser, None) if precision is None else computed(run.denoiser, precision)
    settings = {"steps": steps, "precision": products, **more}
    return run.known.draw(key, denoiser, n, sampler or run.known.SAMPLER, batch_size, cond, **settings)


def every_device() -> jax.sharding.Mesh | None:
    """Return a mesh of all devices, over which samples and likelihoods are split; None if there is one device.

    Examples:
        >>> import jax
        >>> from jaxdiff import runs
        >>> mesh = runs.every_device()
        >>> (1 if mesh is None else mesh.size) == jax.device_count()
        True
    """
    return None if jax.device_count() == 1 else training.make_mesh()
