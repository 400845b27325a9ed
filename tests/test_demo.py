import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path):
    """At most 2.15 bits/dim on held-out digits, better than the autoregressive ridge, with every picture there."""
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "jaxdiff.cli", "demo", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["bits_per_dim"] + 2 * summary["standard_error"] < 2.15
    assert summary["not_converged"] == 0
    for picture in ("samples.png", "denoising.png", "training.png"):
        assert (folder / picture).stat().st_size > 1000
