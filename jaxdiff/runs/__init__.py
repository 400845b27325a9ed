"""A run lives in one folder, and this is the one place that turns a config's words into classes.

config.json     `Config`, from which everything is rebuilt        checkpoints/, metrics.jsonl    see `training`
summary.json    the final figures                                 *.png                         pictures of it

An exported run has its averaged weights in weights.safetensors in place of checkpoints.
"""

from jaxdiff.config import IMAGES, Config, read_config
from jaxdiff.runs.likelihood import likelihood
from jaxdiff.runs.models import SAMPLERS, WEIGHTS, build, draw, every_device, load, load_images, load_points, pixels
from jaxdiff.runs.pictures import picture_samples
from jaxdiff.runs.train import PICTURES, train
from jaxdiff.runs.train import _preparation as _preparation

__all__ = [
    "IMAGES",
    "PICTURES",
    "SAMPLERS",
    "WEIGHTS",
    "Config",
    "build",
    "draw",
    "every_device",
    "likelihood",
    "load",
    "load_images",
    "load_points",
    "picture_samples",
    "pixels",
    "read_config",
    "train",
]
