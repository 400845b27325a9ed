"""The options of the command line, in the groups that `--help` shows.

Each class is one group. Only defaults that say something are shown: not None, an empty list or False.
"""

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from jaxdiff import runs
from jaxdiff.config import Config
from jaxdiff.likelihood import Trace
from jaxdiff.losses import Loss
from jaxdiff.processes import Process
from jaxdiff.processes.grids import Grid
from jaxdiff.samplers import ProbabilityFlow, Sampler
from jaxdiff.vocabulary import Data, Guidance, Network, Noise

Options = TypeVar("Options", bound=type)
CONFIG = Config()


def _hint(default: str) -> str:
    return "" if default in ("None", "False", "") else f"(default: {default})"


def _metavar(kind) -> str | None:
    """A plain name for the value of an optional number or text; None leaves the choice to tyro."""
    parts = get_args(kind) if get_origin(kind) is types.UnionType else ()
    named = [part for part in parts if part in (int, float, str, Path)]
    return named[0].__name__.upper() if named and len(parts) == 2 else None


def plain(options: Options) -> Options:
    """Have the help of a dataclass show its fields plainly."""
    options.__annotations__ = {
        name: Annotated[kind, tyro.conf.arg(help_behavior_hint=_hint, metavar=_metavar(kind))]
        for name, kind in options.__annotations__.items()
    }
    return options


@plain
@dataclasses.dataclass(frozen=True)
class Learned:
    """What the model learns from.

    Args:
        data: digits, folder('pictures', size=64), table('mine.csv'), text('mine.txt', length=128), ...
        condition: What the model is given: the label of pictures, or columns of a table by name (y,z).
        dropout: With --condition: the share of conditions dropped in training, for guidance; by default 0.1.
        flip: Mirror half of the pictures at random. Not for data in which left and right differ, such as digits.
    """

    data: Data | None = CONFIG.data
    condition: tuple[str, ...] = ()
    dropout: float | None = None
    flip: bool = False


@plain
@dataclasses.dataclass(frozen=True)
class Model:
    """The network, the process, and how the network is trained.

    Args:
        network: unet(channels=(32, 64)), mlp, transformer, ...; by default one that fits the data.
        dtype: What the network computes in. Weights and likelihoods are float32.
        process: How data becomes noise: vp, edm(sigma_max=160), flow, ...; by default vp, for texts and maps absorbing.
        parameterization: What the network predicts; by default v, for texts and maps leave_one_out.
        loss: denoising(min_snr(5), log_normal), flow_matching, ...; by default denoising, for texts and maps bound.
    """

    network: Network | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    process: Noise | Process | None = None
    parameterization: Literal["data", "noise", "score", "v", "velocity", "edm", "leave_one_out"] | None = None
    loss: Loss | None = None


@plain
@dataclasses.dataclass(frozen=True)
class Training:
    """Steps, batches, learning rate and checkpoints.

    Args:
        steps: Training steps.
        batch_size: Examples in a batch, over all devices.
        learning_rate: Peak learning rate: linear warm-up, cosine decay.
        ema_decay: Decay of the moving average of the weights. Samples and likelihoods use the average.
        seed: Seed of weights, batches and noise.
        checkpoint_every: Steps between checkpoints.
        allow: Names of settings that may differ from the run that is continued; the error lists them.
    """

    steps: int = CONFIG.steps
    batch_size: int = CONFIG.batch_size
    learning_rate: float = CONFIG.learning_rate
    ema_decay: float = CONFIG.ema_decay
    seed: int = CONFIG.seed
    checkpoint_every: int = 500
    allow: tuple[str, ...] = ()


@plain
@dataclasses.dataclass(frozen=True)
class Logging:
    """What is written while training runs.

    Args:
        log_every: Steps between lines of metrics.jsonl.
        pictures: Largest share of the training time spent on pictures of samples. The last pictures, of the trained
            model, come on top of it; 0 draws none.
        tensorboard: Log to TensorBoard too, in FOLDER/tensorboard.
        wandb: Log to this project of Weights & Biases too.
    """

    log_every: int = 50
    pictures: float = runs.PICTURES
    tensorboard: bool = False
    wandb: str | None = None


