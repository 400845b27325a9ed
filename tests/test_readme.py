import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_fifteen_lines_run_as_they_stand(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"nats; 500 of 500 converged", done.stdout)


def test_parts_of_your_own_run_as_they_stand(tmp_path):
    code = "".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own.md").read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) <= 2  # the last step is the clipped answer


def test_what_it_points_to_exists():
    for path in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"|^\| `([\w/]+)`", README, re.MULTILINE):
        (path,) = filter(None, path)
        assert (ROOT / path).exists(), path
