"""The command line: `jaxdiff demo | train | sample | likelihood | export`."""

import contextlib
import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

import jaxdiff as jd
from jaxdiff import runs, training
from jaxdiff.arrays import atomic_write, check_number, check_path, check_whole, is_leftover, own_folder, remove_folder
from jaxdiff.config import IMAGES, TRACES, Config, check_seed, make_trace
from jaxdiff.training.hosts import INTERRUPTED, agree, first

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


KEPT = "what is done is kept; the same command goes on"


@contextlib.contextmanager
def _together(hosts: Hosts, folder: Path, asked: tuple, at_once: str, agreed: bool = False) -> Iterator[None]:
    """Connect the processes of a run, of all of which the same is asked.

    A failure ends all of them; SIGTERM ends this one, or all where they agree on it. KeyboardInterrupt says what is
    kept.
    """
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
    config: Annotated[Config, tyro.conf.arg(name="")] = Config(),
    model_devices: int = 1,
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

    Args:
        folder: The run's folder; new, or that of the same run.
        config: What to train.
        model_devices: Devices that share one copy of the weights (FSDP); the others multiply the batch (data parallel).
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
        return told + ([training.wandb(folder, wandb, dataclasses.asdict(config))] if wandb else [])

    folder = check_path("folder", folder)
    asked = config, model_devices, allow, checkpoint_every, log_every
    with _together(hosts, folder, asked, "nothing is lost; the same command goes on", agreed=True):
        settings = model_devices, writers, allow, checkpoint_every, log_every, pictures
        return runs.train(config, folder, not json_, *settings)[1]


def sample(
    folder: Folder,
    n: int = 64,
    sampler: Literal[*runs.SAMPLERS] = "dpm_solver",  # pyright: ignore[reportInvalidTypeForm]
    steps: int = 50,
    label: int | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts(),
    json_: Json = False,
) -> dict:
    """Draw samples from the run in FOLDER into samples.npy and samples.png.

    The same command again goes on where it was interrupted.

    Args:
        folder: A run's folder.
        n: How many samples. Sample i is the same whatever their number and the batch size.
        sampler: How noise becomes data.
        steps: Denoising steps (probability_flow chooses its own).
        label: Class to draw, of a run trained with --conditional.
        guidance: Classifier-free guidance: 1 is the conditional model, above 1 exaggerates the label.
        seed: Seed of the noise.
        batch_size: Samples drawn at once.
        hosts: Several processes.
        json_: Print the result as one line of JSON.
    """
    folder = check_path("folder", folder)
    for name, count in (("n", n), ("steps", steps), ("batch_size", batch_size)):
        check_whole(name, count)
    check_seed(seed)
    check_number("guidance", guidance)
    with _together(hosts, folder, (n, sampler, steps, label, guidance, seed, batch_size), KEPT):
        config, denoiser = runs.load(folder)
        if label is not None:
            if (classes := denoiser.no_label()) is None:
                raise ValueError(f"label = {label}, but the run in {folder} was trained without --conditional")
            if not 0 <= label < classes:
                raise ValueError(f"label = {label}; expected 0 to {classes - 1}")
        if guidance != 1.0:
            if label is None:
                raise ValueError(f"guidance = {guidance} needs a label to guide to; give --label")
            denoiser = jd.guidance.ClassifierFree(denoiser, guidance)
        keep = own_folder(folder, "samples.partial") if first() else folder / "samples.partial"
        lasting = {"mesh": runs.every_device(), "keep": keep, "progress": not json_ and first()}
        x = runs.draw(config, denoiser, n, sampler, steps, seed, label, batch_size, **lasting)
        if first():
            with atomic_write(folder / "samples.npy") as file:
                np.save(file, x)
            runs.picture_samples(config, x[:256] if config.data in IMAGES else x, folder / "samples.png")
            remove_folder(keep)
    return {"samples": str(folder / "samples.npy"), "picture": str(folder / "samples.png"), "n": n}


