r"""What a step moves between devices, how long that takes, and when it dominates; derived in `docs/scaling.md`.

    python experiments/scaling.py        5 minutes on two cores; writes runs/scaling/scaling.png

Measured: a small U-Net on 1, 2, 4 and 8 devices, the first of `jax.devices()`. On CPUs, eight devices are simulated on
the available cores, which shows the cost of sharding but not its benefit. For each step it prints the time, the bytes
that the collectives of the compiled program output, and the bytes that the shapes of the parameters predict; the
experiment fails if these differ.

Predicted, not measured: for published model sizes, from their parameters and FLOPs and the manufacturers' figures,

    compute(b)      3 F b / (u peak)                           F: forward FLOPs of an example; b: examples a device
    communication   2 (k-1)/k 4P/near + 2 (m-1)/m (4P/k)/far   P: float32 parameters; m nodes of k devices
    b*              communication u peak / 3F                  the b for which the two are equal

so b/(b + b*) is the share of the time spent computing when nothing overlaps.

Expect, on every mesh of 2, 4 and 8 devices, 565,772 bytes summed and, if the weights are sharded, 552,960 gathered, as
predicted, with 4 or 124 bytes of scalars. For a batch in two parts the sum is in the loop, so it happens twice. A
data-parallel step holds 16 bytes of state a parameter and 16 of temporaries; FSDP over eight devices 2 and 7. On two
cores a step of 32 images took 57 to 151 ms and one of 128 from 267 to 557, on one device or eight, with no trend.
Predicted at 40 % of the peak,

    b* on                      8 H100   128 H100   256 TPU v5e
    U-Net 32, DDPM's widths       7.3       16.0           8.2
    U-Net 64, ADM's widths        3.2        7.1           3.7
    U-Net 256, ADM's widths      0.56        1.2          0.64
    DiT-XL/2                      5.8       12.9           6.6
"""

import dataclasses
import re
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxdiff as jd
from jaxdiff.arrays.mesh import state_sharding
from jaxdiff.networks import Network, UNet, initialize
from jaxdiff.plotting import lines
from jaxdiff.training import TrainState, batch_sharding, make_mesh, make_step
from jaxdiff.training.speed import PEAK_FLOPS

FOLDER, OPTIMIZER, STEPS, BATCHES, SIDE = Path("runs/scaling"), optax.adam(1e-3), 5, (32, 128), 16
UTILIZATION = 0.4  # of the peak in bfloat16: an assumption


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of device in nodes of `node`; its one-way bandwidth, bytes/s, within the node and out of it."""

    name: str
    peak: float
    node: int
    near: float
    far: float


MACHINES = (  # the makers' data sheets; Austin et al. 2025, How to Scale Your Model, chapters 2 and 12
    Machine("H100", PEAK_FLOPS["NVIDIA H100"], 8, 450e9, 50e9),  # NVLink 900 GB/s both ways; 400 Gb/s InfiniBand
    Machine("TPU v5e", PEAK_FLOPS["TPU v5e"], 256, 90e9, 3.125e9),  # two of four links of 45 GB/s; 25 Gb/s
)


@dataclasses.dataclass(frozen=True)
class Size:
    """A network's parameters, its forward FLOPs an example (two for a multiply-add), and its published batch size."""

    name: str
    parameters: int
    forward: float
    batch: int


def dit(name: str, depth: int, width: int, tokens: int = 256, batch: int = 256) -> Size:
    """DiT-*/2 on latents of 32 x 32 x 4 (Peebles and Xie 2023), in closed form.

    Of a block's 18 width² weights, the 6 of the modulation apply to one vector, the others to every token.
    """
    d, patch, out = width, 4 * 4, 4 * 8
    ends = (patch + 1) * d + (257 + d + 1) * d + 1001 * d + 2 * (d + 1) * d + (d + 1) * out
    products = depth * (12 * tokens * d**2 + 2 * tokens**2 * d + 6 * d**2)
    products += tokens * (patch + out) * d + 256 * d + 3 * d**2
    return Size(name, depth * (18 * d**2 + 15 * d) + ends, 2 * products, batch)


