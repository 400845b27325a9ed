"""Guidance wraps a denoiser and gives a denoiser, so that every sampler and likelihood accepts it.

1.  A classifier (`classifier.py`). With l = log p(y | x_t), Bayes' rule makes the score of p_t(x | y), and of
    p_t(x) p(y | x)^scale,

        score + scale ∇l,    that is    ε - scale σ ∇l    and    x_0 + scale σ²/α ∇l,

    since score = -ε/σ and x_0 = (x - σ ε)/α. Where α = 0, x holds no information about y and the prediction is not
    changed. Only for scale 0 and 1 is this the noised p(x_0) p(y | x_0)^scale; any other scale is a heuristic, whose
    samples have no density in closed form (though the likelihood of its flow can be computed).
2.  Two predictions (`classifier_free.py`, `auto.py`). ∇l is also the difference of a conditional and an unconditional
    score, and more generally points from a worse model to a better one:

        (1 - scale) worse + scale better                            scale = 1 + w in papers that write w

    on data and noise alike, so that x = α x_0 + σ ε still holds. If both are evaluated separately, scale 0 and 1 are
    the two models to the bit. A learned reverse variance is taken unchanged from the better model, or from the model
    that a classifier guides.
3.  More than two. If the parts y_1, ..., y_K of a condition are revealed one by one, each part has a scale of its own
    (Brooks et al. 2023, "InstructPix2Pix", eq. 3, with K = 2):

        e_0 + Σ_k scale_k (e_k - e_{k-1}),        e_k = E[. | x_t, y_1, ..., y_k],

    which is the score of p(x) Π_k p(y_k | x, y_1, ..., y_{k-1})^scale_k. With one part this is 2.
4.  A scale is a number or an `Interval`: a number between two noise levels and no guidance outside. Each number is
    shared by all examples, or one per example, [batch]. Functions that take examples one by one or in several batches
    accept only shared numbers (`ProbabilityFlow`, `ReverseSDE`, likelihoods, `samplers.draw`). A number out of range
    raises ValueError; a traced one gives NaN.
5.  For categories `ClassifierFree` and `Auto` mix the logits, before the evidence; `Temperature`, `TopK` and `Nucleus`
    (`sharpening.py`) act on p(x_0 | x_t), after it.
"""

from jaxdiff.denoisers.denoiser import Wrapper as Wrapper
from jaxdiff.denoisers.guidance import operators as operators
from jaxdiff.denoisers.guidance.auto import Auto
from jaxdiff.denoisers.guidance.classifier import Classifier, StepClassifier, TweedieClassifier
from jaxdiff.denoisers.guidance.classifier_free import ClassifierFree, ClassifierFreePP
from jaxdiff.denoisers.guidance.observed import Observed
from jaxdiff.denoisers.guidance.saturation import DynamicThreshold
from jaxdiff.denoisers.guidance.scale import Interval
from jaxdiff.denoisers.guidance.sharpening import Nucleus, Temperature, TopK
from jaxdiff.denoisers.guidance.spreads import Isotropic, Moment, Point, Prior, Proximal, RowSums, Spread

__all__ = [
    "Auto",
    "Classifier",
    "ClassifierFree",
    "ClassifierFreePP",
    "DynamicThreshold",
    "Interval",
    "Isotropic",
    "Moment",
    "Nucleus",
    "Observed",
    "Point",
    "Prior",
    "Proximal",
    "RowSums",
    "Spread",
    "StepClassifier",
    "Temperature",
    "TopK",
    "TweedieClassifier",
    "operators",
]


def __dir__():
    return __all__
