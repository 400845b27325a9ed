"""What a program costs on an accelerator that is not there: XLA compiles for it, and its kernels are counted.

    pip install '.[plan]'        what compiles, 1.2 GB, into a virtual environment of its own; no driver, no CUDA
    python benchmarks/accelerators.py h100 --network 'unet((128, 256, 256, 256), 2, (1,))' --shape 32 32 3 --batch 128
    python benchmarks/accelerators.py h100:8 ...        eight of them, data parallel; --model 8 for FSDP
    python benchmarks/accelerators.py v5e:4x4 ...       a slice of 16 TPUs
    python benchmarks/accelerators.py h100 --categories 50257 --shape 1024 --network 'transformer(768, 12, 12)' ...
    python benchmarks/accelerators.py h100 --text FILE  any other program: FILE holds its compiled.as_text()

For a training step, a sampling step (of DDIM, or ancestral for categories) and an evaluation of the likelihood (drift
and one probe's product): how many kernels, what they move and multiply, how long they would take, by kind and by
origin, what devices send each other, and the memory of each. Bytes and FLOPs are read off the program (`hlo.py`); the
time is a model (`machines.py`), good for finding what is large and for comparing two programs. Nothing is tuned for the
device, so that the algorithms of products may differ from those that a device chooses.

A solver that chooses its own steps, a sort, a kernel written by hand or a library's attention have a cost that a
program does not show: they are refused until --trips or --charge says it.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.sharding import Mesh
from kernels import KINDS, ORIGINS, Kernel, kernels
from machines import Machine, advice, devices, machine, seconds

import jaxdiff as jd
from jaxdiff.arrays.mesh import batch_sharding, by_device, replicated, state_sharding
from jaxdiff.config import Config
from jaxdiff.denoisers import angular_velocity
from jaxdiff.networks import Cast
from jaxdiff.networks import Network as Split
from jaxdiff.runs import Pictures
from jaxdiff.training import TrainState, clipped_adam, make_mesh, make_step
from jaxdiff.vocabulary import WORDS, Network

STEPS = 50  # in the program whose fiftieth is a sampling step
PROGRAMS = "training", "sampling", "likelihood"
DEMO = Config()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where and what: the demo's network on its digits unless told otherwise."""

    device: tyro.conf.Positional[str]
    """h100, a100 or l4; several as h100:8; a slice of TPUs by its topology, such as v5e:4x4."""
    network: str = WORDS.write(Pictures.NETWORK, Network)
    """A network by its words, as `jaxdiff train` takes it."""
    diffusers: Path | None = None
    """In place of --network: a folder that diffusers' save_pretrained wrote."""
    shape: tuple[int, ...] = (8, 8, 1)
    """One example."""
    categories: int | None = None
    """Examples are texts of so many symbols under masks, in place of numbers."""
    batch: int = 64
    """Examples at once, over all devices."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network is computed in."""
    precision: Literal["default", "high", "highest"] = "default"
    """How exactly float32 is multiplied: by default as TF32 on GPUs, as bfloat16 on TPUs."""
    model: int = 1
    """How many devices share one copy of the weights (FSDP)."""
    programs: tuple[Literal["training", "sampling", "likelihood"], ...] | None = None
    """Which of the three; all by default, of categories the first two."""
    text: Path | None = None
    """In place of all of these: a program that was compiled, its text."""
    trips: tuple[str, ...] = ()
    """Turns of loops that do not say them: NAME=TURNS, NAME a part of the loop's name."""
    charge: tuple[str, ...] = ()
    """Milliseconds of kernels that do not show what they compute: NAME=MS."""
    largest: int = 0
    """Print so many of the largest kernels too."""
    save: Path | None = None
    """Keep the programs' texts in this folder."""
    json: bool = False
    """Print one line of JSON."""

    def __post_init__(self):
        machine(self.device)
        asked = [
            "network",
            "diffusers",
            "shape",
            "categories",
            "batch",
            "dtype",
            "precision",
            "model",
            "programs",
            "save",
        ]
        given = [f"--{name}" for name in asked if getattr(self, name) != getattr(type(self), name)]
        if self.text is not None and given:
            raise ValueError(f"--text is a program that was compiled; leave it out, or {', '.join(given)}")
        if self.diffusers is not None and "--network" in given:
            raise ValueError("--network and --diffusers are two networks; leave one of them out")
        if self.categories is not None and (self.diffusers is not None or "likelihood" in (self.programs or ())):
            raise ValueError("--categories has neither diffusers' networks nor a flow's likelihood; leave them out")
        if (self.trips or self.charge) and self.text is None and len(self.asked) > 1:
            raise ValueError("--trips and --charge are for one program; say which, such as --programs training")

    @property
    def asked(self) -> tuple[str, ...]:
        """The programs to compile."""
        return self.programs or (PROGRAMS if self.categories is None else PROGRAMS[:2])


