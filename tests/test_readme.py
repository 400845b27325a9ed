import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

from jaxdiff import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_lines_of_a_run_and_the_fifteen_run_as_they_stand(tmp_path):
    run, fifteen = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in fifteen.splitlines()) <= 15
    short = run.replace("steps=2000", "steps=2").replace('config, "runs/', 'config, pictures=0, folder="runs/')
    code = fifteen.replace("steps=1000", "steps=50") + short + "assert points.shape == (500, 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"nats; 500 of 500 converged", done.stdout)


def test_what_it_points_to_exists():
    for path in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"|^\| `([\w/]+)`", README, re.MULTILINE):
        (path,) = filter(None, path)
        assert (ROOT / path).exists(), path


def test_every_command_of_the_guides_is_one_that_the_command_line_takes(monkeypatch, capsys):
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
    text = "\n".join(page.read_text().replace("\\\n", "") for page in pages)
    found = re.findall(r"^ {4}(?:srun |!)?(jaxdiff [^|\n]*)$|`(jaxdiff [^`|]*)`", text, re.MULTILINE)
    commands = [shlex.split("".join(command), comments=True) for command in found]
    commands = [[word for word in command if word != "..."] for command in commands if len(command) > 2]
    assert len(commands) > 25
    for name in ("train", "sample", "likelihood", "evaluate", "export", "words"):
        monkeypatch.setattr(cli, name, functools.wraps(getattr(cli, name))(lambda *args, **settings: {}))
    refused = {}
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                refused[shlex.join(command)] = stop.code, capsys.readouterr()
    assert not refused
