"""The command line: `jaxdiff demo | train | sample | likelihood | evaluate | export | words`."""

import contextlib
import dataclasses
import difflib
import inspect
import json
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxdiff import pretrained, runs, training
from jaxdiff.arrays import check_path, check_whole, own_folder, remove_folder
from jaxdiff.config import Config, check_seed
from jaxdiff.options import (
    Compared,
    Devices,
    Drawing,
    Estimate,
    Hosts,
    Learned,
    Logging,
    Model,
    Scored,
    Training,
    values,
)
from jaxdiff.runs.console import log_to_stderr
from jaxdiff.runs.programs import keep_compiled
from jaxdiff.samplers import ProbabilityFlow
from jaxdiff.training.hosts import INTERRUPTED, agree, first
from jaxdiff.vocabulary import listing, primitive

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Json = Annotated[
    bool,
    tyro.conf.arg(name="json", help="Print the result as one line of JSON, and no progress.", help_behavior_hint=""),
]
UNREAD = 141  # the exit code of a program that SIGPIPE ended
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
    data: Learned = Learned(),
    model: Model = Model(),
    how: Annotated[Training, tyro.conf.arg(name="training")] = Training(),
    log: Annotated[Logging, tyro.conf.arg(name="logging")] = Logging(),
    machine: Devices = Devices(),
    json_: Json = False,
) -> dict:
    """Train a diffusion model into FOLDER, or continue the run there.

    Settings such as edm(sigma_max=160) are words: `jaxdiff words` lists them.

    Example: jaxdiff train runs/mine --data fashion_mnist --steps 20000

    Args:
        folder: Folder of the run: a new one, or the same to continue.
    """

    def writers(folder: Path) -> list:
        found = [training.tensorboard(folder)] if log.tensorboard else []
        return found + ([training.wandb(folder, log.wandb, config.written())] if log.wandb else [])

    folder = check_path("folder", folder)
    settings = {field.name for field in dataclasses.fields(Config)}
    config = Config(**{name: value for name, value in values(data, model, how).items() if name in settings})
    if config.data is None:
        raise ValueError("data = None; expected what to learn from, such as digits or folder('pictures')")
    shared = machine.model_devices, machine.accumulate
    asked = config.written(), *shared, how.allow, how.checkpoint_every, log.log_every
    with _together(machine, folder, asked, "nothing is lost; the same command goes on", agreed=True):
        runs.train(
            config,
            folder,
            progress=not json_,
            model=machine.model_devices,
            accumulate=machine.accumulate,
            writers=writers,
            allow=how.allow,
            checkpoint_every=how.checkpoint_every,
            log_every=log.log_every,
            pictures=log.pictures,
        )
        return runs.read_summary(folder)


def sample(
    folder: Folder,
    n: int = 64,
    how: Annotated[Drawing, tyro.conf.arg(name="sampling")] = Drawing(),
    infill: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None,
    machine: Hosts = Hosts(),
    json_: Json = False,
) -> dict:
    """Draw samples from a run.

    They are written to samples.npy, samples.csv or samples.txt in FOLDER, and to a picture. The same command continues
    after an interruption.

    Example: jaxdiff sample runs/mine --n 16 --sampler 'heun(churn=40)' --steps 40

    Args:
        folder: Folder of a run, or of an exported model.
        n: Number of samples. Sample i does not depend on their number, nor on the batch size.
        infill: For texts: a text in which each "_" is drawn ("□" if the alphabet has "_", or of a tokenizer) and all
            else is kept.
    """
    folder = check_path("folder", folder)
    for name, count in (("n", n), ("steps", how.steps), ("batch_size", how.batch_size)):
        check_whole(name, count)
    check_seed(how.seed)
    with _together(machine, folder, (n, infill, how), KEPT):
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
            written = run.known.write(run.known.with_given(run.restore(x), how.condition), folder)
            picture = run.known.picture(x, None, folder / "samples.png", cond=cond)
            remove_folder(keep)
    return {"samples": str(written), "picture": picture and str(picture), "n": n} | run.known.figures(x)


def likelihood(
    folder: Folder,
    what: Annotated[Scored, tyro.conf.arg(name="data")] = Scored(),
    how: Annotated[Estimate, tyro.conf.arg(name="estimate")] = Estimate(),
    machine: Hosts = Hosts(),
    json_: Json = False,
) -> dict:
    """Likelihood of data under a run: bits/dim of pictures, nats per row, bits per character, with the error.

    A run with --condition scores p(x | condition). The same command continues after an interruption.

    Example: jaxdiff likelihood runs/mine --split validation --limit 500

    Args:
        folder: Folder of a run, or of an exported model.
    """
    folder = check_path("folder", folder)
    if what.limit is not None:
        check_whole("limit", what.limit)
    check_seed(how.seed)
    names = "dequantization_samples", "target_error", "budget", "draws", "chain", "flow", "trace"
    settings = {name: value for name in names if (value := getattr(how, name)) is not None}
    with _together(machine, folder, (what, how), KEPT):
        run = runs.load(folder)
        settings = run.known.estimate() | settings | {"progress": not json_ and first(), "condition": what.condition}
        asked = what.data, what.split, what.limit, how.seed, what.unconditional
        return runs.likelihood(run, folder, *asked, precision=how.precision, **settings)


