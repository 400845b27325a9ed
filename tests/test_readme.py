import functools
import re
import shlex
import sys
from pathlib import Path

import pytest

from jaxdiff import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REPOSITORY = (
    r"https://(?:(?:colab\.research\.google\.com/github|github\.com)/jaxdiff/jaxdiff/(?:blob|tree)"
    r"|raw\.githubusercontent\.com/jaxdiff/jaxdiff)/main/"
)


@pytest.mark.slow
def test_its_code_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fifteen, run = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(fifteen, {})
    assert re.search(r"nats; 500 of 500 converged", capsys.readouterr().out)
    exec(run + "assert points.shape == (500, 2)", {})


def test_the_fifteen_lines_and_those_of_a_run_run_with_fewer_steps_of_smaller_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fifteen, run = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in fifteen.splitlines()) <= 15
    short = fifteen.replace("steps=2000", "steps=50").replace("(64,) * 5", "(8,)")
    exec(short + "assert denoiser.params", {})
    assert re.search(r"nats; 500 of 500 converged", capsys.readouterr().out)
    short = run.replace("steps=2000", "steps=2, network='mlp((8,))'")
    short = short.replace('config, "runs/', 'config, pictures=0, folder="runs/')
    exec(short + "assert points.shape == (500, 2)", {})


def test_every_link_is_absolute_and_those_into_the_repository_exist():
    links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", README)
    seen = set()
    for link in map("".join, links):
        assert link.startswith("https://"), link  # a package index does not resolve relative ones
        if "jaxdiff/jaxdiff/" not in link:
            continue
        found = re.fullmatch(REPOSITORY + r"([^#]+)(?:#(.+))?", link)
        assert found, link
        path, anchor = ROOT / found[1], found[2]
        seen.add(path)
        assert path.is_dir() if "/tree/" in link else path.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], link
    assert {*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("docs/guides/*.md")} <= seen


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
