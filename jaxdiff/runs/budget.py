"""How much of a run's time its pictures may take."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


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