def evaluate(
    folder: Run,
    what: Annotated[Compared, tyro.conf.arg(name="comparison")] = Compared(),
    how: Annotated[Drawing, tyro.conf.arg(name="sampling")] = Drawing(),
    json_: Json = False,
) -> dict:
    """Quality of samples: Fréchet and kernel distance, precision, recall, density and coverage.

    Each metric has its standard error, and a floor: the same metric of real examples that the model has not seen. The
    result is written to evaluation.json in RUN. The same command continues after an interruption.

    Example: jaxdiff evaluate runs/mine --samples 500 --features pixels

    Args:
        folder: Folder of a run, or of an exported model.
    """
    folder = check_path("folder", folder)
    if (what.features == "inception") != (what.inception is not None):
        raise ValueError("--features inception and --inception FOLDER, where its weights are, go together")
    chosen: Any = what.features if what.inception is None else pretrained.inception(what.inception)
    with _together(Hosts(), folder, (what.samples, how), KEPT):
        run = runs.load(folder)
        asked = what.samples, chosen, what.data, what.split
        return runs.evaluate(run, folder, *asked, progress=not json_, **values(how))


def export(run: Run, folder: Folder, json_: Json = False) -> dict:
    """Write the model of a run as three files: weights.safetensors, config.json and data.json.

    FOLDER can then be used like a run: by `jaxdiff sample`, `jaxdiff likelihood` and `jaxdiff evaluate`.

    Example: jaxdiff export runs/mine model

    Args:
        run: Folder of a run.
        folder: Where to write; a new or an empty folder.
    """
    config, data, weights = runs.export(runs.load(check_path("run", run)), check_path("folder", folder))
    return {"weights": str(weights), "config": str(config), "data": str(data)}


def words(
    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="")] = "", json_: Json = False
) -> dict:
    """List the words in which settings are written, with their fields and defaults.

    Example: jaxdiff words sampler

    Args:
        kind: process, loss, weighting, sampler, network, data set, ...; by default all.
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
    """Train on real digits, draw samples, and score held-out digits: 3 to 5 minutes on two cores.

    Example: jaxdiff demo

    Args:
        folder: Folder of the run. A finished demo only reports.
        seed: Seed of everything.
    """
    say = lambda text: print(text, file=sys.stderr)
    folder, config = check_path("folder", folder), Config(steps=2500, seed=seed)
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


COMMANDS = ("demo", "train", "sample", "likelihood", "evaluate", "export", "words")
ABOUT = """usage: jaxdiff COMMAND [OPTIONS]

Diffusion models in JAX. Every run lives in one folder.

{commands}

Example: jaxdiff demo

`jaxdiff COMMAND --help` lists the options of a command, `jaxdiff --version` prints the version. Compiled programs are
kept in ~/.cache/jaxdiff; JAX_ENABLE_COMPILATION_CACHE=false keeps none."""


def _about() -> str:
    summary = lambda name: (inspect.getdoc(globals()[name]) or "").partition("\n")[0]
    return ABOUT.format(commands="\n".join(f"  {name:<12}{summary(name)}" for name in COMMANDS))


def _call(arguments: Sequence[str]) -> dict:
    """Run the command that the arguments name. SystemExit with 2 for one that does not exist, as for its options."""
    name, *rest = arguments or [""]
    settings: dict[str, Any] = {"registry": _words(), "config": (tyro.conf.OmitArgPrefixes,)}
    if name.startswith("--tyro-"):  # shell completion
        app = tyro.extras.SubcommandApp()
        for each in COMMANDS:
            app.command(globals()[each])
        return app.cli(prog="jaxdiff", args=arguments, **settings)
    if name in ("-h", "--help"):
        print(_about())
        raise SystemExit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        wrong = f"{name!r} is not a command" if name else "no command was given"
        guess = f"; did you mean {near[0]}?" if near else "."
        print(f"jaxdiff: {wrong}{guess} See `jaxdiff --help`", file=sys.stderr)
        raise SystemExit(2)
    command: Callable[..., dict] = globals()[name]
    return tyro.cli(command, prog=f"jaxdiff {name}", args=rest, **settings)


def _unread() -> bool:
    """Whether the reader of the output has closed it, as `head` does; False on Windows, which cannot tell."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)  # nothing but errors
    return bool(poll.poll(0))


def main() -> None:
    """Entry point of `jaxdiff`: errors are one line and exit code 1. It ends silently if its output is not read."""
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end
        raise SystemExit(UNREAD) from None


def _main() -> None:
    for name in ("absl", "asyncio"):  # Orbax logs an error in hundreds of lines before it raises it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    log_to_stderr()
    warnings.formatwarning = lambda message, *_: f"jaxdiff: {message}\n"
    try:
        result = _call(sys.argv[1:])
    except (ValueError, TypeError, FloatingPointError, ImportError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            raise
        print(f"jaxdiff: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        print(f"\njaxdiff: {str(stop) or 'interrupted; the same command starts again'}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        shown = {name: value for name, value in result.items() if not isinstance(value, dict | None)}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            print(f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}")


def _words() -> tyro.constructors.ConstructorRegistry:
    """The rule by which tyro reads words with numbers."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        fields = primitive(info.type)
        return None if fields is None else tyro.constructors.PrimitiveConstructorSpec(**fields)

    return registry


if __name__ == "__main__":
    main()
