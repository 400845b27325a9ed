"""What reading a folder of pictures costs on this machine, for few and for many of them.

    python benchmarks/reading.py                200 and 50,000 of 64 x 64, 200 and 200,000 of 16 x 16
    python benchmarks/reading.py --train        the same by `jaxdiff train`
    python benchmarks/reading.py --sets 64:200 64:5000 --json

Each set is read by a process of its own:

    list        to list the folder and look at the first bytes of every file (`ImageFolder`)
    spread      to read the sample of at most 10,000 that `data_std` comes from, or the whole of a set that is held in
                memory, first
    batch       to the first batch, from the call of `jd.data.batches` on: its fingerprint, an epoch's order
    a second    pictures that are read after that, ahead of a training step that takes no time; and in one thread
    memory      the most that the process had, with JAX and all else imported

With --train they are read by `jaxdiff train` of a small U-Net: seconds from its start to the first line of metrics,
which has the numbers of the first step, and to its end; seconds of CPU, which say more where the machine has other
work; the most memory.

The pictures are PNGs that this program writes: 256 of them, smooth noise, under as many names as are asked for, which
takes seconds where encoding each would take minutes. Every file is decoded each time it is read. They have just been
written, so that the operating system has them in memory, as it has after a first epoch; a cold disk is slower.
"""

import dataclasses
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

DISTINCT = 256
SECONDS = 5.0  # in which pictures are counted


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sets, and how they are read."""

    sets: tuple[str, ...] = ("64:200", "64:50000", "16:200", "16:200000")
    """SIZE:N of each set: N pictures of SIZE x SIZE."""
    train: bool = False
    """Read by `jaxdiff train`."""
    batch: int = 64
    """Pictures in a batch."""
    folder: Path | None = None
    """Where the sets are written, and kept for the next time; by default a temporary folder."""
    json: bool = False
    """Print one line of JSON."""
    measure: str | None = None
    """What the processes are called with: SIZE:FOLDER to read."""


def train(run: Path, pictures: Path, size: int, batch: int) -> list[str]:
    """The words of two steps of `jaxdiff train`."""
    network = ["--network", "unet(channels=(8, 8), attention=())"]
    steps = ["--batch-size", str(batch), "--steps", "2", "--log-every", "1", "--pictures", "0", "--json"]
    return ["train", str(run), "--data", f"folder('{pictures}', size={size})", *network, *steps]


def make(folder: Path, size: int, n: int) -> float:
    """Write n pictures into `folder`, unless they are there; the seconds that it took."""
    began = time.perf_counter()
    if folder.exists() and len(os.listdir(folder)) == n:
        return 0.0
    folder.mkdir(parents=True, exist_ok=True)
    rng, bodies = np.random.default_rng(0), []
    for _ in range(min(n, DISTINCT)):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "PNG")
        bodies.append(file.getvalue())
    for i in range(n):
        descriptor = os.open(folder / f"{i:06d}.png", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, bodies[i % DISTINCT])
        os.close(descriptor)
    return time.perf_counter() - began


def rate(read: Callable[[], int]) -> float:
    """Pictures a second, of calls that each read some."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        count += read()
    return count / spent


def measure(folder: Path, size: int, batch: int) -> dict[str, float]:
    """What reading a folder costs this process."""
    import jaxdiff as jd
    from jaxdiff.data.reading import read_from

    marks = [time.perf_counter()]
    mark = lambda: marks.append(time.perf_counter())
    pictures = jd.data.ImageFolder(folder, size)
    mark()
    held = pictures.held(progress=False)
    jd.data.pixel_moments(held)
    mark()
    arrays = {"image": held.image, "label": held.label} if isinstance(held, jd.data.Images) else held
    batches = jd.data.batches(arrays, min(batch, len(pictures)), seed=0)
    jd.data.fingerprint(arrays, min(batch, len(pictures)), seed=0)
    first = batches[0]
    mark()
    found = dict(zip(("list", "spread", "batch"), np.diff(marks).tolist()))
    ahead = read_from(batches, 1, first)
    order = itertools.cycle(np.random.default_rng(0).permutation(len(pictures)).tolist())

    def one() -> int:
        return len(pictures[next(order)]["image"][None])

    return found | {"a second": rate(lambda: len(next(ahead)["image"])), "one thread": rate(one)}


def run(words: list[str], started: Callable[[], bool] = lambda: False) -> tuple[str, dict[str, float]]:
    """What a process printed; its seconds until `started`, until its end and of CPU, and its memory, in MiB.

    Linux counts what this process had when it began the other one, too: it loads no JAX.
    """
    began, first = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=out, env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        )
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            first = first or (time.perf_counter() - began if started() else 0.0)
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
        out.seek(0)
        usage = ended[2]
        costs = {"first step": first, "end": time.perf_counter() - began, "cpu": usage.ru_utime + usage.ru_stime}
        return out.read(), costs | {"memory": usage.ru_maxrss / 1024}


def read(settings: Settings, folder: Path, size: int) -> dict[str, float]:
    """What reading one set costs."""
    if not settings.train:
        out, costs = run([__file__, "--measure", f"{size}:{folder}", "--batch", str(settings.batch)])
        return json.loads(out) | {"memory": costs["memory"]}
    with tempfile.TemporaryDirectory() as scratch:
        metrics = Path(scratch, "run", "metrics.jsonl")
        main = ["-c", "from jaxdiff.cli import main; main()", *train(metrics.parent, folder, size, settings.batch)]
        return run(main, lambda: metrics.exists() and metrics.stat().st_size > 0)[1]


def main(settings: Settings) -> None:
    if settings.measure is not None:
        size, _, folder = settings.measure.partition(":")
        print(json.dumps(measure(Path(folder), int(size), settings.batch)))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in settings.sets:
            size, n = map(int, name.split(":"))
            folder = Path(settings.folder or scratch, f"{size}x{size}-{n}")
            made = make(folder, size, n)
            row = figures[name] = read(settings, folder, size)
            if not settings.json:
                print(f"{n} of {size} x {size} (made in {made:.0f} s)")
                print("    " + ", ".join(f"{what} {value:.{2 if value < 100 else 0}f}" for what, value in row.items()))
    if settings.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
