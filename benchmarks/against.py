"""This checkout of the repository beside another: what XLA compiles of the same programs, and their times in turns.

`python benchmarks/speed.py --against PATH` runs it. Each checkout has a process of its own (`programs.py`), with
PYTHONPATH set to it and the same interpreter; nothing is installed.
"""

import contextlib
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[1]
TURN = 0.05  # seconds that a turn takes at least
COSTS = {"flops": "FLOPs", "bytes": "bytes accessed", "temp": "temporary bytes"}


def in_turns(sides: Sequence[Callable[[], object]], repetitions: int) -> np.ndarray:
    """The answers of the sides, [turn, side, ...], the first to go changing from turn to turn."""
    turns = []
    for i in range(repetitions):
        turn = {j: sides[j]() for j in (range(len(sides)) if i % 2 else reversed(range(len(sides))))}
        turns.append([turn[j] for j in range(len(sides))])
    return np.array(turns)


def overhead(first, second) -> tuple[float, tuple[float, float]]:
    """What `first` [turn] took more than `second` [turn], turn by turn, in %: the median and the quartiles."""
    low, middle, high = np.percentile(100 * (first / second - 1), (25, 50, 75)).tolist()
    return middle, (low, high)


class Checkout:
    """The programs of the checkout at `path`, in a process that lives as long as the `with` block."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        if not (self.path / "jaxdiff" / "__init__.py").is_file():
            raise ValueError(f"{path} has no jaxdiff/__init__.py; expected a checkout of the repository")
        first = os.pathsep.join(filter(None, [str(self.path), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("programs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": first},
        )

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *raised) -> None:
        with contextlib.suppress(BrokenPipeError):  # of what a process that has ended did not read
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def start(self, sizes: dict) -> list[str]:
        """The names of its programs; RuntimeError where it imported another jaxdiff."""
        module, names = self.ask(sizes)
        if not Path(module).is_relative_to(self.path):
            raise RuntimeError(f"the process of {self.path} imported {module}")
        return names

    def ask(self, request):
        """The answer to a request; RuntimeError where the process has ended."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the process of {self.path} ended at {request}; its error stands above")
        return json.loads(answer)

    def __str__(self) -> str:
        git = subprocess.run(
            ["git", "-C", self.path, "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        return f"{self.path} {git.stdout.strip()}".rstrip()


def compare(name: str, sides: Sequence[Checkout], repetitions: int) -> dict:
    """What the program `name` costs on both sides; its times where there are turns."""
    with ThreadPoolExecutor() as pool:
        both = lambda *request: list(pool.map(lambda side: side.ask(request), sides))
        compiled = both("compile", name)
        costs = {cost: [side[cost] for side in compiled] for cost in (*COSTS, "compile_seconds")}
        if not repetitions:
            return costs
        both("run", name, 1)  # the first call as a user makes it compiles once more
    began = time.perf_counter()
    sides[0].ask(["run", name, 1])
    calls = math.ceil(TURN / (time.perf_counter() - began))
    seconds = in_turns([functools.partial(side.ask, ["run", name, calls]) for side in sides], repetitions)
    middle, quartiles = overhead(*seconds.T)
    return {**costs, "seconds": np.median(seconds, 0).tolist(), "slower": middle, "slower_quartiles": quartiles}


def measure(there: Path, sizes: dict, only: str, repetitions: int) -> dict:
    """All figures, each pair of them [here, there]."""
    with Checkout(there) as theirs, Checkout(HERE) as ours:
        sides = ours, theirs
        found = {}
        names, _ = [side.start(sizes) for side in sides]
        chosen = [name for name in names if only.lower() in name.lower()]
        if not chosen:
            raise ValueError(f'only = "{only}" is in the name of no program: {"; ".join(names)}')
        for i, name in enumerate(chosen):
            print(f"{i + 1} of {len(chosen)}: {name}", file=sys.stderr)
            found[name] = compare(name, sides, repetitions)
        return {"here": str(ours), "there": str(theirs), "repetitions": repetitions, "programs": found}


def more(here: float, there: float) -> str:
    """How much more `here` is, in %; "=" where they are equal to the last digit."""
    if here == there:
        return "="
    percent = 100 * (here / there - 1) if there else math.inf
    return f"{percent:+.2f} %" if abs(percent) >= 0.01 else f"{percent:+.0e} %"


def short(number: float) -> str:
    """Four digits and a unit."""
    power = min(int(math.log10(number) // 3), 4) if number >= 1 else 0
    return f"{number / 1000**power:.4g} {('', 'k', 'M', 'G', 'T')[power]}"


def table(figures: dict) -> str:
    """The figures to read."""
    rows = figures["programs"]
    lines = [f"here   {figures['here']}", f"there  {figures['there']}", ""]
    lines += [f"{'':26s}" + "".join(f"{title:^32s}" for title in COSTS.values())]
    lines += [f"{'':26s}" + f"{'there':>10s}{'here':>10s}{'':12s}" * len(COSTS)]
    for name, row in rows.items():
        pairs = (row[cost] for cost in COSTS)
        cells = (f"{short(there):>10s}{short(here):>10s}{more(here, there):>11s} " for here, there in pairs)
        lines.append(f"{name:26s}{''.join(cells)}".rstrip())
    larger = lambda cost: [name for name, row in rows.items() if row[cost][0] > row[cost][1]]
    verdicts = {f"More {title}": larger(cost) for cost, title in COSTS.items()}
    if figures["repetitions"]:
        lines += ["", *times(figures)]
        verdicts["Slower by more than 2 %"] = [name for name in rows if rows[name]["slower"] > 2]
    return "\n".join([*lines, "", *(f"{what} here: {'; '.join(names) or 'none'}." for what, names in verdicts.items())])


def times(figures: dict) -> list[str]:
    """The lines of the times."""
    lines = [
        f"{'':26s}{'ms a unit':^20s}{'slower, turn by turn':>26s}{'compiling, seconds':>30s}",
        f"{'':26s}{'there':>10s}{'here':>10s}{'':30s}{'there':>14s}{'here':>10s}",
    ]
    for name, row in figures["programs"].items():
        here, there = (1000 * seconds for seconds in row["seconds"])
        quartiles = "({:+.1f} to {:+.1f})".format(*row["slower_quartiles"])
        lines.append(
            f"{name:26s}{there:10.3f}{here:10.3f}{row['slower']:+11.1f} % {quartiles:17s}"
            f"{row['compile_seconds'][1]:14.1f}{row['compile_seconds'][0]:10.1f}"
        )
    return [*lines, "", f"Medians of {figures['repetitions']} turns, quartiles in brackets."]