def entries(words: Sequence[str], kind: type) -> dict[str, Any]:
    """{"while.5": 100} of ["while.5=100"]; ValueError for what is none."""
    found = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        try:
            found[name] = kind(value)
        except ValueError:
            equals = ""
        if not (name and equals) or not 0 < found[name] < math.inf:
            raise ValueError(f"{word!r} is no NAME={kind.__name__} above 0; expected for example while.5=100")
    return found


def hollow(tree: Any, sharding) -> Any:
    """The arrays of `tree` as shapes that lie as `sharding(array)` says; a device that is not there holds no arrays."""
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf))
    return jax.tree.map(lambda leaf: shape(leaf) if hasattr(leaf, "dtype") else leaf, tree)


def denoiser_of(settings: Settings) -> jd.Denoiser:
    """The denoiser, with weights that are zeros and take no memory."""
    low = (lambda network: Cast(network, jnp.bfloat16)) if settings.dtype == "bfloat16" else lambda network: network
    zeros = lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    if settings.diffusers is not None:
        found = jd.pretrained.from_diffusers(settings.diffusers)
        return dataclasses.replace(found, network=low(found.network), params=jax.tree.map(zeros, found.params))
    recipe = WORDS.parse(settings.network, Network, "network")
    offered = {"channels_in": settings.shape[-1], "event": settings.shape}
    if settings.categories is not None:
        offered = {"categories": settings.categories, "length": settings.shape[0]}
    asked = {name: offered[name] for name in recipe.asks if name in offered}
    graph, state = nnx.split(nnx.eval_shape(lambda: recipe(**asked, rngs=nnx.Rngs(0))))
    params = jax.tree.map(zeros, nnx.to_pure_dict(state))
    if settings.categories is not None:
        return jd.Denoiser(low(Split(graph)), params, jd.Absorbing(settings.categories))
    return jd.Denoiser(low(Split(graph)), params, DEMO.process, DEMO.parameterization)


def _of_categories(denoiser: jd.Denoiser) -> bool:
    return isinstance(denoiser.process, jd.Discrete)


