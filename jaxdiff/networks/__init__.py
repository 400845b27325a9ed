"""Neural networks in Flax NNX, as pure functions of parameters, x, noise level and condition."""

from jaxdiff.arrays import require

require("flax")

from jaxdiff.denoisers import Gradient, InnerProduct
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.classifier import Classifier
from jaxdiff.networks.conditions import Conditions
from jaxdiff.networks.coupling import Coupling
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.embeddings import Fourier, LabelEmbedding, NoiseEmbedding, Sinusoidal, VectorEmbedding, Waves
from jaxdiff.networks.functional import Cast, Network, initialize
from jaxdiff.networks.joint import Categories, End, Joint, Numbers, Patches
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.text import Encoded, TextEncoder
from jaxdiff.networks.tokens import Tokens, Transformer
from jaxdiff.networks.unet import UNet

__all__ = [
    "MLP",
    "Cast",
    "Categories",
    "Classifier",
    "Conditions",
    "Coupling",
    "DiT",
    "Encoded",
    "End",
    "Fourier",
    "Gradient",
    "InnerProduct",
    "Joint",
    "LabelEmbedding",
    "Network",
    "NoiseEmbedding",
    "Numbers",
    "Patches",
    "Sinusoidal",
    "TextEncoder",
    "Tokens",
    "Transformer",
    "UNet",
    "VectorEmbedding",
    "Waves",
    "dot_product_attention",
    "initialize",
]


def __dir__():
    return __all__
