"""What a run is, as data: the words of its config and the classes they stand for.

config.json holds words and numbers, never code; what is in it is checked before anything is done with it.
"""

import dataclasses
import os
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jaxdiff as jd
from jaxdiff.arrays import (
    check_choice,
    check_instance,
    check_number,
    check_path,
    check_room,
    check_whole,
    read_json,
    said,
)

IMAGES = {
    "digits": jd.data.load_digits,
    "fashion_mnist": jd.data.load_fashion_mnist,
    "cifar10": jd.data.load_cifar10,
    "imagenet64": jd.data.load_imagenet64,
    "folder": None,  # of the config
}
IN_A_FOLDER = ("fashion_mnist", "imagenet64")  # whose published files may be given
TOYS = ("two_moons", "eight_gaussians", "checkerboard", "swiss_roll", "s_curve", "pinwheel", "circles", "cat")

PROCESSES = {
    "vp": jd.VP,
    "sub_vp": jd.SubVP,
    "ou": jd.OU,
    "ve": jd.VE,
    "brownian_ve": jd.BrownianVE,
    "edm": jd.EDM,
    "cosine": jd.Cosine,
    "flow": jd.Flow,
}
WEIGHTINGS = {
    "simple": jd.losses.weightings.Simple,
    "likelihood": jd.losses.weightings.Likelihood,
    "min_snr": jd.losses.weightings.MinSNR,
    "edm": jd.losses.weightings.EDM,
    "sigmoid": jd.losses.weightings.Sigmoid,
}
TRACES = {
    "hutchinson": jd.likelihood.Hutchinson,
    "hutch++": jd.likelihood.HutchPP,
    "xtrace": jd.likelihood.XTrace,
    "exact": jd.likelihood.Exact,
}
TIMES = {
    "uniform": jd.losses.times.Uniform,
    "stratified": jd.losses.times.Stratified,
    "log_normal": jd.losses.times.LogNormal,
    "logit_normal": jd.losses.times.LogitNormal,
    "importance": jd.losses.times.Importance,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is: its data, model and training. A run folder keeps it as config.json."""

    data: Literal[*IMAGES, *TOYS] = "digits"  # pyright: ignore[reportInvalidTypeForm]
    """Data set: images (scikit-learn's 8x8 digits, Fashion-MNIST, CIFAR-10, ImageNet at 64x64, a folder of yours) or a
    toy set in the plane."""
    image_folder: str | None = None
    """With data "folder": where the pictures are; sub-folders are classes. With "imagenet64", and with "fashion_mnist"
    where it cannot be downloaded: where the published files are."""
    image_size: int = 64
    """With data "folder": pixels of a side; larger pictures are shrunk and cut to their centre."""
    grey: bool = False
    """With data "folder": without colours."""
    skip_corrupt: bool = False
    """With data "folder": leave out files that are no pictures, and count them, rather than stop."""
    process: Literal[*PROCESSES] = "vp"  # pyright: ignore[reportInvalidTypeForm]
    """How data becomes noise."""
    parameterization: Literal["data", "noise", "score", "v", "velocity", "edm"] = "v"
    """What the network's output means."""
    weighting: Literal[*WEIGHTINGS] = "simple"  # pyright: ignore[reportInvalidTypeForm]
    """How much each noise level counts."""
    times: Literal[*TIMES] = "stratified"  # pyright: ignore[reportInvalidTypeForm]
    """Where t is drawn."""
    channels: tuple[int, ...] = (16, 32)
    """U-Net (images): channels of each level, each half the size of the one before."""
    blocks: int = 1
    """U-Net: residual blocks a level, each way."""
    attention: tuple[int, ...] = (1,)
    """U-Net: the levels with attention, 0 being the full image."""
    remat: bool = False
    """U-Net: compute each block twice rather than keep what a gradient needs of it: less memory, a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network is computed in; its weights are float32."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """MLP (toy sets): widths of its layers."""
    conditional: bool = False
    """Train on labels."""
    label_dropout: float | None = None
    """With conditional: the share of examples whose label is dropped, from which guidance knows the unconditional
    model; by default 0.1."""
    flip: bool = False
    """Mirror half of the images left to right, drawn anew each step; not where sides matter, as they do for digits."""
    steps: int = 4000
    """Training steps."""
    batch_size: int = 64
    """Examples a step, over all devices."""
    accumulate: int = 1
    """Parts a batch is computed in, one after another: less memory."""
    learning_rate: float = 3e-3
    """Peak of the learning rate, which rises linearly and falls by a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, the ones that are used."""
    seed: int = 0
    """Seed of weights, batches and noise."""

    @property
    def dropout(self) -> float:
        """The share of labels that is dropped."""
        return (0.1 if self.label_dropout is None else self.label_dropout) if self.conditional else 0.0

    def check(self) -> None:
        """Raise ValueError for settings that do not go together, or have no meaning; TypeError for another type."""
        for name, kind in get_type_hints(Config).items():
            _check_kind(name, getattr(self, name), kind)
        for name in ("blocks", "batch_size", "accumulate", "image_size"):
            check_whole(name, getattr(self, name))
        check_whole("steps", self.steps, most=2**31 - 1)
        check_seed(self.seed)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("ema_decay", self.ema_decay, least=0, below=1)
        for name in ("channels", "hidden"):
            if not getattr(self, name):
                raise ValueError(f"{name} = (); expected at least one width")
            for width in getattr(self, name):
                check_whole(f"a width in {name}", width)
        for width in self.channels:
            check_room("the weights of a level of channels", self.blocks, 2, 3, 3, width, width)
        for width in self.hidden:
            check_room("the weights of a layer of hidden", self.hidden[0], width)
        check_room("a batch of images", self.batch_size, self.image_size, self.image_size, 1 if self.grey else 3)
        for level in self.attention if self.attention != Config.attention else ():
            check_whole("a level in attention", level, least=0, most=len(self.channels) - 1)
        if self.label_dropout is not None:
            check_number("label_dropout", self.label_dropout, least=0, below=1)
            if not self.conditional:
                raise ValueError(f"label_dropout = {self.label_dropout} needs conditional; set it, or leave it out")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}")
        if self.data == "folder" and self.image_folder is None:
            raise ValueError("data = folder needs image_folder: where the pictures are")
        if self.image_folder is not None and self.data not in ("folder", *IN_A_FOLDER):
            raise ValueError(f"image_folder is given, but data = {self.data}; set data to folder, or leave it out")
        if self.data in TOYS and (self.conditional or self.flip):
            setting = "conditional" if self.conditional else "flip"
            raise ValueError(f"{setting} = True is for images; {self.data} has neither labels nor sides: leave it out")

    def check_used(self) -> None:
        """Raise ValueError for a setting, other than by default, that this data set has no use for."""
        for name, used in _USED.items():
            if getattr(self, name) != getattr(Config, name) and self.data not in used:
                raise ValueError(f"{name} = {getattr(self, name)} is not used with data = {self.data}; leave it out")


_USED = {  # the data sets that use a setting, where not all do
    **dict.fromkeys(("image_size", "grey", "skip_corrupt"), ("folder",)),
    **dict.fromkeys(("channels", "blocks", "attention", "remat"), tuple(IMAGES)),
    "hidden": TOYS,
}


def check_seed(seed: int) -> int:
    """`seed`, 0 to 2^32 - 1; ValueError for another: JAX takes 32 bits of it, so that 2^32 would be 0 again."""
    return check_whole("seed", seed, least=0, most=2**32 - 1)


def make_trace(word: str, probes: int | None = None) -> jd.likelihood.Trace:
    """The trace of that name, with one probe unless told; ValueError for `probes` of one that draws none."""
    check_choice("trace", word, TRACES)
    kind = TRACES[word]
    if probes is None:
        return kind()
    if not kind.random:
        raise ValueError(f"probes = {probes}, but trace = {word} draws none; leave probes out")
    return kind(probes)


def check_config(config) -> None:
    """Raise TypeError for what is no config."""
    check_instance("config", config, Config, "a Config, such as jaxdiff.runs.load gives")


def read_config(folder: str | os.PathLike) -> Config:
    """The config of a run folder; a ValueError that says what is wrong with one that is not."""
    folder = check_path("folder", folder)
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a run folder: it has no config.json. Make one by `jaxdiff train {folder}`")
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a config of this version of jaxdiff: {error}") from None
    known = get_type_hints(Config)
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(
            f"{path} has settings that this version of jaxdiff does not know: {', '.join(unknown)}; use the version "
            "that wrote it, or a newer one"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    config = Config(**values)
    try:
        config.check()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError for a word that is none of those known, TypeError for a value of another type."""
    if _is(value, kind):
        return
    if get_origin(kind) is Literal:
        raise ValueError(f"{name} = {said(value)}; expected one of {', '.join(get_args(kind))}")
    raise TypeError(f"{name} = {said(value)}; expected {getattr(kind, '__name__', kind)}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(part, get_args(kind)[0]) for part in value)
    if isinstance(kind, types.UnionType):
        return any(_is(value, part) for part in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
