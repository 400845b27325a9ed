"""What training, sampling and likelihood cost on this machine, each beside a bare loop of the same network.

    python benchmarks/speed.py        two to four minutes on two cores; --help for sizes, --json for one line of JSON

The two sides of a row take turns, so that a busy machine slows both alike: read the overhead, the extra time for the
same work, before the rates. The bare loops call nothing but the network and do the least arithmetic around it:

    training     mean squared error at drawn times, its gradient, the same optimiser; no average of the weights
    sampling     the DDIM update with its coefficients worked out beforehand (it ends at the same samples)
    likelihood   drift and one Jacobian-vector product by `jax.jvp`, all examples in step

An evaluation is one example through the network once, with its product for the likelihood. Compiling is the first call
less a later one.

    python benchmarks/speed.py --against PATH        this checkout beside another; --only for some of its programs

compares the programs that both compile: the loss gradient, a training step, a sampling step of three samplers, a whole
run of one, an adaptive likelihood, each of a U-Net and of an MLP. FLOPs, bytes accessed and temporary bytes are XLA's
own (`cost_analysis`, which counts the operations of a loop once, and `memory_analysis`): exact, whatever else the
machine does. Times are those of calls as a user makes them, in turns.
"""

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import against
import diffrax  # noqa: F401  loaded here, so that the likelihood's first call does not count it as compiling
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxdiff as jd
from jaxdiff.config import Config
from jaxdiff.processes import row
from jaxdiff.runs import Pictures

DEMO = Config()
DEMO_NETWORK = Pictures.NETWORK.values
SIZES = "size", "channels", "attention", "batch", "steps"
QUICK = {"size": 4, "channels": (4,), "attention": (), "batch": 2, "steps": 3, "repetitions": 3}
Side = Callable[[], int]  # runs to its end; returns the units of work it did


@dataclasses.dataclass(frozen=True)
class Settings:
    """The network, that of the demo unless told otherwise, and how long to measure."""

    size: int = 8
    """Height and width of the images."""
    channels: tuple[int, ...] = DEMO_NETWORK["channels"]
    """Channels of the U-Net's levels, each half the size of the one before."""
    attention: tuple[int, ...] = DEMO_NETWORK["attention"]
    """The levels with attention, 0 being the full image."""
    batch: int = DEMO.batch_size
    """Images at once."""
    steps: int = 50
    """DDIM steps; with --against those of every sampler."""
    repetitions: int | None = None
    """Turns of each side: 9, with --against 31, unless given. With --against 0 leaves the times out."""
    json: bool = False
    """Print one line of JSON."""
    against: Path | None = None
    """Another checkout of the repository, to compare this one with in place of the bare loops."""
    only: str = ""
    """With --against: the programs whose name contains this, such as "MLP" or "likelihood"."""
    quick: bool = False
    """With --against: the smallest networks and three turns, to see that it runs."""

    def __post_init__(self):
        if self.against is None and (self.only or self.quick):
            raise ValueError("--only and --quick are settings of --against; give --against PATH, or leave them out")
        given = [f"--{name}" for name in QUICK if getattr(self, name) != getattr(type(self), name)]
        if self.quick and given:
            raise ValueError(f"--quick has sizes and turns of its own; leave it out, or {', '.join(given)}")
        turns = {"repetitions": 31 if self.against else 9} if self.repetitions is None else {}
        for name, value in (QUICK if self.quick else turns).items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Row:
    """Units of work a second (medians) and the extra time of ours for the same work, in % (median and quartiles)."""

    rate: float
    bare_rate: float
    overhead: float
    overhead_quartiles: tuple[float, float]
    compile_seconds: float
    bare_compile_seconds: float


def compare(ours: Side, bare: Side, repetitions: int) -> Row:
    """Time `ours` and `bare` in turns, the first to go changing from turn to turn."""

    def timed(side):
        began = time.perf_counter()
        work = side()
        seconds = time.perf_counter() - began
        return seconds, seconds / work

    sides = ours, bare
    first = np.array([timed(side)[0] for side in sides])
    turns = against.in_turns([functools.partial(timed, side) for side in sides], repetitions)
    seconds, per_unit = np.median(turns, 0).T
    overhead = against.overhead(*turns[:, :, 1].T)
    return Row(*(1 / per_unit).tolist(), *overhead, *(first - seconds).tolist())


