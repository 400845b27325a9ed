"""The command line's cache of compiled programs, in the user's cache folder."""

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax

CACHE_BYTES = 2**31


def _cache_folder() -> Path:
    """The folder of compiled programs, in XDG_CACHE_HOME or the system's default cache folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return (Path(named) if os.path.isabs(named) else Path(home).expanduser()) / "jaxdiff"


def keep_compiled() -> None:
    """Make JAX keep compiled programs for the next start, unless its settings name a folder or turn its cache off.

    The oldest are removed once all take more than `CACHE_BYTES`. Warns if the folder cannot be written.
    """
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    try:
        folder = _cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:
        return warnings.warn(f"compiled programs are not kept for the next start: {error}", stacklevel=2)
    with contextlib.suppress(FileNotFoundError):  # another process has removed it
        total = 0
        for path in sorted(folder.glob("*-cache"), key=os.path.getmtime, reverse=True):
            total += path.stat().st_size
            if total > CACHE_BYTES:
                path.unlink()
    jax.config.update("jax_compilation_cache_dir", str(folder))
