"""Runs: a folder with everything that is needed to use a trained model. The command line works on these folders.

    config.json                       data, model and training: `Config`
    data.json                         what the run keeps of its data: `Known`
    checkpoints/, metrics.jsonl       see `jaxdiff.training`
    summary.json                      figures of training, and the last likelihood
    likelihoods.jsonl                 all likelihoods, a line for each call
    evaluation.json, classifier_*     the quality of its samples
    *.png                             pictures of samples, of denoising and of the training

Only `train`, `likelihood` and `evaluate` read data. An exported run has weights.safetensors, its averaged weights, in
place of checkpoints.
"""

from jaxdiff.arrays import require

require("flax", "optax", "orbax", "tqdm")

from jaxdiff.config import Config, read_config
from jaxdiff.runs.data import read
from jaxdiff.runs.evaluate import evaluate
from jaxdiff.runs.export import export
from jaxdiff.runs.known import Known, learned
from jaxdiff.runs.likelihood import likelihood
from jaxdiff.runs.maps import Maps
from jaxdiff.runs.mixed import Mixed
from jaxdiff.runs.pictures import Pictures
from jaxdiff.runs.rows import Rows
from jaxdiff.runs.run import WEIGHTS, Computed, Run, build, draw, every_device, load
from jaxdiff.runs.summary import read_summary
from jaxdiff.runs.texts import Texts
from jaxdiff.runs.train import PICTURES, train

__all__ = [
    "PICTURES",
    "WEIGHTS",
    "Computed",
    "Config",
    "Known",
    "Maps",
    "Mixed",
    "Pictures",
    "Rows",
    "Run",
    "Texts",
    "build",
    "draw",
    "evaluate",
    "every_device",
    "export",
    "learned",
    "likelihood",
    "load",
    "read",
    "read_config",
    "read_summary",
    "train",
]


def __dir__():
    return __all__
