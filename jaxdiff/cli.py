"""The command line: `jaxdiff demo | train | sample | likelihood | evaluate | export | words`."""

import contextlib
import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from jaxdiff import pretrained, runs, training
from jaxdiff.arrays import check_path, check_whole, own_folder, remove_folder
from jaxdiff.config import Config, check_seed
from jaxdiff.likelihood import Trace
from jaxdiff.processes.grids import Grid
from jaxdiff.runs.console import log_to_stderr
from jaxdiff.runs.programs import keep_compiled
from jaxdiff.samplers import ProbabilityFlow, Sampler
from jaxdiff.training.hosts import INTERRUPTED, agree, first
from jaxdiff.vocabulary import Data, Guidance, listing, primitive

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="Print the result as one line of JSON, and no progress bars.")]


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Several processes, each with its own devices: give every one the same command, and these."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is, from 0 on."""
    cluster: bool = False
    """Take all three from the cluster: SLURM, TPU pods, Open MPI, Kubernetes."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    Args:
        sampler: How noise becomes data: dpm_solver, heun(churn=40), ddim(eta=1), ...; by default dpm_solver, of texts
            and maps ancestral.
        steps: Denoising steps (probability_flow chooses its own).
        grid: Where the steps lie: karras(rho=7), time, angle, log_snr; by default the sampler's own.
        condition: What to draw, of a run trained with --condition: labels by number or name (3 cat 7, or 3,cat,7),
            which are drawn in turn, or the given columns (y=1.5,z=2); of a mixed table any columns (age=41,job=cook).
            By default sample draws all classes, and evaluate what the training examples have.
        guidance: classifier_free(3) exaggerates the condition, dynamic_threshold clips; by default none.
        seed: Seed of the noise.
        batch_size: Samples drawn at once.
        precision: What the network is computed in: bfloat16, or float32 with products of default, high or highest
            precision; by default as it was trained.
    """

    sampler: Sampler | None = None
    steps: int = 50
    grid: Grid | None = None
    condition: tuple[str, ...] = ()
    guidance: Guidance | None = None
    seed: int = 0
    batch_size: int = 256
    precision: runs.Computed | None = None


KEPT = "what is done is kept; the same command goes on"


@contextlib.contextmanager
def _together(hosts: Hosts, folder: Path, asked: tuple, at_once: str, agreed: bool = False) -> Iterator[None]:
    """Connect the processes of a run, of all of which the same is asked.

    A failure ends all of them; SIGTERM ends this one, or all where they agree on it. KeyboardInterrupt says what is
    kept.
    """
    keep_compiled()
    given = hosts.coordinator, hosts.processes, hosts.process_id
    if None not in given or hosts.cluster:
        jax.config.update("jax_enable_preemption_service", agreed)
        training.connect(*given)
    elif given != (None, None, None):
        raise ValueError("several processes need --coordinator, --processes and --process-id, or --cluster")
    try:
        with training.failing_together(folder), training.Preemption(at_once):
            agree(folder, {"arguments": asked})
            yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or f"interrupted; {at_once}") from None


