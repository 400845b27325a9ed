"""Weights in files that other libraries can read, and models trained by others, as denoisers.

    denoiser = jd.pretrained.from_diffusers("ddpm-cifar10-32")        # a folder that diffusers wrote
    print(jd.bits_per_dim(jax.random.key(0), denoiser, images))

Weights are stored only in safetensors, never in a pickle, which can run code.
"""

from jaxdiff.pretrained.diffusers import from_diffusers
from jaxdiff.pretrained.inception import InceptionFeatures, inception
from jaxdiff.pretrained.schedulers import betas_of
from jaxdiff.pretrained.sentence_transformers import SentenceEncoder, from_sentence_transformers
from jaxdiff.pretrained.weights import read_params, write_params

__all__ = [
    "InceptionFeatures",
    "SentenceEncoder",
    "betas_of",
    "from_diffusers",
    "from_sentence_transformers",
    "inception",
    "read_params",
    "write_params",
]


def __dir__():
    return __all__
