"""Accelerators: what they can do, how XLA is told of one that is not there, and how long a kernel takes on it.

A kernel takes the longest of its bytes, its FLOPs and its charge, and a gap more. This is a model:

- Kernels reach a share of the makers' peaks: on one H100 2.6 of 3.35 TB/s, 600 of 989 TFLOP/s in bfloat16 and 300 of
  495 in TF32, with 1.5 µs between two of them. The same shares are assumed of every machine, float32 and TPUs
  included, and the gap of every GPU. What small kernels cost a TPU is not known and left out.
- The host launches a GPU's kernels, 8 µs each and beside the device's work, so that a program takes the longer of the
  two. On that H100 a training step of 700 kernels with next to nothing to do took 6.9 to 7.4 ms, 10 µs each, and one of
  2,259 with 17.4 ms of work took 18.4, at most 8 µs each. A TPU runs a whole program without its host.
- Fused attention, whose inside a program does not show, is charged by what cuDNN's took on that H100: 380 TFLOP/s in
  bfloat16 beside 0.05 ms a kernel, widths below 64 as dear as 64, other precisions and machines by their peaks. Short
  kernels, below 0.2 ms, take up to twice as long as this says.
- Collectives go in rings and nothing hides them: scattered in each node of k, summed between m nodes, gathered.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

from kernels import Kernel

BANDWIDTH_SHARE, PEAK_SHARE = 2.6 / 3.352, 600 / 989
ATTENTION_SHARE, ATTENTION_START = 380 / 989, 5e-5
PASSES = {"all-reduce": 2}  # how often a ring moves the whole; the others once


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of accelerator: peaks in FLOPs a second by precision, bytes a second, bytes of memory.

    `near` and `far` are bytes a second that each sends, one way, to the others of its `node` and out of it. `gap` and
    `launch` are seconds a kernel, on the device and on its host. `config` is what XLA is told of a GPU.
    """

    name: str
    peaks: dict[str, float]
    bandwidth: float
    memory: float
    node: int
    near: float
    far: float
    gap: float = 0.0
    launch: float = 0.0
    config: str = ""


def _gpu(name: str, version: str, cores: int, fpus: int, clock: float, shared: int, l2: int, threads: int) -> str:
    """XLA's description of a GPU (`stream_executor.GpuTargetConfigProto`), without bandwidth and memory."""
    major, minor = version.split(".")
    return f"""gpu_device_info {{
        threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
        shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
        core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock} l2_cache_size: {l2}
        block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
        memory_bandwidth: BANDWIDTH device_memory_size: MEMORY
        cuda_compute_capability {{ major: {major} minor: {minor} }}
        registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{name}" """


def _peaks(half: float, tf32: float, single: float, double: float) -> dict[str, float]:
    """A GPU multiplies float32 as TF32, but at "highest" as float32."""
    return {"half": half, "default": tf32, "high": tf32, "highest": single, "double": double}


def _passes(half: float) -> dict[str, float]:
    """A TPU multiplies float32 in one pass of bfloat16, in 3 at "high" and 6 at "highest", and float64 not at all."""
    return {"half": half, "default": half, "high": half / 3, "highest": half / 6}


# NVIDIA's data sheets of the H100 SXM, the A100 SXM 80 GB and the L4, dense; XLA's specs of the first two. One way:
# NVLink 900 and 600 GB/s both ways, PCIe 4 x16 64; out of a node 400 and 200 Gb/s InfiniBand, and 100 Gb/s.
_EACH = 1.5e-6, 8e-6  # gap, launch
_H100 = _gpu("NVIDIA H100 80GB HBM3", "9.0", 132, 128, 1.98, 233472, 52428800, 2048)
_A100 = _gpu("NVIDIA A100-SXM4-80GB", "8.0", 108, 64, 1.41, 167936, 41943040, 2048)
_L4 = _gpu("NVIDIA L4", "8.9", 58, 128, 2.04, 102400, 50331648, 1536)
MACHINES = {
    "h100": Machine("H100", _peaks(989e12, 494.5e12, 67e12, 67e12), 3.352e12, 85.0e9, 8, 450e9, 50e9, *_EACH, _H100),
    "a100": Machine("A100", _peaks(312e12, 156e12, 19.5e12, 19.5e12), 2.039e12, 85.1e9, 8, 300e9, 25e9, *_EACH, _A100),
    "l4": Machine("L4", _peaks(121e12, 60.5e12, 30.3e12, 0.47e12), 0.3e12, 23.6e9, 8, 32e9, 12.5e9, *_EACH, _L4),
    # Google's system architecture pages; Austin et al. 2025, How to Scale Your Model, chapter 2: a ring along one axis
    # of the slice, both directions of a link.
    "v5e": Machine("TPU v5e", _passes(197e12), 0.81e12, 17.2e9, 256, 90e9, 3.125e9),
    "v5p": Machine("TPU v5p", _passes(459e12), 2.765e12, 102.5e9, 8960, 180e9, 3.125e9),
    "v6e": Machine("TPU v6e", _passes(918e12), 1.64e12, 34.4e9, 256, 180e9, 3.125e9),
}


