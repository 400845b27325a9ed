"""The speed of a step, the share of the devices' peak FLOPs that it uses, and how long they wait for batches.

The FLOPs are XLA's count for the compiled step, which includes those that rematerialisation repeats: with it the share
is the hardware utilisation (HFU), without it the model utilisation (MFU).
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator

import jax

PEAK_FLOPS = {  # per second and chip, dense bfloat16, as the makers state them
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}

MUCH = 0.5  # share of an interval spent waiting above which a warning is given
LONG = 1.0  # seconds of waiting in total before it is given


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOPs per second of one such device in bfloat16; None if unknown."""
    return next((peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name)), None)


def flops(compiled) -> float | None:
    """FLOPs of one call of a compiled function on each device, by XLA's count; None if it gives none."""
    cost = compiled.cost_analysis()
    return None if not cost or cost.get("flops", 0) <= 0 else cost["flops"]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Speeds of a compiled step on batches of `examples` examples."""

    compiled: jax.stages.Compiled
    mesh: jax.sharding.Mesh
    examples: int

    def __call__(self, steps: int, seconds: float) -> dict[str, float]:
        """{"steps_per_second", "examples_per_second"}, and "flop_utilization" if it is known."""
        rate = steps / seconds
        found = {"steps_per_second": rate, "examples_per_second": rate * self.examples}
        peak, count = peak_flops(self.mesh.devices.flat[0].device_kind), flops(self.compiled)
        return found if peak is None or count is None else found | {"flop_utilization": rate * count / peak}


class Waiting:
    """Measures how long the devices wait for batches with nothing to compute.

    Batches are read while the devices compute, so a wait counts only from the end of the step before it. The duration
    of a step is measured once per interval, and only after a batch came late: the loop then blocks on the step.
    """

    def __init__(self):
        self._seconds = self._total = 0.0
        self._step: float | None = None
        self._unknown = self._warned = False

    def next(self, batches: Iterator[dict], last) -> dict:
        """The next batch; `last` is a result of the step before it, an array, or None if no step is in flight."""
        idle = lambda: last is None or last.is_ready()
        idle_before, began = idle(), time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        if not idle():
            waited = 0.0
        elif not idle_before:  # the step ended during the wait
            self._unknown = self._step is None
            waited = 0.0 if self._step is None else max(0.0, waited - self._step)
        self._seconds += waited
        return batch

    def measure(self, result: jax.Array) -> None:
        """Block on `result`, of the step that was just started, if the duration of a step is needed."""
        if self._unknown:
            began = time.perf_counter()
            result.block_until_ready()
            self._step, self._unknown = time.perf_counter() - began, False

    def __call__(self, seconds: float) -> dict[str, float]:
        """{"waiting"}: the share of an interval of `seconds`. Warns once (UserWarning) if it is more than half."""
        share = self._seconds / seconds
        self._total += self._seconds
        self._seconds, self._step = 0.0, None
        if share > MUCH and self._total > LONG and not self._warned:
            self._warned = True
            warnings.warn(
                f"training waits for its data: {share:.0%} of the last {seconds:.3g} s. Make reading faster (store "
                "pictures at the size of training, use more cores or a faster disk), or hold the data in memory, as "
                "arrays for jaxdiff.data.batches",
                UserWarning,
                stacklevel=3,
            )
        return {"waiting": share}
