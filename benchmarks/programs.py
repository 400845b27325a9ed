"""The programs by which `against.py` compares two checkouts, in a process of its own that runs them on request.

Each is written once, in calls that both checkouts understand, so that it compiles and runs whichever `jaxdiff` the
process imports. The process reads the sizes, then requests, each one line of JSON, and answers each by one:

    sizes                     -> [path of jaxdiff, names of the programs]
    ["compile", name]         -> {"flops", "bytes", "temp", "compile_seconds"}
    ["run", name, calls]      -> seconds for one unit of work, such as a training step or a sampling step
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff.networks import MLP, UNet, initialize


class Program(NamedTuple):
    """What XLA makes of a call, and the call as a user makes it, which returns the units of work it did."""

    lower: Callable[[], jax.stages.Lowered]
    run: Callable[[], int]


def moved(params):
    """Weights that are all away from their initial values, some of which are 0."""
    leaves, form = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return form.unflatten([leaf + 0.02 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)])


def model(kind: str, sizes: dict) -> jd.Denoiser:
    """A denoiser whose weights are all moved away from their initial values: those of the last layer are 0."""
    event = sizes["size"], sizes["size"], 1
    make = {
        "MLP": lambda rngs: MLP(event, rngs=rngs),
        "U-Net": lambda rngs: UNet(1, sizes["channels"], 1, sizes["attention"], rngs=rngs),
    }
    network, params = initialize(jax.random.key(0), make[kind])
    return jd.Denoiser(network, moved(params), jd.VP())


def loss_gradient(denoiser: jd.Denoiser, x0) -> Program:
    """The gradient of the mean denoising loss."""

    @jax.jit
    def gradient(params, denoiser, loss, key, x0):
        mean = lambda params: loss(dataclasses.replace(denoiser, params=params), key, x0).mean()
        return jax.value_and_grad(mean)(params)

    given = denoiser.params, denoiser, jd.losses.Denoising(), jax.random.key(2), x0

    def run():
        jax.block_until_ready(gradient(*given))
        return 1

    return Program(lambda: gradient.lower(*given), run)


def training_step(denoiser: jd.Denoiser, x0) -> Program:
    """One update, as `train` makes it."""
    optimizer = jd.training.clipped_adam(1000)
    step = jd.training.make_step(denoiser, jd.losses.Denoising(), optimizer)
    state = jd.training.TrainState.create(jax.random.key(2), denoiser.params, optimizer)

    def run():
        nonlocal state
        state, _ = step(state, {"x": x0})
        jax.block_until_ready(state)
        return 1

    return Program(lambda: step.lower(state, {"x": x0}), run)


def sampling_step(denoiser: jd.Denoiser, x, sampler, steps: int) -> Program:
    """Steps alone, from a given x and on given times. XLA counts the operations of a loop once: of one step."""
    draw = lambda key, denoiser, sampler, times, x: jd.sample(key, denoiser, x.shape, sampler, grid=times, x_start=x)
    given = jax.random.key(2), denoiser, sampler, jnp.linspace(0.95, 0.05, steps + 1), x

    def run():
        jax.block_until_ready(draw(*given))
        return steps

    return Program(lambda: jax.jit(draw).lower(*given), run)


def samples(denoiser: jd.Denoiser, shape, steps: int) -> Program:
    """A whole run as by default: the prior, the grid, the steps, the last answer."""
    draw = lambda key, denoiser: jd.sample(key, denoiser, shape, steps=steps)
    given = jax.random.key(2), denoiser

    def run():
        jax.block_until_ready(draw(*given))
        return 1

    return Program(lambda: jax.jit(draw).lower(*given), run)


def likelihood(denoiser: jd.Denoiser, x0) -> Program:
    """The adaptive flow with one probe: drift and trace. A unit of work is an evaluation of the slowest example."""
    given = jax.random.key(2), denoiser, x0

    def run():
        return int(jd.log_likelihood(*given).evaluations.max())

    return Program(lambda: jax.jit(jd.log_likelihood).lower(*given), run)


def programs(sizes: dict) -> dict[str, Callable[[], Program]]:
    """How each program is made, by its name."""
    shape, steps = (sizes["batch"], sizes["size"], sizes["size"], 1), sizes["steps"]
    x0 = jax.random.uniform(jax.random.key(3), shape, minval=-1.0)
    of = {
        "loss gradient": lambda denoiser: loss_gradient(denoiser, x0),
        "training step": lambda denoiser: training_step(denoiser, x0),
        "DPM-Solver++ step": lambda denoiser: sampling_step(denoiser, x0, jd.samplers.DPMSolverPP(), steps),
        "DDIM step": lambda denoiser: sampling_step(denoiser, x0, jd.samplers.DDIM(), steps),
        "Ancestral step": lambda denoiser: sampling_step(denoiser, x0, jd.samplers.Ancestral(), steps),
        "samples": lambda denoiser: samples(denoiser, shape, steps),
        "likelihood": lambda denoiser: likelihood(denoiser, x0),
    }
    return {
        f"{kind}, {name}": lambda kind=kind, make=make: make(model(kind, sizes))
        for kind in ("MLP", "U-Net")
        for name, make in of.items()
    }


def compiled(program: Program) -> dict:
    """What XLA says of the compiled program, and the seconds that tracing and compiling took."""
    began = time.perf_counter()
    executable = program.lower().compile()
    seconds = time.perf_counter() - began
    costs = executable.cost_analysis()
    return {
        "flops": costs["flops"],
        "bytes": costs["bytes accessed"],
        "temp": executable.memory_analysis().temp_size_in_bytes,
        "compile_seconds": seconds,
    }


def seconds_a_unit(program: Program, calls: int) -> float:
    """Seconds for a unit of work, over `calls` calls."""
    began = time.perf_counter()
    work = sum(program.run() for _ in range(calls))
    return (time.perf_counter() - began) / work


def serve(requests, answers) -> None:
    """Answer requests until there are no more, keeping the program of the last one alone."""
    answer = lambda what: print(json.dumps(what), file=answers, flush=True)
    makers = programs(json.loads(next(requests)))
    answer([jd.__file__, list(makers)])
    made, program = None, None
    for request in requests:
        command, name, *given = json.loads(request)
        if name != made:
            made, program = name, makers[name]()
        answer({"compile": compiled, "run": seconds_a_unit}[command](program, *given))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a checkout prints is no answer
    serve(sys.stdin, answers)