def training(denoiser: jd.Denoiser, x0, repetitions: int, updates: int = 10) -> tuple[Row, jd.Denoiser]:
    """Training steps, `updates` a turn, and the denoiser after ours."""
    optimizer = jd.training.clipped_adam(1000)
    step = jd.training.make_step(denoiser, jd.losses.Denoising(), optimizer)
    process, network = denoiser.process, denoiser.network

    def mean_loss(params, key):
        t_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(t_key, (len(x0), 1, 1, 1))
        noise = jax.random.normal(noise_key, x0.shape)
        alpha, sigma = process.marginal(t)
        a, b = row(denoiser.parameterization, process, t, denoiser.data_std)
        x = (alpha * x0 + sigma * noise) / jnp.hypot(alpha * denoiser.data_std, sigma)
        return jnp.mean((network(params, x, process.c_noise(t.ravel()), None) - a * x0 - b * noise) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def bare_step(params, opt_state, key):
        value, grads = jax.value_and_grad(mean_loss)(params, key)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, value

    key = jax.random.key(0)
    state = jd.training.TrainState.create(key, denoiser.params, optimizer)
    params = jax.tree.map(jnp.copy, denoiser.params)
    opt_state = optimizer.init(params)

    def ours():
        nonlocal state
        for _ in range(updates):
            state, _ = step(state, {"x": x0})
        jax.block_until_ready(state)
        return updates

    def bare():
        nonlocal params, opt_state
        for i in range(updates):
            params, opt_state, _ = bare_step(params, opt_state, jax.random.fold_in(key, i))
        jax.block_until_ready(params)
        return updates

    return compare(ours, bare, repetitions), dataclasses.replace(denoiser, params=state.params)


def bare_ddim(denoiser: jd.Denoiser, steps: int) -> Callable:
    """The jitted `(params, x) -> samples`: x_s = keep x + add network(c_in x), `steps` times down to clean data."""
    process = denoiser.process
    times = jd.grids.Angle()(process, steps, 1.0, None)
    alpha, sigma = process.marginal(times)
    a, b = row(denoiser.parameterization, process, times, denoiser.data_std)
    alpha_s, sigma_s = jnp.append(alpha[1:], 1.0), jnp.append(sigma[1:], 0.0)
    det = alpha * b - sigma * a
    keep, add = (alpha_s * b - sigma_s * a) / det, (sigma_s * alpha - alpha_s * sigma) / det
    c_in = 1 / jnp.hypot(alpha * denoiser.data_std, sigma)
    network = denoiser.network

    @jax.jit
    def run(params, x):
        def step(x, coefficients):
            c_in, level, keep, add = coefficients
            return keep * x + add * network(params, c_in * x, level, None), None

        return jax.lax.scan(step, x, (c_in, process.c_noise(times), keep, add))[0]

    return run


def sampling(denoiser: jd.Denoiser, shape: tuple[int, ...], steps: int, repetitions: int) -> Row:
    """Network evaluations of DDIM."""
    key, run = jax.random.key(0), bare_ddim(denoiser, steps)
    x_start = jax.random.normal(key, shape)

    def ours():
        jax.block_until_ready(jd.sample(key, denoiser, shape, jd.samplers.DDIM(), steps))
        return shape[0] * steps

    def bare():
        jax.block_until_ready(run(denoiser.params, x_start))
        return shape[0] * steps

    return compare(ours, bare, repetitions)


def likelihood(denoiser: jd.Denoiser, x0, repetitions: int, steps: int = 80) -> tuple[Row, int, float]:
    """Evaluations of the flow with one probe, at the demo's tolerance, and their maximum and mean over examples."""
    key, network = jax.random.key(0), denoiser.network
    probe = jax.random.rademacher(key, x0.shape, x0.dtype)

    @jax.jit
    def products(params, x):
        def step(carry, level):
            x, trace = carry
            v, product = jax.jvp(lambda x: network(params, x, level, None), (x,), (probe,))
            return (x + v / steps, trace + jnp.sum(probe * product, range(1, x.ndim))), None

        return jax.lax.scan(step, (x, jnp.zeros(len(x))), jnp.linspace(-3.0, 3.0, steps))[0]

    flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)

    def solve():
        return jax.block_until_ready(jd.log_likelihood(key, denoiser, x0, flow=flow))

    def bare():
        jax.block_until_ready(products(denoiser.params, x0))
        return steps * len(x0)

    measured = compare(lambda: int(solve().evaluations.sum()), bare, repetitions)
    evaluations = np.asarray(solve().evaluations)
    return measured, int(evaluations.max()), float(evaluations.mean())


