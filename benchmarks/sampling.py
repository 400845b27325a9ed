"""DDIM with 50 steps, ours beside diffusers: the same U-Net, weights, noise and times, and the same samples.

    make peers && python benchmarks/sampling.py        6 minutes on two cores; --help for sizes

    eager       DDIMScheduler and the module under `torch.inference_mode`, as DDIMPipeline runs them
    compile     the same with the module under `torch.compile`
    jaxdiff     jd.sample(..., DDIM(), 50): one compiled scan

On a GPU the peers also run in bfloat16, channels last. Seconds are of a batch; what compiling adds to the first call
stands apart.
"""

import copy
import json

import jax
import numpy as np
import torch
import tyro
from diffusers import DDIMScheduler
from peers import STEPS, Settings, as_images, as_tensor, device, heading, in_turns, models, report

import jaxdiff as jd


def ddim(module, noise, dtype=torch.float32):
    """diffusers' samples from `noise`."""
    scheduler = DDIMScheduler(num_train_timesteps=STEPS, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(50)
    x = noise.to(dtype)
    with torch.inference_mode():
        for k in scheduler.timesteps:
            x = scheduler.step(module(x, k).sample, k, x).prev_sample
    return x


def measure(settings: Settings) -> tuple[dict, str]:
    """{code: seconds}, and what it was measured on."""
    denoiser, module = models(settings)
    shape = (settings.batch, 32, 32, 3)
    noise = jax.random.normal(jax.random.key(3), shape)
    tensor = as_tensor(noise)
    times = np.append(np.arange(STEPS, 0, -STEPS // 50) / STEPS, 0.0)
    ours = lambda: jd.sample(jax.random.key(0), denoiser, shape, jd.samplers.DDIM(), grid=times, x_start=noise)
    compiled = torch.compile(module)
    sides = {"eager": lambda: ddim(module, tensor), "compile": lambda: ddim(compiled, tensor), "jaxdiff": ours}
    if device().type == "cuda":
        low = torch.compile(copy.deepcopy(module).to(torch.bfloat16, memory_format=torch.channels_last))
        sides["compile, bfloat16"] = lambda: ddim(low, tensor, torch.bfloat16)
    difference = float(np.abs(as_images(ddim(module, tensor)) - ours()).max())
    assert difference < 1e-2, f"samples differ by {difference}"
    return in_turns(sides, settings.repetitions), heading(denoiser, settings)


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    found, about = measure(settings)
    print(json.dumps(found) if settings.json else f"{about}\n\n{report(found)}")
