"""How fast a step is, and what share of the devices' arithmetic it uses.

The FLOPs are XLA's count of the compiled step, so those that rematerialisation repeats are among them: with it the
utilisation is that of the hardware, without it that of the model.
"""

import dataclasses

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
