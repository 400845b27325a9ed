"""What five programs should take on an H100: PyTorch's time, ours before, the aim, and what the model says now.

    make peers                                      diffusers, which writes the folder, once
    python benchmarks/aims.py --write FOLDER
    pip install '.[plan]'                           what compiles for an H100, in an environment of its own
    python benchmarks/aims.py FOLDER                a quarter of an hour of one core; --only own for some

PyTorch's and "before" were measured on one H100 of 80 GB, the better of torch.compile and eager; "model" is what
`accelerators.py` said of ours before, and "now" what it says of this checkout. UNet2D is DDPM's U-Net of diffusers
with 35.7 million parameters, UNet ours with 27.9; images are 32 x 32 x 3.
"""

import dataclasses
from pathlib import Path

import jax
import tyro
from accelerators import Settings, measure

UNET2D = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


@dataclasses.dataclass(frozen=True)
class Aim:
    """A program, its times in milliseconds as text, and which of its figures is held to `most`."""

    name: str
    program: str
    torch: str
    before: str
    most: float
    settings: dict
    figure: str = "ms"


LARGE = {"shape": (32, 32, 3), "batch": 128, "dtype": "bfloat16"}
AIMS = (
    Aim("UNet2D, training step, bf16, batch 128", "training", "53.1", "51.6 (model 42.0)", 28, LARGE),
    Aim("UNet2D, DDIM step, bf16, batch 128", "sampling", "10.2", "14.0 (model 14.7)", 6.8, LARGE),
    Aim(
        *("UNet2D, drift and product, float32, batch 32", "likelihood", "29.0", "13.5 (model 13.8)", 5.8),
        {"shape": (32, 32, 3), "batch": 32},
    ),
    Aim(
        *("own UNet, training step, bf16, batch 128", "training", "", "17.4 (model 17.4)", 12),
        LARGE | {"network": "unet((128, 256, 256, 256), 2, (1,))"},
    ),
    Aim("the demo's, training step, kernels", "training", "", "680 to 700", 250, {}, "kernels"),
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where the U-Net of diffusers lies."""

    folder: tyro.conf.Positional[Path]
    """What diffusers' save_pretrained wrote."""
    write: bool = False
    """Write it, with random weights, by diffusers."""
    only: str = ""
    """Only programs with this in their name."""


def write(folder: Path) -> None:
    """The model and its scheduler."""
    from diffusers import DDPMScheduler, UNet2DModel

    UNet2DModel(**UNET2D).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")


def row(aim: Aim, folder: Path) -> str:
    """A row of the table, once its program is compiled."""
    of_diffusers = {"diffusers": folder} if aim.name.startswith("UNet2D") else {}
    settings = Settings("h100", **aim.settings, **of_diffusers, programs=(aim.program,))
    figures = measure(settings)[aim.program]
    kernels, _, _, device = figures["total"]
    now = f"{kernels:.0f}" if aim.figure == "kernels" else f"{device:.1f} ({kernels:.0f} kernels)"
    return f"| {aim.name} | {aim.torch} | {aim.before} | {aim.most} | {now} |"


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.write:
        write(arguments.folder)
        return
    jax.config.update("jax_platforms", "cpu")
    print("| | PyTorch | before | aim | now, by the model |\n|---|---|---|---|---|")
    for aim in AIMS:
        if arguments.only in aim.name:
            print(row(aim, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