@plain
@dataclasses.dataclass(frozen=True)
class Hosts:
    """Several processes: start the same command in each, with these.

    Args:
        coordinator: HOST:PORT of process 0.
        processes: Number of processes.
        process_id: Number of this process, from 0.
        cluster: Read all three from the cluster: SLURM, TPU pods, Open MPI, Kubernetes.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    cluster: bool = False


@plain
@dataclasses.dataclass(frozen=True)
class Devices(Hosts):
    """How devices share the work; of several processes, which one this is.

    Args:
        model_devices: Devices that share one copy of the weights (FSDP). The others split the batch.
        accumulate: Parts in which a batch is computed, one after another, to save memory.
    """

    model_devices: int = 1
    accumulate: int = 1


@plain
@dataclasses.dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    Args:
        sampler: dpm_solver, heun(churn=40), ddim(eta=1), ...; by default dpm_solver, for texts and maps ancestral.
        steps: Denoising steps. probability_flow chooses its own.
        grid: Times of the steps: karras(rho=7), time, angle, log_snr, ...; by default the sampler's own.
        condition: Labels by number or name (3,cat,7), drawn in turn, or given columns (y=1.5,z=2). By default sample
            draws all classes, and evaluate takes the conditions of the training examples.
        guidance: classifier_free(3), dynamic_threshold, ...; by default none.
        seed: Seed of the noise.
        batch_size: Samples drawn at once.
        precision: What the network computes in: bfloat16, or float32 with products at default, high or highest
            precision; by default as in training.
    """

    sampler: Sampler | None = None
    steps: int = 50
    grid: Grid | None = None
    condition: tuple[str, ...] = ()
    guidance: Guidance | None = None
    seed: int = 0
    batch_size: int = 256
    precision: runs.Computed | None = None


@plain
@dataclasses.dataclass(frozen=True)
class Scored:
    """What is scored.

    Args:
        data: folder('mine', size=32), table('mine.csv'), ...; by default the data of the run.
        split: Part of the data; by default the test split of the run's own data, and all of any other.
        limit: Use that many random examples, the same in every call; by default 2,000 rows, 500 texts or maps, all
            pictures.
        unconditional: For a run with --condition: score p(x) without a condition.
        condition: For a run of mixed columns: the columns that are given (age,job).
    """

    data: Data | None = None
    split: Literal["train", "validation", "test"] | None = None
    limit: int | None = None
    unconditional: bool = False
    condition: tuple[str, ...] = ()


@plain
@dataclasses.dataclass(frozen=True)
class Estimate:
    """How the likelihood is computed.

    Args:
        dequantization_samples: 1 is uniform dequantisation; more give the tighter importance-weighted bound.
        target_error: Add pictures in random order, then repeats of them, until the standard error is this small.
        budget: Pictures on which the error budget is measured, by default 64; 0 leaves it out.
        draws: For texts and maps: random times per example for the bound, by default 16.
        chain: For texts and maps under masks: examples also scored by the chain rule, by default 16.
        flow: Solver and tolerances of the flow; by default probability_flow(rtol=1e-4, atol=1e-4).
        trace: Trace of the flow's Jacobian: hutchinson, hutchinson(2) with a standard error, or exact; by default exact
            for tables of numbers of up to 16 columns, and hutchinson for others.
        precision: What the network computes in: bfloat16, or float32 with products at default, high or highest
            precision; by default float32 at default.
        seed: Seed of dequantisation and probes.
    """

    dequantization_samples: int | None = None
    target_error: float | None = None
    budget: int | None = None
    draws: int | None = None
    chain: int | None = None
    flow: ProbabilityFlow | None = None
    trace: Trace | None = None
    precision: runs.Computed | None = None
    seed: int = 0


@plain
@dataclasses.dataclass(frozen=True)
class Compared:
    """What samples are compared with, and by which features.

    Args:
        samples: Number of samples; by default the size of the split, at most 2,000.
        features: Features of pictures: of a classifier, their pixels (the default without labels), or those of FID's
            Inception, for colour pictures.
        inception: Folder with Inception's weights in one safetensors file, for --features inception.
        data: folder('mine', size=32), table('mine.csv'), ...; by default the training data.
        split: Split of the real examples for the floor.
    """

    samples: int | None = None
    features: Literal["classifier", "pixels", "inception"] | None = None
    inception: Path | None = None
    data: Data | None = None
    split: Literal["validation", "test"] = "test"


def values(*groups: Any) -> dict[str, Any]:
    """The fields of some groups by name."""
    return {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