def unet(name: str, side: int, batch: int, classes: int, *shape) -> Size:
    """`UNet(3, *shape)` on side x side images, by XLA's count of the lowered program, which is not run."""
    module = nnx.eval_shape(lambda: UNet(3, *shape, classes=classes, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    x, c_noise = jnp.zeros((1, side, side, 3)), jnp.zeros(1)
    cond = jnp.zeros(1, jnp.int32) if classes else None
    traced = jax.jit(Network(graphdef)).trace(params, x, c_noise, cond)
    cost = traced.lower(lowering_platforms=("cuda",)).cost_analysis() or {}
    return Size(name, sum(leaf.size for leaf in jax.tree.leaves(params)), cost["flops"], batch)


def sizes() -> list[Size]:
    """Our U-Net with the widths of Ho et al. 2020 and of Dhariwal and Nichol 2021, and the four DiTs."""
    return [
        unet("U-Net 32, DDPM's widths", 32, 128, 0, (128, 256, 256, 256), 2, (1,)),
        unet("U-Net 64, ADM's widths", 64, 2048, 1000, (192, 384, 576, 768), 3, (1, 2, 3)),
        unet("U-Net 256, ADM's widths", 256, 256, 1000, (256, 256, 512, 512, 1024, 1024), 2, (3, 4, 5)),
        dit("DiT-S/2", 12, 384),
        dit("DiT-B/2", 12, 768),
        dit("DiT-L/2", 24, 1024),
        dit("DiT-XL/2", 28, 1152),
    ]


def compute(size: Size, machine: Machine, examples: float) -> float:
    """Seconds of a step with `examples` a device: the backward pass costs twice the forward pass."""
    return 3 * size.forward * examples / (UTILIZATION * machine.peak)


def communication(size: Size, machine: Machine, devices: int) -> float:
    """Seconds of the gradient's sum by rings: reduce-scatter in each node, sum across nodes, gather in each node.

    FSDP's gather and reduce-scatter are the two halves of the same.
    """
    k = min(devices, machine.node)
    m = devices // k
    whole = 4 * size.parameters
    return 2 * (k - 1) / k * whole / machine.near + 2 * (m - 1) / m * whole / k / machine.far


def break_even(size: Size, machine: Machine, devices: int) -> float:
    """b*: the number of examples a device for which computing takes as long as communication."""
    return communication(size, machine, devices) / compute(size, machine, 1)


def most_devices(size: Size, machine: Machine, share: float) -> int:
    """The most devices, a power of two, that compute for `share` of the time on the published batch, no overlap."""
    count = 1
    while 2 * count <= size.batch:
        examples = size.batch / (2 * count)
        if examples / (examples + break_even(size, machine, 2 * count)) < share:
            break
        count *= 2
    return count


def moved(program: str) -> dict[str, list]:
    """{collective: [count, output bytes]} of a program's text; those in a loop are under "... in the loop"."""
    found, entry = {}, False
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            entry = line.startswith("ENTRY")
        match = re.search(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-done)?\(", line)
        if match:
            shapes = re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", match[1])
            total = sum(int(bits) // 8 * np.prod([int(n) for n in shape.split(",") if n]) for bits, shape in shapes)
            count = found.setdefault(match[2] if entry else f"{match[2]} in the loop", [0, 0])
            count[0] += 1
            count[1] += int(total)
    return found


def predicted(params, mesh) -> tuple[int, int, int]:
    """Bytes gathered and summed in a step, from the parameters' shapes, and the most bytes of scalars besides.

    The scalars are the loss and, for every sharded array, a part of the norms of gradient and update.
    """
    if mesh.size == 1:
        return 0, 0, 0
    leaves, shardings = jax.tree.leaves(params), jax.tree.leaves(state_sharding(mesh, params))
    split = [leaf.size for leaf, sharding in zip(leaves, shardings) if not sharding.is_fully_replicated]
    return 4 * sum(split), 4 * sum(leaf.size for leaf in leaves), 4 * (1 + 2 * len(split))


def compiled(denoiser, batch: dict, mesh, accumulate: int = 1):
    """The compiled step, and its arguments with their shardings: the state, the batch, and the parts of the step."""
    state = TrainState.create(jax.random.key(0), denoiser.params, OPTIMIZER, mesh)
    batch = jax.device_put(batch, batch_sharding(mesh))
    step = make_step(denoiser, jd.losses.Denoising(), OPTIMIZER, mesh=mesh, accumulate=accumulate)
    return step.lower(state, batch).compile(), state, batch, *step.parts


def traffic(denoiser, program, mesh) -> tuple[str, bool]:
    """A text with what the compiled step gathers and sums and with the prediction; and whether they agree."""
    found = moved(program.as_text())
    of = lambda kind: [found.get(name, [0, 0]) for name in (kind, f"{kind} in the loop")]
    gathers, sums, scatters = (np.sum(of(kind), 0) for kind in ("all-gather", "all-reduce", "reduce-scatter"))
    summed = sums[1] + mesh.shape["model"] * scatters[1]
    inside = sum(count for name, (count, _) in found.items() if name.endswith("in the loop"))
    gathered_there, summed_there, scalars = predicted(denoiser.params, mesh)
    agree = gathers[1] == gathered_there and 0 <= summed - summed_there <= scalars
    text = (
        f"{gathers[0]:4d} gathers {gathers[1]:9,d} ({gathered_there:9,d})"
        f"{sums[0] + scatters[0]:5d} sums {summed:9,d} ({summed_there:9,d} + {scalars:3d})"
    )
    return text + f"; {inside} in the loop" * (inside > 0), bool(agree)


def step_time(program, state, *given) -> float:
    """The median seconds of a step, after two warm-up steps."""
    seconds = []
    for _ in range(2 + STEPS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, *given))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure(denoiser, batches: list[dict], meshes: list) -> list[bool]:
    """Print a row for each mesh and batch, and for a batch in two parts; returns whether traffic is as predicted."""
    agreed = []
    for mesh in meshes:
        for batch in batches:
            program, *run = compiled(denoiser, batch, mesh)
            text, agree = traffic(denoiser, program, mesh)
            seconds, examples = step_time(program, *run), len(batch["x"])
            shape = f"{tuple(mesh.shape.values())}"
            print(f"{shape:8s}{examples:6d}{1e3 * seconds:9.1f}{examples / seconds:9.0f}  {text}", flush=True)
            agreed.append(agree)
    for mesh in meshes:
        if mesh.size == max(mesh.size for mesh in meshes) > 1:
            program, *_ = compiled(denoiser, batches[-1], mesh, accumulate=2)
            text, agree = traffic(denoiser, program, mesh)
            print(f"{tuple(mesh.shape.values())!s:8s}{len(batches[-1]['x']):6d}   in two parts    {text}", flush=True)
            agreed.append(agree)
    return agreed


def memory(denoiser, side: int) -> dict[int, float]:
    """{model: bytes a parameter on each device}, for a network so wide that its parameters dominate."""
    parameters, found = sum(leaf.size for leaf in jax.tree.leaves(denoiser.params)), {}
    for model in sorted({1, jax.device_count()}):
        batch = {"x": np.zeros((jax.device_count(), side, side, 3), np.float32)}
        program, *_ = compiled(denoiser, batch, make_mesh(model))
        analysis = program.memory_analysis()
        held, more = analysis.argument_size_in_bytes / parameters, analysis.temp_size_in_bytes / parameters
        print(f"model = {model}: state {held:.1f}, during the step {more:.1f} more", flush=True)
        found[model] = held + more
    return found


def image_denoiser(*shape):
    network, params = initialize(jax.random.key(0), lambda rngs: UNet(3, *shape, rngs=rngs))
    return jd.Denoiser(network, params, jd.VP())


def measured() -> tuple[bool, dict[int, float]]:
    """The measurements: whether every program moved what was predicted, and its memory."""
    devices = jax.devices()
    counts = [n for n in (1, 2, 4, 8) if n <= len(devices)]
    shapes = [(n, model) for n in counts for model in sorted({1, n, max(1, n // 2)}) if model in (1, n) or n >= 4]
    meshes = [make_mesh(model, devices[:n]) for n, model in shapes]
    rng = np.random.default_rng(0)
    batches = [{"x": rng.uniform(-1, 1, (n, SIDE, SIDE, 3)).astype(np.float32)} for n in BATCHES]
    denoiser = image_denoiser((32,), 1)
    print(f"measured on {devices[0].device_kind}: a U-Net of {sum(p.size for p in jax.tree.leaves(denoiser.params)):,}")
    print("(data, model)  batch  ms a step  examples/s; collectives, their bytes, and in brackets the prediction")
    agreed = measure(denoiser, batches, meshes)
    print("\nmeasured: bytes a parameter on each device")
    return all(agreed), memory(image_denoiser((256,), 1), 4)


def foretold(found: list[Size], bytes_a_parameter: dict[int, float]) -> None:
    """The predictions."""
    layouts = [(machine, n) for machine, n in zip(MACHINES[:1] * 2 + MACHINES[1:] * 2, (8, 128, 256, 1024))]
    print(f"\npredicted at {UTILIZATION:.0%} of the peak: parameters, GFLOP forward, FLOP a parameter; b* on")
    print(f"{'':25s}{'M':>8s}{'GFLOP':>8s}{'F/P':>6s}" + "".join(f"{n:6d} {m.name:7s}" for m, n in layouts))
    for size in found:
        parameters, forward = size.parameters / 1e6, size.forward / 1e9
        row = f"{size.name:25s}{parameters:8.1f}{forward:8.1f}{size.forward / size.parameters:6.0f}"
        print(row + "".join(f"{break_even(size, machine, n):10.2f}    " for machine, n in layouts))
    print("\npredicted: examples/s a device; the most devices on the batch that compute 50 and 90 % of the time")
    print("from the bytes a parameter above: GB a device, without activations, where model is")
    heads = "".join(f"{machine.name:>12s}  50 %  90 %" for machine in MACHINES)
    print(f"{'':25s}{'batch':>6s}{heads}" + "".join(f"{model:8d}" for model in bytes_a_parameter))
    for size in found:
        row = f"{size.name:25s}{size.batch:6d}"
        for machine in MACHINES:
            row += f"{1 / compute(size, machine, 1):12.0f}"
            row += "".join(f"{most_devices(size, machine, share):6d}" for share in (0.5, 0.9))
        print(row + "".join(f"{each * size.parameters / 1e9:8.1f}" for each in bytes_a_parameter.values()))


def picture(found: list[Size]) -> None:
    """Plot communication over compute against examples a device; they are equal at the dashed line."""
    examples = 2.0 ** np.arange(9)
    panels = {
        f"{n} {machine.name}": {size.name: (examples, break_even(size, machine, n) / examples) for size in found}
        for machine, n in zip(MACHINES, (128, 256))
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    x, y, equal = "examples a device", "communication / compute", dict.fromkeys(panels, 1.0)
    lines(panels, FOLDER / "scaling.png", x=x, y=y, floors=equal)


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # has no effect on accelerators
    agreed, bytes_a_parameter = measured()
    found = sizes()
    foretold(found, bytes_a_parameter)
    picture([*found[:3], found[-1]])
    if not agreed:
        raise SystemExit("a program moved other bytes than predicted; the rows above say which")


if __name__ == "__main__":
    main()
