"""What must hold of a denoiser, a user's own among them, before a run or a likelihood begins."""

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_shared
from jaxdiff.denoisers.denoiser import check_denoiser, check_prediction


def check_model(denoiser) -> None:
    """Raise TypeError for what is no denoiser or no pytree, ValueError where a number of its process is an array."""
    check_denoiser(denoiser)
    if jax.tree_util.all_leaves([denoiser]):
        kind = type(denoiser).__name__
        raise TypeError(f"denoiser = {kind} is no pytree; make {kind} a frozen dataclass and put @jaxdiff.pytree above")
    check_shared("process", denoiser.process)


def check_answer(denoiser, shape: tuple[int, ...], cond) -> None:
    """Raise where a user's own denoiser, wrapped or not, answers x of `shape` by anything but a `Prediction` of it."""
    if type(denoiser).__module__.partition(".")[0] != __name__.partition(".")[0]:
        x, t = (jax.ShapeDtypeStruct(axes, jnp.result_type(float)) for axes in (shape, ()))
        jax.eval_shape(lambda x, t, cond: check_prediction(denoiser(x, t, cond), x), x, t, cond)
        return
    for inner in (getattr(denoiser, name) for name in ("denoiser", "weak") if hasattr(denoiser, name)):
        check_answer(inner, shape, cond if getattr(denoiser, "conditional", True) else None)
