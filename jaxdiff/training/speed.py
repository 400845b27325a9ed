"""How fast a step is, what share of the devices' arithmetic it uses, and how long they wait for batches.

The FLOPs are XLA's count of the compiled step, so those that rematerialisation repeats are among them: with it the
utilisation is that of the hardware, without it that of the model.
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator

import jax

PEAK_FLOPS = {  # a second and chip, dense bfloat16, as the makers state it
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

MUCH = 0.5  # of an interval, above which training waits for its data more than it computes
LONG = 1.0  # seconds of waiting from which that is worth a warning


def peak_flops(device_kind: str) -> float | None:
    """The most FLOPs a second of one such device in bfloat16; None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name)), None)


def flops(compiled) -> float | None:
    """FLOPs of one call of a compiled function on each device, by XLA's count; None where it does not say."""
    cost = compiled.cost_analysis()
    return None if not cost or cost.get("flops", 0) <= 0 else cost["flops"]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Speeds of a compiled step on batches of `examples`."""

    compiled: jax.stages.Compiled
    mesh: jax.sharding.Mesh
    examples: int

    def __call__(self, steps: int, seconds: float) -> dict[str, float]:
        """{"steps_per_second", "examples_per_second"} of so many steps, and "flop_utilization" where it is known."""
        rate = steps / seconds
        found = {"steps_per_second": rate, "examples_per_second": rate * self.examples}
        peak, count = peak_flops(self.mesh.devices.flat[0].device_kind), flops(self.compiled)
        return found if peak is None or count is None else found | {"flop_utilization": rate * count / peak}


class Waiting:
    """How long the devices wait for batches with nothing to compute.

    Batches are read while the devices compute, so a wait counts only from the end of the step before it. The duration
    of a step is measured once an interval, and only after a batch came late: the loop then blocks on the step.
    """

    def __init__(self):
        self._seconds = self._total = 0.0
        self._step: float | None = None
        self._unknown = self._warned = False

    def next(self, batches: Iterator[dict], last) -> dict:
        """The next batch; `last` is a result of the step before it, an array, or None where nothing is under way."""
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
        """Block on `result`, of the step that was just begun, where the duration of a step is needed."""
        if self._unknown:
            began = time.perf_counter()
            result.block_until_ready()
            self._step, self._unknown = time.perf_counter() - began, False

    def __call__(self, seconds: float) -> dict[str, float]:
        """{"waiting"}: the share of an interval of so many seconds. Warns once (UserWarning) where it is most of it."""
        share = self._seconds / seconds
        self._total += self._seconds
        self._seconds, self._step = 0.0, None
        if share > MUCH and self._total > LONG and not self._warned:
            self._warned = True
            warnings.warn(
                f"training waits for its data: {share:.0%} of the last {seconds:.3g} s. Make reading faster (pictures "
                "of the size that is trained on, more cores, a faster disk), or hold the data in memory, as arrays for "
                "jaxdiff.data.batches",
                UserWarning,
                stacklevel=3,
            )
        return {"waiting": share}