def likelihood(
    folder: Folder,
    split: Literal["train", "validation", "test"] = "test",
    limit: int | None = None,
    dequantization_samples: int = 1,
    target_error: float | None = None,
    budget: int | None = None,
    trace: Literal[*TRACES] = "hutchinson",  # pyright: ignore[reportInvalidTypeForm]
    probes: int | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    seed: int = 0,
    unlabelled: bool = False,
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts(),
    json_: Json = False,
) -> dict:
    """Likelihood of held-out data under the run in FOLDER, and how wrong it may be: bits/dim of images, nats of points.

    Of a run with --conditional it is that of p(x | label). The same command again goes on where it was interrupted.

    Args:
        folder: A run's folder.
        split: Which part of the data.
        limit: Use the first examples only.
        dequantization_samples: 1 is uniform dequantisation; more give the tighter importance-weighted bound.
        target_error: Add images in random order, then repeats of them, until the standard error is this small.
        budget: Images to measure the error budget on, 64 unless given; 0 leaves it out.
        trace: The trace of the flow's Jacobian: estimated by random probes, or exact.
        probes: Random probes an example, 1 unless given; two or more give their own standard error.
        rtol: Relative tolerance of the solver.
        atol: Absolute tolerance of the solver.
        seed: Seed of dequantisation and probes.
        unlabelled: Of a run with --conditional: p(x), as if no label were known.
        hosts: Several processes.
        json_: Print the result as one line of JSON.
    """
    folder = check_path("folder", folder)
    if limit is not None:
        check_whole("limit", limit)
    check_seed(seed)
    settings = {"flow": jd.samplers.ProbabilityFlow(rtol=rtol, atol=atol), "trace": make_trace(trace, probes)}
    samples = dequantization_samples
    with _together(hosts, folder, (split, limit, seed, samples, target_error, budget, unlabelled, settings), KEPT):
        progress = not json_ and first()
        asked = split, limit, seed, progress, samples, target_error, budget, unlabelled
        return runs.likelihood(*runs.load(folder), folder, *asked, **settings)


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], folder: Folder, json_: Json = False
) -> dict:
    """Write the model of a run as two files: its averaged weights, as safetensors, and its config.

    FOLDER is then a run's folder to all that reads one: `jaxdiff sample`, `jaxdiff likelihood`, jaxdiff.runs.load.

    Args:
        run: A run's folder.
        folder: Where to; new or empty.
        json_: Print the result as one line of JSON.
    """
    run, folder = check_path("run", run), check_path("folder", folder)
    if folder.exists() and not (folder.is_dir() and all(map(_is_unfinished, folder.iterdir()))):
        raise ValueError(f"{folder} is not an empty folder; give one that is new or empty")
    _, denoiser = runs.load(run)
    jd.pretrained.write_params(own_folder(folder) / runs.WEIGHTS, denoiser.params)
    with atomic_write(folder / "config.json") as file:  # last: without it a folder is no run
        file.write((run / "config.json").read_bytes())
    return {"weights": str(folder / runs.WEIGHTS), "config": str(folder / "config.json")}


def _is_unfinished(path: Path) -> bool:
    """Whether an export that was stopped can have left this in an empty folder."""
    return is_leftover(path) or (path.name == runs.WEIGHTS and not path.with_name("config.json").exists())


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
        denoiser, _ = runs.train(config, folder, not json_, pictures=0.1)
        say("likelihood of 447 digits it has not seen:")
        flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
        summary = runs.likelihood(config, denoiser, folder, "test", None, seed, not json_, budget=0, flow=flow)
    for name, value in BASELINES.items():
        say(f"  {value:.3f}  {name}")
    say(f"  {summary['bits_per_dim']:.3f}  this diffusion model, +- {summary['standard_error']:.3f}")
    say(f"look at {folder}: samples.png, denoising.png, training.png, summary.json")
    return summary


def main() -> None:
    """Entry point of `jaxdiff`: errors are one line and exit code 1."""
    for name in ("absl", "asyncio"):  # Orbax tells of an error in hundreds of lines, and then raises it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.formatwarning = lambda message, *_: f"jaxdiff: {message}\n"
    app = tyro.extras.SubcommandApp()
    for command in (demo, train, sample, likelihood, export):
        app.command(command)
    try:
        result = app.cli(description="Diffusion models in JAX. Every run lives in one folder.")
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
                print(f"{name:<22}{value:.6g}" if isinstance(value, float) else f"{name:<22}{value}")


if __name__ == "__main__":
    main()
