"""The same U-Net with the same weights in diffusers/PyTorch and here, and how the benchmarks time the two in turns."""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import jaxdiff as jd

STEPS = 1000  # of the table of betas


@dataclasses.dataclass(frozen=True)
class Settings:
    """The network, 1.1 million parameters on 32 x 32 x 3 unless told otherwise, and how much of it to measure."""

    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the U-Net's levels."""
    blocks: int = 1
    """Residual blocks a level."""
    attention: int = 1
    """The level with attention, 0 being the full image of 32 x 32."""
    batch: int = 16
    """Images at once."""
    training_steps: int = 200
    """Updates before anything is measured, so that the weights are those of a model."""
    repetitions: int = 5
    """Turns of each side."""
    json: bool = False
    """Print one line of JSON."""


def digits(n: int) -> np.ndarray:
    """Training digits of 8 x 8 pixels, each pixel as 4 x 4 of three channels: uint8 [n, 32, 32, 3] of 17 levels."""
    image = jd.data.load_digits("train").image[:n]
    return image.repeat(4, 1).repeat(4, 2).repeat(3, 3)


def models(settings: Settings) -> tuple[jd.Denoiser, UNet2DModel]:
    """The network as a denoiser and as a module with the same weights, after some training."""
    torch.manual_seed(0)
    down = ["AttnDownBlock2D" if i == settings.attention else "DownBlock2D" for i in range(len(settings.channels))]
    module = UNet2DModel(
        sample_size=32,
        block_out_channels=settings.channels,
        layers_per_block=settings.blocks,
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        norm_num_groups=8,
    )
    with tempfile.TemporaryDirectory() as folder:
        DDPMPipeline(module, DDPMScheduler(num_train_timesteps=STEPS)).save_pretrained(folder)
        denoiser = jd.pretrained.from_diffusers(folder)

    optimizer = optax.adam(1e-3)
    prepare = lambda key, batch: (jd.dequantize(key, batch["image"], 17), None)
    step = jd.training.make_step(denoiser, jd.losses.Denoising(), optimizer, prepare=prepare)
    state = jd.training.TrainState.create(jax.random.key(0), denoiser.params, optimizer)
    batches = jd.data.batches({"image": digits(1000)}, settings.batch, seed=0)
    for i in range(settings.training_steps):
        state, _ = step(state, batches[i])
    denoiser = dataclasses.replace(denoiser, params=jax.block_until_ready(state.params))
    to_torch = lambda w: torch.tensor(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T)
    module.load_state_dict({name: to_torch(np.asarray(w)) for name, w in state.params.items()})
    return denoiser, module.eval().to(device())


def device() -> torch.device:
    """Where PyTorch computes: beside JAX."""
    return torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")


def in_turns(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, dict]:
    """Seconds of each side: the median of its turns, and the first call's, which compiles."""
    seconds = {name: [] for name in sides}
    for i in range(repetitions + 1):
        for name in sides if i % 2 else reversed(sides):
            began = time.perf_counter()
            jax.block_until_ready(sides[name]())
            if device().type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {"seconds": statistics.median(later), "first_call_seconds": first}
        for name, (first, *later) in seconds.items()
    }


def report(found: Mapping[str, dict]) -> str:
    """The figures of `in_turns` to read."""
    ours = found["jaxdiff"]["seconds"]
    lines = [f"{'':20s}{'seconds':>9s}{'times ours':>13s}{'compile':>11s}"]
    for name, row in found.items():
        compiling = row["first_call_seconds"] - row["seconds"]
        lines.append(f"{name:20s}{row['seconds']:9.3f}{row['seconds'] / ours:13.2f}{compiling:9.1f} s")
    return "\n".join(lines)


def machine(settings) -> str:
    """How a program was timed, and where."""
    return (
        f"medians of {settings.repetitions} turns;\njaxdiff {jd.__version__}, jax {jax.__version__}, torch "
        f"{torch.__version__} on {jax.devices()[0].device_kind}, {torch.get_num_threads()} threads"
    )


def heading(denoiser: jd.Denoiser, settings: Settings) -> str:
    """What was measured where."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(denoiser.params))
    return f"U-Net of {parameters:,} parameters, {settings.batch} images of 32 x 32 x 3 at once, {machine(settings)}"


def print_programs(what: str, found: Mapping[str, dict], settings) -> None:
    """Print the figures of several programs of `what`, to read or as one line of JSON."""
    if settings.json:
        print(json.dumps(found))
        return
    print(f"{what}, {machine(settings)}")
    for name, figures in found.items():
        print(f"\n{name}\n{report(figures)}")


def as_images(x: torch.Tensor) -> jax.Array:
    """[n, channels, height, width] in torch as [n, height, width, channels] here."""
    return jnp.asarray(x.detach().float().cpu().numpy().transpose(0, 2, 3, 1))


def as_tensor(x) -> torch.Tensor:
    """The way back."""
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).to(device())
