"""What the library logs, and where the command line shows it."""

import ast
import logging
from pathlib import Path

import pytest
from tqdm import tqdm

import jaxdiff
from jaxdiff.runs import console

LOG = logging.getLogger("jaxdiff.runs.likelihood")


@pytest.fixture
def shown():
    """The command line's handler, installed for one test."""
    logger = logging.getLogger("jaxdiff")
    level, propagate, handlers = logger.level, logger.propagate, list(logger.handlers)
    console.log_to_stderr()
    console.log_to_stderr()
    yield
    logger.setLevel(level)
    logger.propagate, logger.handlers = propagate, handlers


def test_the_command_line_shows_reports_as_they_are_and_warnings_with_its_name(shown, capsys):
    LOG.info("2.1 bits/dim")
    LOG.warning("left out %s", "torn.png")
    assert capsys.readouterr() == ("", "2.1 bits/dim\njaxdiff: left out torn.png\n")


def test_a_message_is_shown_once_though_the_root_logger_has_a_handler(shown, capsys):
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)
    LOG.info("2.1 bits/dim")
    logging.getLogger().removeHandler(root)
    assert capsys.readouterr().err == "2.1 bits/dim\n"


def test_a_warning_is_shown_below_a_progress_bar(shown, capsys):
    with tqdm(total=2):
        capsys.readouterr()
        LOG.warning("stopped by SIGTERM")
        assert capsys.readouterr().err == "\njaxdiff: stopped by SIGTERM\n"


def test_only_the_command_line_prints():
    folder = Path(jaxdiff.__file__).parent
    calls = lambda path: (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    printing = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if any(isinstance(name, ast.Name) and name.id == "print" for name in calls(path))
    }
    assert printing == {"__main__.py", "cli.py", "runs/console.py"}
