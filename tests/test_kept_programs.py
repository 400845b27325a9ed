"""Compiled programs that the command line keeps for its next start."""

import os
import stat

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from test_cli import jaxdiff
from test_mesh_evaluation import untrained_run

from jaxdiff.runs import programs

SETTINGS = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty; programs of every size are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, value in zip(SETTINGS, (True, None, 0)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield tmp_path / "cache" / "jaxdiff"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """A command that goes as far as to read a run that is not there."""
    return lambda: jaxdiff(monkeypatch, capsys, "sample", tmp_path / "nothing", "--json")


@pytest.mark.slow
def test_a_second_start_takes_the_programs_of_the_first_and_compiles_torn_ones_anew(
    tmp_path, cache, monkeypatch, capsys
):
    run = tmp_path / "run"
    untrained_run(run, data="two_moons", network="mlp((8,))")

    def start():
        jax.clear_caches()
        compilation_cache.reset_cache()
        code, _, err = jaxdiff(monkeypatch, capsys, "sample", run, "--n", 3, "--steps", 2, "--json")
        assert code == 0, err
        return np.load(run / "samples.npy")

    compiled = start()
    kept = sorted(cache.glob("*-cache"))
    assert any("sample" in path.name for path in kept)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    np.testing.assert_array_equal(start(), compiled)
    assert sorted(cache.glob("*-cache")) == kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        np.testing.assert_array_equal(start(), compiled)


def test_the_users_own_settings_of_jax_hold(tmp_path, cache, asked):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    asked()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    asked()
    assert jax.config.jax_compilation_cache_dir is None
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_is_told_and_left_out(tmp_path, cache, asked):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="compiled programs are not kept for the next start: .*cache"):
        code, _, err = asked()
    assert (code, "nothing" in err) == (1, True), err
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_go_where_there_are_too_many(cache, asked, monkeypatch):
    cache.mkdir(parents=True)
    for age, name in enumerate(("newest", "new", "old")):
        (cache / f"{name}-cache").write_bytes(bytes(6))
        os.utime(cache / f"{name}-cache", (1e9 - age, 1e9 - age))
    monkeypatch.setattr(programs, "CACHE_BYTES", 12)
    asked()
    assert {path.name for path in cache.iterdir()} == {"newest-cache", "new-cache"}
