"""The pictures of a run, and how much of its time they may take."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.config import IMAGES, TOYS, Config, check_config
from jaxdiff.runs.models import draw, load_images, load_points, pixels


def picture_samples(config: Config, x, path: Path, title: str | None = None) -> None:
    """A grid of images, or points beside the data's."""
    check_config(config)
    if config.data in IMAGES:
        jd.plotting.sample_grid(x, path, title=title)
    else:
        truth = load_points(config, "test")[: len(x)]
        jd.plotting.panels({config.data: jd.plotting.Points(truth), title or "samples": jd.plotting.Points(x)}, path)


def labels_shown(denoiser, n: int) -> np.ndarray | None:
    """Labels of n pictures, the classes in turn, for a model that no example without a label was shown to; or None."""
    return np.arange(n) % denoiser.no_label() if denoiser.label_dropout == 0 else None


def picture_run(config: Config, denoiser, folder: Path, mesh: jax.sharding.Mesh | None) -> None:
    """What a trained run shows: samples, the way there and back of an example, a toy model's density."""
    if config.data in TOYS:
        picture_samples(config, draw(config, denoiser, 4000, mesh=mesh), folder / "samples.png")
        plane = jnp.asarray(jd.plotting.plane(2.5, 80), jnp.float32)
        settings = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3), "trace": jd.likelihood.Exact()}
        log_prob = jd.log_likelihood(jax.random.key(0), denoiser, plane, **settings).log_prob
        jd.plotting.panels(
            {f"density of {config.data}": jd.plotting.Density(np.asarray(log_prob))}, folder / "density.png"
        )
        return
    x = draw(config, denoiser, 64, label=labels_shown(denoiser, 64), mesh=mesh)
    picture_samples(config, x, folder / "samples.png")
    times = np.append(jd.grids.Angle()(denoiser.process, 44)[::4], 0.0)
    held_out = load_images(config, "test")
    x0 = jd.dequantize(jax.random.key(1), pixels(held_out, 1), held_out.levels)
    alpha, sigma = (np.asarray(c).reshape(-1, 1, 1, 1) for c in denoiser.process.marginal(times))
    noising = alpha * x0 + sigma * jax.random.normal(jax.random.key(2), x0.shape)
    settings = {"label": labels_shown(denoiser, 1), "grid": jd.grids.Angle(), "trajectory": True}
    denoising = draw(config, denoiser, 1, "ddim", 44, seed=1, **settings)[::4, 0]
    scale = np.hypot(alpha, sigma).clip(1.0)
    jd.plotting.strip(
        np.stack([noising[::-1] / scale[::-1], denoising / scale]),
        folder / "denoising.png",
        names=["data to noise", "noise to data"],
    )


@dataclasses.dataclass
class Budget:
    """When a picture may be drawn: never more than `share` of the time goes into pictures.

    What the next one takes is what the last one took. The first compiles, as training had done by its first line, and
    evaluates the network `evaluations` times, where training evaluates it about three times an example.
    """

    share: float
    evaluations: int
    began: float
    spent: float
    compiling: float | None = None
    last: float | None = None

    def allows(self, metrics: dict) -> bool:
        """Whether one may be drawn after a line of metrics."""
        if self.compiling is None:
            self.compiling = time.perf_counter() - self.began
        coming = self.last or self.compiling + self.evaluations / (3 * metrics["examples_per_second"])
        return self.share > 0 and self.spent + coming <= self.share * (metrics["seconds"] + self.spent + coming)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Count the time inside."""
        began = time.perf_counter()
        yield
        self.last = time.perf_counter() - began
        self.spent += self.last