def train(
    folder: Folder,
    config: Annotated[Config, tyro.conf.arg(name="")],
    model_devices: int = 1,
    accumulate: int = 1,
    allow: tuple[str, ...] = (),
    checkpoint_every: int = 500,
    log_every: int = 50,
    pictures: float = runs.PICTURES,
    tensorboard: bool = False,
    wandb: str | None = None,
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts(),
    json_: Json = False,
) -> dict:
    """Train a diffusion model into FOLDER. The same command again continues a run that was stopped.

    Settings such as edm(sigma_max=160) are words: `jaxdiff words` lists them.

    Args:
        folder: The run's folder; new, or that of the same run.
        config: What to train.
        model_devices: Devices that share one copy of the weights (FSDP); the others multiply the batch (data parallel).
        accumulate: Parts a batch is computed in, one after another: less memory.
        allow: What may differ from the run that is continued, by the names an error gave.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between lines in metrics.jsonl.
        pictures: The largest share of the time that pictures of samples may take meanwhile; 0 for no such pictures.
        tensorboard: Log to TensorBoard too, into FOLDER/tensorboard.
        wandb: Log to this project of Weights & Biases too.
        hosts: Several processes.
        json_: Print the result as one line of JSON.
    """

    def writers(folder: Path) -> list:
        told = [training.tensorboard(folder)] if tensorboard else []
        return told + ([training.wandb(folder, wandb, config.written())] if wandb else [])

    folder = check_path("folder", folder)
    if config.data is None:
        raise ValueError("data = None; expected what to learn from, such as digits or folder('pictures')")
    asked = config.written(), model_devices, accumulate, allow, checkpoint_every, log_every
    with _together(hosts, folder, asked, "nothing is lost; the same command goes on", agreed=True):
        runs.train(
            config,
            folder,
            progress=not json_,
            model=model_devices,
            accumulate=accumulate,
            writers=writers,
            allow=allow,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            pictures=pictures,
        )
        return runs.read_summary(folder)


def sample(
    folder: Folder,
    n: int = 64,
    how: Annotated[Drawing, tyro.conf.arg(name="")] = Drawing(),
    infill: str | None = None,
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts(),
    json_: Json = False,
) -> dict:
    """Draw samples from the run in FOLDER into samples.npy, samples.csv or samples.txt, as its data are, and a picture.

    The same command again goes on where it was interrupted.

    Args:
        folder: A run's folder.
        n: How many samples. Sample i is the same whatever their number and the batch size.
        how: How they are drawn.
        infill: Of texts, a text of which each "_" is drawn and all else stays: "in the beginning ___ created the".
        hosts: Several processes.
        json_: Print the result as one line of JSON.
    """
    folder = check_path("folder", folder)
    for name, count in (("n", n), ("steps", how.steps), ("batch_size", how.batch_size)):
        check_whole(name, count)
    check_seed(how.seed)
    with _together(hosts, folder, (n, infill, how), KEPT):
        run = runs.load(folder)
        cond = run.known.condition(run.config, how.condition, n)
        if how.guidance is not None:
            run = dataclasses.replace(run, denoiser=how.guidance(denoiser=run.denoiser))
        keep = own_folder(folder, "samples.partial") if first() else folder / "samples.partial"
        lasting = {"mesh": runs.every_device(), "keep": keep, "progress": not json_ and first()}
        settings = how.sampler, how.steps, how.seed, cond, how.batch_size, how.precision
        x = runs.draw(run, n, *settings, grid=how.grid, x_start=run.known.start(infill, n), **lasting)
        written, picture = None, None
        if first():
            written = run.known.write(run.restore(x), folder)
            picture = run.known.picture(x, None, folder / "samples.png", cond=cond)
            remove_folder(keep)
    return {"samples": str(written), "picture": picture and str(picture), "n": n} | run.known.figures(x)


