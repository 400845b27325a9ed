"""One training step, ours beside diffusers' training loop: the same U-Net, batch, optimiser and average of weights.

    make peers && python benchmarks/training.py        5 minutes on two cores; --help for sizes

A step draws times and noise, noises a batch, and takes the gradient of the mean squared error of the noise through the
U-Net, AdamW and an exponential moving average of the weights.

    eager       DDPMScheduler.add_noise, AdamW, EMAModel, as diffusers' example of unconditional training has them
    compile     the same with the module under `torch.compile`
    jaxdiff     jd.training.make_step: the whole step one compiled function

On a GPU the peers also run under autocast to bfloat16, channels last.
"""

import contextlib
import copy
import json

import jax
import optax
import torch
import tyro
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from peers import STEPS, Settings, as_tensor, device, digits, heading, in_turns, models, report

import jaxdiff as jd

RATE = 1e-4


def torch_step(module, x0, compiled: bool, context=contextlib.nullcontext):
    """The peer's step as a function without arguments."""
    run = torch.compile(module) if compiled else module
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    average = EMAModel(module.parameters(), decay=0.999)
    scheduler = DDPMScheduler(num_train_timesteps=STEPS)

    def step():
        k = torch.randint(0, STEPS, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        with context():
            out = run(scheduler.add_noise(x0, noise, k), k).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(module.parameters())
        return loss.item()

    return step


def measure(settings: Settings) -> tuple[dict, str]:
    """{code: seconds}, and what it was measured on."""
    denoiser, module = models(settings)
    x0 = jd.dequantize(jax.random.key(1), digits(settings.batch), 17)
    module.train()
    sides = {
        "eager": torch_step(module, as_tensor(x0), False),
        "compile": torch_step(module, as_tensor(x0), True),
    }
    if device().type == "cuda":
        low = lambda: torch.autocast("cuda", torch.bfloat16)
        channels_last = copy.deepcopy(module).to(memory_format=torch.channels_last)
        sides["compile, bfloat16"] = torch_step(channels_last, as_tensor(x0), True, low)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE))
    update = jd.training.make_step(denoiser, jd.losses.Denoising(), optimizer)
    state = jd.training.TrainState.create(jax.random.key(0), denoiser.params, optimizer)

    def ours():
        nonlocal state
        state, metrics = update(state, {"x": x0})
        return metrics["loss"]

    sides["jaxdiff"] = ours
    return in_turns(sides, settings.repetitions), heading(denoiser, settings)


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    found, about = measure(settings)
    print(json.dumps(found) if settings.json else f"{about}\n\n{report(found)}")
