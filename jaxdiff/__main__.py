"""`python -m jaxdiff`, and the entry point of the command `jaxdiff`."""

import sys

from jaxdiff import __version__
from jaxdiff.arrays import require


def main() -> None:
    """Run the command line; `--version` needs none of its packages."""
    if sys.argv[1:] == ["--version"]:
        print(f"jaxdiff {__version__}")
        return
    try:
        require("tyro", "matplotlib")
        from jaxdiff import cli
    except ImportError as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    cli.main()


if __name__ == "__main__":
    main()