def machine(name: str) -> tuple[Machine, str]:
    """The machine of a name such as "h100", "h100:8" (eight of them) or "v5e:4x4", and what stands behind its colon.

    Raises ValueError for any other.
    """
    family, colon, how = name.partition(":")
    kind, how = MACHINES.get(family), how if colon else "1"
    gpu = kind is not None and bool(kind.config)
    fits = kind is not None and re.fullmatch(r"[1-9]\d*" if gpu else r"[1-9]\d*(x[1-9]\d*)+", how)
    if not fits or (gpu and int(how) > kind.node and int(how) % kind.node):
        raise ValueError(
            f"device = {name!r}; expected h100, a100 or l4, several of them as h100:8 (above 8, in nodes of 8), or a "
            "slice of TPUs by its topology: v5e, v5p or v6e, such as v5e:4x4"
        )
    return kind, how


def devices(name: str) -> Sequence:
    """Devices that are not there, for XLA to compile for.

    Raises ValueError for a name that is none, RuntimeError where what compiles for it is not installed.
    """
    from jax.experimental import topologies

    kind, how = machine(name)
    try:
        if not kind.config:
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
            return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        config = kind.config.replace("BANDWIDTH", f"{kind.bandwidth:.0f}").replace("MEMORY", f"{kind.memory:.0f}")
        nodes = math.ceil(int(how) / kind.node)
        told = {"target_config": config, "topology": f"1x{nodes}x{int(how) // nodes}"}
        return topologies.get_topology_desc(platform="cuda", topology_name="", **told).devices
    except Exception as error:
        raise RuntimeError(f"cannot compile for {name}: {str(error).splitlines()[0]}. {advice(str(error))}") from error


def advice(message: str) -> str:
    """What to try where XLA does not compile, by what it says."""
    known = {
        "output tile sizes|[Tt]riton": "Try XLA_FLAGS=--xla_gpu_enable_triton_gemm=false.",
        "RESOURCE_EXHAUSTED|[Oo]ut of memory|Ran out of memory": "It does not fit. Try a smaller batch, --model to "
        "split weights and moments between devices, or unet(remat=True).",
        "[Cc]u[Dd][Nn][Nn]": "Install cuDNN beside it: pip install nvidia-cudnn-cu12.",
        "lockfile|already in use": "Another process holds libtpu; wait for it to end.",
        "nvlink|ptxas|libdevice": "Install CUDA's compiler beside it: pip install nvidia-cuda-nvcc-cu12.",
        "not implemented for|not installed|[Uu]nknown backend|[Pp]lugin": "Install what compiles, into a virtual "
        "environment of its own: pip install '.[plan]'.",
    }
    found = [words for pattern, words in known.items() if re.search(pattern, message)]
    return found[0] if found else "Try a smaller batch, or XLA_FLAGS=--xla_gpu_enable_triton_gemm=false."


def wires(kind: Machine, op: str, given_out: float, count: int) -> float:
    """Seconds of a collective over so many devices that gives out so many bytes on each."""
    whole = given_out * count if op == "reduce-scatter" else given_out
    if op in ("collective-permute", "collective-broadcast"):
        return whole / (kind.near if count <= kind.node else kind.far)
    k = min(count, kind.node)
    m = math.ceil(count / k)
    return PASSES.get(op, 1) * ((k - 1) / k * whole / kind.near + (m - 1) / m * whole / k / kind.far)


def seconds(kernel: Kernel, kind: Machine) -> float:
    """The time of one run of a kernel on the device.

    Raises ValueError for a precision that the machine does not have.
    """
    if missing := kernel.work.keys() - kind.peaks.keys():
        raise ValueError(f"{kernel.name} multiplies in precision {sorted(missing)}, which a {kind.name} does not")
    if kernel.kind == "collective":
        return wires(kind, kernel.op, kernel.bytes, kernel.devices) + kind.gap
    share = ATTENTION_SHARE if kernel.kind == "attention" else PEAK_SHARE
    arithmetic = sum(flops / (share * kind.peaks[precision]) for precision, flops in kernel.work.items())
    arithmetic += ATTENTION_START if kernel.kind == "attention" else 0.0
    return max(kernel.bytes / (BANDWIDTH_SHARE * kind.bandwidth), arithmetic, kernel.charge) + kind.gap
