"""Shows log messages on stderr, for the command line. In other programs they go to the handlers of the program."""

import logging
import sys

from tqdm import tqdm


class _Console(logging.Handler):
    """Writes reports as they are, and warnings and errors as "jaxdiff: ...", below a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            below = "\n" if len(getattr(tqdm, "_instances", ())) else ""
            text = f"{below}jaxdiff: {text}"
        try:
            print(text, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


_CONSOLE = _Console()


def log_to_stderr() -> None:
    """Write the log messages of jaxdiff to stderr and nowhere else. Calling it again changes nothing."""
    logger = logging.getLogger("jaxdiff")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # other libraries add handlers to the root logger
    logger.addHandler(_CONSOLE)