def likelihood(
    folder: Folder,
    data: Data | None = None,
    split: Literal["train", "validation", "test"] | None = None,
    limit: int | None = None,
    unconditional: bool = False,
    condition: tuple[str, ...] = (),
    dequantization_samples: int | None = None,
    target_error: float | None = None,
    budget: int | None = None,
    draws: int | None = None,
    chain: int | None = None,
    flow: ProbabilityFlow | None = None,
    trace: Trace | None = None,
    precision: runs.Computed | None = None,
    seed: int = 0,
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts(),
    json_: Json = False,
) -> dict:
    """Likelihood of data under the run in FOLDER, and its error: bits/dim of pictures, nats of rows, bits a character.

    Of a run with --condition it is that of p(x | condition). The same command again goes on where it was interrupted.

    Args:
        folder: A run's folder, or one that `jaxdiff export` wrote.
        data: What to score: folder('mine', size=32), table('mine.csv'), ...; by default what the run learned from.
        split: Which part of the data; by default the test split of the run's own data, and all of others.
        limit: Use the first examples only; unless given, of rows the first 2,000, of texts and maps the first 500.
        unconditional: Of a run with --condition: p(x), as if nothing were given.
        condition: Of a run of mixed columns: which of them are given (age,job).
        dequantization_samples: 1 is uniform dequantisation; more give the tighter importance-weighted bound.
        target_error: Add pictures in random order, then repeats of them, until the standard error is this small.
        budget: Pictures to measure the error budget on, 64 unless given; 0 leaves it out.
        draws: Of texts and maps: random times an example that the bound is computed by, 16 unless given.
        chain: Of texts and maps under masks: how many examples are scored by the chain rule too, 16 unless given.
        flow: The flow's solver and its tolerances; probability_flow(rtol=1e-4, atol=1e-4) unless given.
        trace: Of the flow's Jacobian: hutchinson (unless given), hutchinson(2) with a standard error, or exact.
        precision: What the network is computed in: bfloat16, or float32 with products of default (unless given), high
            or highest precision.
        seed: Seed of dequantisation and probes.
        hosts: Several processes.
        json_: Print the result as one line of JSON.
    """
    folder = check_path("folder", folder)
    if limit is not None:
        check_whole("limit", limit)
    check_seed(seed)
    given = {"dequantization_samples": dequantization_samples, "target_error": target_error, "budget": budget}
    given |= {"draws": draws, "chain": chain, "flow": flow, "trace": trace}
    settings = {name: value for name, value in given.items() if value is not None}
    with _together(hosts, folder, (data, split, limit, seed, unconditional, precision, condition, settings), KEPT):
        progress = not json_ and first()
        run = runs.load(folder)
        settings = run.known.LIKELIHOOD | settings | {"progress": progress, "condition": condition}
        return runs.likelihood(run, folder, data, split, limit, seed, unconditional, precision=precision, **settings)


def evaluate(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    samples: int | None = None,
    features: Literal["classifier", "pixels", "inception"] | None = None,
    inception: Path | None = None,
    data: Data | None = None,
    split: Literal["validation", "test"] = "test",
    how: Annotated[Drawing, tyro.conf.arg(name="")] = Drawing(),
    json_: Json = False,
) -> dict:
    """How good samples of RUN are: Fréchet and kernel distance, precision, recall, density and coverage.

    Samples are compared with the training examples, at most 10,000. Each metric has a standard error and its floor
    beside it: the metric of as many real examples that the model has not seen. The result is written to evaluation.json
    in the run's folder. An interrupted command continues when it is run again.

    Pictures are compared by the features of a small classifier, which is trained on the training pictures and their
    labels and kept in the run's folder. Results of two runs are comparable where its hash is the same. Rows are
    compared by their standardised columns, and by Wasserstein distances in their own units.

    Args:
        folder: A run's folder, or one that `jaxdiff export` wrote.
        samples: How many samples; by default as many as the split has examples, at most 2,000.
        features: What pictures are compared by: a classifier, their pixels (the default without labels), or the
            FID's Inception (for colour pictures).
        inception: The folder with Inception's weights in one safetensors file, for --features inception.
        data: What to compare with: folder('mine', size=32), table('mine.csv'), ...; by default the training data.
        split: The split of real examples for the floor.
        how: How samples are drawn.
        json_: Print the result as one line of JSON.
    """
    folder = check_path("folder", folder)
    if (features == "inception") != (inception is not None):
        raise ValueError("--features inception and --inception FOLDER, where its weights are, go together")
    chosen: Any = features if inception is None else pretrained.inception(inception)
    settings = {field.name: getattr(how, field.name) for field in dataclasses.fields(how)}
    with _together(Hosts(), folder, (samples, how), KEPT):
        run = runs.load(folder)
        return runs.evaluate(run, folder, samples, chosen, data, split, progress=not json_, **settings)


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], folder: Folder, json_: Json = False
) -> dict:
    """Write the model of a run as three files: its averaged weights, as safetensors, its config, and what it keeps of
    its data.

    FOLDER is then a run's folder to all that reads one: `jaxdiff sample`, `jaxdiff likelihood`, jaxdiff.runs.load.

    Args:
        run: A run's folder.
        folder: Where to; new or empty.
        json_: Print the result as one line of JSON.
    """
    config, data, weights = runs.export(runs.load(check_path("run", run)), check_path("folder", folder))
    return {"weights": str(weights), "config": str(config), "data": str(data)}