def training(denoiser: jd.Denoiser, x: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.stages.Lowered:
    """One update, as `train` makes it."""
    optimizer, loss = clipped_adam(1000), jd.losses.Bound() if _of_categories(denoiser) else jd.losses.Denoising()
    place = lambda tree, mesh: hollow(tree, lambda leaf: state_sharding(mesh, leaf))
    with mock.patch("jaxdiff.training.step.sharded", place):
        step = make_step(denoiser, loss, optimizer, mesh=mesh)
    return step.lower(TrainState.like(denoiser.params, optimizer, mesh), {"x": x})


def _shared(tree, mesh: Mesh):
    return hollow(tree, lambda leaf: replicated(mesh))


def sampling(denoiser: jd.Denoiser, x: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.stages.Lowered:
    """STEPS steps from a given x: of DDIM, or ancestral for categories."""
    sampler = jd.samplers.Ancestral() if _of_categories(denoiser) else jd.samplers.DDIM()

    def draw(shared, x):
        key, denoiser = shared
        return jd.sample(key, denoiser, x.shape, sampler, STEPS, x_start=x)

    shared = _shared((jax.eval_shape(jax.random.key, 0), denoiser), mesh)
    return jax.jit(by_device(draw, batch_sharding(mesh))).lower(shared, x)


def likelihood(denoiser: jd.Denoiser, x: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.stages.Lowered:
    """The drift and one probe's product of every example at an angle of its own, as `log_likelihood` has them."""
    process = denoiser.process

    def evaluation(shared, x, angles):
        denoiser, key = shared

        def one(key, z, angle):
            t = process.time_at_angle(angle)
            velocity = lambda z: angular_velocity(denoiser, process.scale(t) * z[None], t)[0]
            probe = jax.random.rademacher(key, z.shape, z.dtype)
            drift, product = jax.jvp(velocity, (z,), (probe,))
            return drift, jnp.vdot(probe, product)

        return jax.vmap(one)(jax.random.split(key, len(x)), x, angles)

    angles = jax.ShapeDtypeStruct(x.shape[:1], x.dtype, sharding=x.sharding)
    shared = _shared((denoiser, jax.eval_shape(jax.random.key, 0)), mesh)
    return jax.jit(by_device(evaluation, batch_sharding(mesh))).lower(shared, x, angles)


def compiled(settings: Settings, name: str, denoiser: jd.Denoiser, mesh: Mesh) -> jax.stages.Compiled:
    """A program for the devices of `mesh`. Raises RuntimeError, with what to try, where XLA cannot compile it."""
    dtype = jnp.float32 if settings.categories is None else jnp.int32
    x = jax.ShapeDtypeStruct((settings.batch, *settings.shape), dtype, sharding=batch_sharding(mesh))
    backend = "gpu" if machine(settings.device)[0].config else "tpu"
    lower = {"training": training, "sampling": sampling, "likelihood": likelihood}[name]
    with mock.patch("jax.default_backend", return_value=backend), jax.default_matmul_precision(settings.precision):
        lowered = lower(denoiser, x, mesh)
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        raise RuntimeError(f"XLA cannot compile this for {settings.device}: {said[:300]}\n{advice(said)}") from error


def memory(program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on each device while it runs; a donated argument is where its result comes to lie, and counts once."""
    found = program.memory_analysis()
    parts = {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    return parts | {"total": sum(parts.values())}


def costs(found: list[Kernel], kind: Machine, units: int = 1) -> dict[str, Any]:
    """What a program's kernels cost, each of its `units` of work: {kernels, bytes, flops, ms} by kind and origin."""
    total, by_kind, by_origin = (collections.defaultdict(lambda: [0.0] * 4) for _ in range(3))
    sent = collections.defaultdict(lambda: [0.0, 0.0])
    for kernel in found:
        runs = kernel.runs / units
        cost = 1, kernel.bytes, kernel.flops, 1e3 * seconds(kernel, kind)
        for row in (total["total"], by_kind[kernel.kind], by_origin[kernel.origin]):
            row[:] = [sum_ + runs * each for sum_, each in zip(row, cost)]
        if kernel.kind == "collective":
            sent[kernel.op] = [sent[kernel.op][0] + runs, sent[kernel.op][1] + runs * kernel.bytes]
    launches = 1e3 * kind.launch * total["total"][0]
    return {
        "kinds": {name: by_kind[name] for name in KINDS if name in by_kind},
        "origins": {name: by_origin[name] for name in ORIGINS if name in by_origin},
        "total": total["total"],
        "collectives": dict(sent),
        "launches_ms": launches,
        "ms": max(total["total"][3], launches),
    }


def table(name: str, figures: dict[str, Any]) -> str:
    """The figures of one program to read."""
    lines = [f"{name:16s}{'kernels':>9s}{'GB':>9s}{'GFLOP':>10s}{'ms':>9s}"]
    row = lambda name, cost: f"  {name:14s}{cost[0]:9.0f}{cost[1] / 1e9:9.3f}{cost[2] / 1e9:10.2f}{cost[3]:9.3f}"
    for part in ("kinds", "origins"):
        lines += [row(name, cost) for name, cost in figures[part].items()] + [""]
    lines[-1] = row("total", figures["total"])
    if figures["launches_ms"]:
        lines.append(f"  launched from the host in {figures['launches_ms']:.2f} ms, beside the device's work")
    lines.append(f"  predicted {figures['ms']:.2f} ms")
    for op, (count, sent) in figures["collectives"].items():
        lines.append(f"  {count:.0f} {op}, {sent / 1e6:.2f} MB given out on each device")
    if "memory" in figures:
        parts = ", ".join(f"{part} {n / 1e9:.3f}" for part, n in figures["memory"].items())
        lines.append(f"  GB a device, of {figures['has'] / 1e9:.1f}: {parts}")
        if figures["memory"]["total"] > figures["has"]:
            lines.append("  does not fit: try a smaller batch, --model, or unet(remat=True)")
    for each in figures.get("largest", ()):
        size = f"{each['bytes'] / 1e6:.2f} MB, {each['flops'] / 1e9:.2f} GFLOP"
        lines.append(f"  {each['ms']:6.3f} ms, {each['runs']:.3g} of {size}: {each['kind']} {each['name']}")
    return "\n".join(lines)


def largest(found: list[Kernel], kind: Machine, count: int, units: int = 1) -> list[dict[str, Any]]:
    """The kernels that take longest, by their runs in a unit of work; bytes and FLOPs are those of one run."""
    first = sorted(found, key=lambda kernel: -kernel.runs * seconds(kernel, kind))[:count]
    cost = lambda one: {"runs": one.runs / units, "ms": 1e3 * one.runs / units * seconds(one, kind)}
    return [cost(one) | {name: getattr(one, name) for name in ("bytes", "flops", "kind", "name")} for one in first]


def measure(settings: Settings) -> dict[str, Any]:
    """{program: figures}."""
    kind, _ = machine(settings.device)
    trips, milliseconds = entries(settings.trips, int), entries(settings.charge, float)
    charges = {name: value / 1e3 for name, value in milliseconds.items()}
    if settings.text is not None:
        found = kernels(settings.text.read_text(), trips, charges)
        return {settings.text.name: costs(found, kind) | {"largest": largest(found, kind, settings.largest)}}
    denoiser, mesh = denoiser_of(settings), make_mesh(settings.model, list(devices(settings.device)))
    figures = {}
    for name in settings.asked:
        program = compiled(settings, name, denoiser, mesh)
        text = program.as_text()
        if settings.save is not None:
            settings.save.mkdir(parents=True, exist_ok=True)
            (settings.save / f"{name}.txt").write_text(text)
        found, units = kernels(text, trips, charges), STEPS if name == "sampling" else 1
        figures[name] = costs(found, kind, units) | {"memory": memory(program), "has": kind.memory}
        figures[name]["largest"] = largest(found, kind, settings.largest, units)
    return figures


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    jax.config.update("jax_platforms", "cpu")  # what is compiled for is described, whatever is here
    try:
        figures = measure(settings)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print(json.dumps(figures) if settings.json else "\n\n".join(table(*item) for item in figures.items()))


if __name__ == "__main__":
    main()