def import_seconds() -> tuple[float, float]:
    """Seconds of `import jax`, and of `import jaxdiff` after it: medians of five new processes."""
    program = "from time import perf_counter as now; a = now(); import jax; b = now(); import jaxdiff; c = now()"
    program += "; print(b - a, c - b)"
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(5)]
    jax_seconds, ours = zip(*(map(float, run.split()) for run in runs))
    return statistics.median(jax_seconds), statistics.median(ours)


def measure(settings: Settings) -> dict:
    """All figures, as they go into the JSON."""
    from jaxdiff.networks import UNet, initialize

    jax.config.update("jax_enable_compilation_cache", False)
    load = os.getloadavg()[0]
    make = lambda rngs: UNet(1, settings.channels, DEMO_NETWORK["blocks"], settings.attention, rngs=rngs)
    network, params = initialize(jax.random.key(0), make)
    denoiser = jd.Denoiser(network, params, DEMO.process, DEMO.parameterization)
    shape = settings.batch, settings.size, settings.size, 1
    x0 = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)

    train_row, denoiser = training(denoiser, x0, settings.repetitions)  # which moves the last layers away from 0
    sample_row = sampling(denoiser, shape, settings.steps, settings.repetitions)
    likelihood_row, most, mean = likelihood(denoiser, x0, settings.repetitions)
    import_jax, import_jaxdiff = import_seconds()
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": load,
        "jax": jax.__version__,
        "jaxdiff": jd.__version__,
        **{name: getattr(settings, name) for name in (*SIZES, "repetitions")},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "training": dataclasses.asdict(train_row),
        "sampling": dataclasses.asdict(sample_row),
        "likelihood": {
            **dataclasses.asdict(likelihood_row),
            "evaluations_max": most,
            "evaluations_mean": mean,
        },
        "import_jax_seconds": import_jax,
        "import_jaxdiff_seconds": import_jaxdiff,
    }


def table(figures: dict) -> str:
    """The figures to read."""
    size, flow = figures["size"], figures["likelihood"]
    lines = [
        f"jaxdiff {figures['jaxdiff']}, jax {figures['jax']} on {figures['device']}, "
        f"{figures['cores']} cores with a load of {figures['load']:.1f} at the start",
        f"U-Net of {figures['parameters']:,} parameters, batch of {figures['batch']} images of {size} x {size} x 1; "
        f"medians of {figures['repetitions']} turns, quartiles in brackets",
        "",
        f"{'':26s}{'jaxdiff':>9s}{'bare':>9s}{'overhead':>11s}{'':18s}{'compile':>9s}{'bare':>9s}",
    ]
    for name, unit in (("training", "steps"), ("sampling", "evaluations"), ("likelihood", "evaluations")):
        part = figures[name]
        quartiles = "({:+.1f} to {:+.1f})".format(*part["overhead_quartiles"])
        lines.append(
            f"{name + ', ' + unit + '/s':26s}{part['rate']:9,.1f}{part['bare_rate']:9,.1f}{part['overhead']:+9.1f} %"
            f"   {quartiles:15s}{part['compile_seconds']:7.1f} s{part['bare_compile_seconds']:7.1f} s"
        )
    most, mean = flow["evaluations_max"], flow["evaluations_mean"]
    lines += [
        "",
        f"An example's likelihood took {mean:.0f} evaluations, the slowest one's {most}: that the others wait for it "
        f"makes {100 * (most / mean - 1):.0f} % of overhead alone.",
        f"import jaxdiff takes {figures['import_jaxdiff_seconds']:.2f} s after import jax, "
        f"which takes {figures['import_jax_seconds']:.2f} s.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    if settings.against is None:
        figures, read = measure(settings), table
    else:
        sizes = {name: getattr(settings, name) for name in SIZES}
        figures = against.measure(settings.against, sizes, settings.only, settings.repetitions)
        read = against.table
    print(json.dumps(figures) if settings.json else read(figures))
