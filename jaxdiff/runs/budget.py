"""The share of a run's time that its pictures may take."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Budget:
    """Decides when a picture may be drawn, so that pictures take at most `share` of the time.

    The next picture is expected to take as long as the last one. The first is expected to compile as long as training
    did before its first line, and to evaluate the network `evaluations` times; training evaluates it about three times
    per example.
    """

    share: float
    evaluations: int
    began: float
    spent: float
    compiling: float | None = None
    last: float | None = None

    def allows(self, metrics: dict) -> bool:
        """Whether a picture may be drawn after a line of metrics."""
        if self.compiling is None:
            self.compiling = time.perf_counter() - self.began
        coming = self.last or self.compiling + self.evaluations / (3 * metrics["examples_per_second"])
        return self.share > 0 and self.spent + coming <= self.share * (metrics["seconds"] + self.spent + coming)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Add the time inside this context to the time spent."""
        began = time.perf_counter()
        yield
        self.last = time.perf_counter() - began
        self.spent += self.last