def words(kind: Annotated[str, tyro.conf.Positional] = "", json_: Json = False) -> dict:
    """List the words that settings are written in, with their fields and defaults: `jaxdiff words sampler`.

    Args:
        kind: Which words: process, loss, weighting, sampler, network, data set, ...; all unless given.
        json_: Print them as one line of JSON.
    """
    found = {noun: lines for noun, lines in listing().items() if kind in noun}
    if not found:
        raise ValueError(f"kind = {kind!r}; expected one of {', '.join(listing())}")
    if not json_:
        for noun, lines in found.items():
            print(f"{noun}\n" + "".join(f"    {line}\n" for line in lines))
    return found if json_ else {}


BASELINES = {
    "one Gaussian": 2.964,
    "ten Gaussians": 2.731,
    "autoregressive ridge": 2.140,
}  # experiments/digits_baselines.py


def demo(folder: Folder = Path("runs/demo"), seed: int = 0, json_: Json = False) -> dict:
    """Train on real digits, draw samples, and report the likelihood of held-out digits: about 4 minutes on two cores.

    Args:
        folder: The run's folder; run again, a finished demo only reports.
        seed: Seed of everything.
        json_: Print the result as one line of JSON.
    """
    say = lambda text: print(text, file=sys.stderr)
    folder, config = check_path("folder", folder), Config(seed=seed)
    with _together(Hosts(), folder, (), KEPT):
        say(f"training on 1,000 digits of 8 x 8 pixels; samples come to {folder}/samples.png")
        run = runs.train(config, folder, progress=not json_, pictures=0.1)
        say("likelihood of 447 digits it has not seen:")
        flow = ProbabilityFlow(rtol=1e-3, atol=1e-3)
        summary = runs.likelihood(run, folder, seed=seed, progress=not json_, budget=0, flow=flow)
    for name, value in BASELINES.items():
        say(f"  {value:.3f}  {name}")
    say(f"  {summary['bits_per_dim']:.3f}  this diffusion model, +- {summary['standard_error']:.3f}")
    say(f"look at {folder}: samples.png, denoising.png, training.png, summary.json")
    return summary


ABOUT = """Diffusion models in JAX. Every run lives in one folder.

Compiled programs are kept for the next start in the user's cache folder (~/.cache/jaxdiff): JAX_COMPILATION_CACHE_DIR
names another one, JAX_ENABLE_COMPILATION_CACHE=false keeps none."""


def main() -> None:
    """Entry point of `jaxdiff`: errors are one line and exit code 1."""
    for name in ("absl", "asyncio"):  # Orbax tells of an error in hundreds of lines, and then raises it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    log_to_stderr()
    warnings.formatwarning = lambda message, *_: f"jaxdiff: {message}\n"
    app = tyro.extras.SubcommandApp()
    for command in (demo, train, sample, likelihood, evaluate, export, words):
        app.command(command)
    try:
        result = app.cli(description=ABOUT, registry=_words())
    except (ValueError, TypeError, FloatingPointError, ImportError, OSError) as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        print(f"\njaxdiff: {str(stop) or 'interrupted; the same command starts again'}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if not isinstance(value, dict | None):
                print(f"{name:<31}{value:.6g}" if isinstance(value, float) else f"{name:<31}{value}")


def _words() -> tyro.constructors.ConstructorRegistry:
    """What has tyro read words with numbers."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        fields = primitive(info.type)
        return None if fields is None else tyro.constructors.PrimitiveConstructorSpec(**fields)

    return registry


if __name__ == "__main__":
    main()
