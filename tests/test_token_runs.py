"""Runs of texts and of maps: from a command to samples, bits and words; what is given stays."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from test_cli import jaxdiff

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.data import Images, Symbols, category_maps
from jaxdiff.runs.texts import GRAMS, repetition

RNG = np.random.default_rng(0)
LETTERS = "abc "
HEAT = "discretized_gaussian(schedule=polynomial(3))"
N = 160
LASTING = {"record": None, "progress": False, "mesh": None, "precision": None}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A run of characters drawn at random, and its folder."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "x.txt").write_text("".join(RNG.choice(list(LETTERS), 21 * 4096)))
    data = f"text({str(folder / 'x.txt')!r}, length=8, alphabet={LETTERS!r})"
    config = runs.Config(data=data, network="mlp((8,))", steps=2, batch_size=8)
    return runs.train(config, folder / "run", progress=False, pictures=1.0), folder / "run"


def test_a_text_alone_picks_process_parameterization_and_loss(text):
    run, folder = text
    assert (run.denoiser.process, run.denoiser.parameterization) == (jd.Absorbing(4), "leave_one_out")
    assert run.config.loss == jd.losses.Bound()
    lines = (folder / "denoising.txt").read_text().splitlines()[2:]
    assert lines[0] == "_" * 8
    assert "_" not in lines[-1]
    masks = [line.count("_") for line in lines]
    assert masks == sorted(masks, reverse=True)
    assert all(set(line) <= {*LETTERS, "_"} and len(line) == 8 for line in lines)


@pytest.mark.parametrize(
    "source",
    [
        jd.data.Maps(np.zeros((5, 4, 4), np.int32), np.arange(5, dtype=np.int32) % 2, 2, [(0, 0, 0), (255, 255, 255)]),
        jd.data.Texts(np.zeros((5, 8), np.int32), np.ones((5, 8), bool), np.ones(5, np.int64), Symbols(LETTERS)),
    ],
    ids=["maps", "texts"],
)
def test_data_of_categories_that_are_given_pick_the_same(source):
    config = runs.Config(data=None, network="mlp((8,))")
    known = runs.learned(config, source)
    denoiser = runs.build(config, known)
    assert (denoiser.process, denoiser.parameterization) == (jd.Absorbing(source.categories), "leave_one_out")
    named = runs.Config(data="maps(emoji)", network="mlp((8,))")
    assert known.completed(config) == dataclasses.replace(named, data=None)
    other = runs.Config(data=None, process="multinomial", parameterization="data", network="mlp((8,))")
    assert known.completed(other) == other
    with pytest.raises(ValueError, match=r"process = vp.* is for numbers, and .* are categories; give absorbing"):
        runs.learned(runs.Config(data=None, process="vp"), source)


def test_a_transformer_of_any_size_takes_t_unless_masks_show_it(text):
    known = text[0].known
    config = lambda **given: known.completed(runs.Config(data=None, **given))
    small = {"network": "transformer(width=32)"}
    for given, noise in (
        ({}, False),
        (small, False),
        ({"process": "multinomial"}, True),
        (small | {"process": "multinomial"}, True),
        ({"network": "transformer(width=32, noise=True)"}, True),
    ):
        found = config(**given)
        assert found.network.values["noise"] is noise
        assert runs.Config(**found.written()) == found
    assert config(**small).network.values["width"] == 32


def test_the_head_of_samples_in_training_is_apart_from_them(text, tmp_path):
    run, _ = text
    x = RNG.integers(0, 4, (3, 8))
    run.known.picture(x, "the data", tmp_path / "samples.png", "samples after 2 steps")
    head, rule, samples = (tmp_path / "samples.txt").read_text().partition("-" * 40 + "\n")
    assert rule
    assert head.startswith("samples after 2 steps\nrepeated_2_grams: ")
    assert samples.splitlines() == run.restore(x)


def test_samples_are_lines_and_what_is_given_of_one_stays(text, monkeypatch, capsys):
    run, folder = text
    code, out, err = jaxdiff(
        monkeypatch, capsys, "sample", folder, "--n", 3, "--steps", 2, "--json", "--infill", "ab_ _"
    )
    assert code == 0, err
    found = json.loads(out)
    samples = (folder / "samples.txt").read_text().splitlines()
    assert len(samples) == 3
    for sample in samples:
        assert (sample[:2], sample[3], len(sample)) == ("ab", " ", 8)
        assert set(sample) <= {*LETTERS}
    assert found["picture"] is None
    assert 0 <= found["repeated_2_grams"] <= 1
    again = runs.draw(run, 3, steps=2, x_start=run.known.start("ab_ _", 3))
    assert run.restore(again) == samples
    for given, words in (
        ("abc", "has no '_', which marks what is to be drawn"),
        ("abd_", "has 'd' in line 1, column 3"),
    ):
        code, _, err = jaxdiff(monkeypatch, capsys, "sample", folder, "--n", 1, "--infill", given)
        assert code == 1
        assert words in err


@pytest.mark.parametrize("process", few_names(["absorbing", HEAT], "absorbing"))
def test_bits_and_perplexity_of_random_characters_are_those_of_their_entropy(text, process):
    """With the exact denoiser in the network's place: log2 of the letters a character, that times characters a word."""
    run, _ = text
    uniform = np.full((4, 4), 0.25)
    config = dataclasses.replace(run.config, process=process)
    chain: dict[str, int] = {"chain": 3} if process == "absorbing" else {}
    exact = jd.exact.Markov(run.known.reading(config)["process"], uniform[0], uniform)
    whole = runs.read(run.config.data, "test")
    source = dataclasses.replace(whole, tokens=whole.tokens[:N], weight=whole.weight[:N], words=whole.words[:N])
    found, words = run.known.score(jax.random.key(0), exact, source, None, False, LASTING, **chain)
    assert abs(found["bits_per_character"] - 2.0) < 4 * found["standard_error"]
    assert found["characters"] == N * 8
    a_word = 8 * N / source.words.sum()
    expected = 2 ** (found["bits_per_character"] * a_word)
    assert found["perplexity_per_word"] == pytest.approx(expected, rel=1e-6)
    assert "bits a character" in words
    if process == "absorbing":
        assert found["chain_bits_per_character"] == pytest.approx(2.0, abs=1e-5)
        assert "by the chain rule in random orders 2.0000" in words
    rare = dataclasses.replace(source, words=(np.arange(N) == 0).astype(int))  # one word in all texts
    found, words = run.known.score(jax.random.key(0), exact, rare, None, False, LASTING, draws=1, chain=0)
    assert found["perplexity_per_word"] is None
    assert "too few texts to measure a perplexity a word" in words
    if process == "absorbing":
        assert "chain_examples" not in found


def test_a_chain_that_there_is_not_is_refused(text):
    run, _ = text
    source = runs.read(run.config.data, "test")
    logits = lambda params, x, c_noise, cond: jnp.tile(c_noise[:, None, None] * jnp.arange(4), (1, 8, 1))
    sees_t = jd.Denoiser(logits, None, jd.Absorbing(4))
    for denoiser, words in (
        (sees_t, "chain = 2, but there is no chain rule: the network depends on t; leave it out, or train"),
        (
            jd.Denoiser(logits, None, jd.Multinomial(4)),
            r"the process is Multinomial.*, which has no masks; leave it out",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            run.known.score(jax.random.key(0), denoiser, source, 4, False, LASTING, chain=2)
    for given in ({}, {"chain": 0}):
        found, _ = run.known.score(jax.random.key(0), sees_t, source, 4, False, LASTING, draws=1, **given)
        assert not any(name.startswith("chain") for name in found)


def test_repetition_is_the_share_of_n_grams_that_stood_before():
    rows = RNG.integers(0, 3, (5, 20))
    rows[0, 12:] = 9  # padding
    for n, share in zip(GRAMS, repetition(rows, 9)):
        of = []
        for row in rows:
            row, seen, again = [v for v in row.tolist() if v != 9], [], 0
            for i in range(len(row) - n + 1):
                again += row[i : i + n] in seen
                seen.append(row[i : i + n])
            of.append(again / len(seen))
        assert share == pytest.approx(np.mean(of))


def test_an_exported_text_needs_neither_its_file_nor_its_checkpoints(text, tmp_path):
    run, _ = text
    runs.export(run, tmp_path / "model")
    loaded = runs.load(tmp_path / "model")
    assert loaded.known == run.known
    assert loaded.known.symbols.decode(loaded.known.symbols.encode("cab", 3)) == "cab"


def test_a_run_goes_on_only_with_the_tokenizer_that_it_began_with():
    tokenizers = pytest.importorskip("tokenizers")
    model = lambda words: tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, words[0])
    symbols = lambda *words: Symbols("", tokenizers.Tokenizer(model(words)).to_str())
    known = lambda symbols: runs.Texts((4,), 1.0, symbols, (0.0, 0.0, 0.0))
    lasting = lambda symbols: known(symbols).lasting(runs.Config(data=None, process="absorbing"))
    assert lasting(symbols("a", "b")) == lasting(symbols("a", "b"))
    for others in (
        symbols("a", "c"),
        symbols("a", "b", "c"),
        Symbols("ab"),
        dataclasses.replace(symbols("a", "b"), ended=True),
    ):
        assert lasting(symbols("a", "b")) != lasting(others)


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A run of maps with their labels."""
    with pytest.MonkeyPatch.context() as patch:
        clothes = Images(RNG.integers(0, 99, (40, 4, 4, 1), np.uint8), np.arange(40, dtype=np.int32) % 10, 256, 10)
        patch.setattr(category_maps, "load_fashion_mnist", lambda *given: clothes)
        config = runs.Config(
            data="maps(fashion)",
            condition=("label",),
            process="multinomial",
            network="mlp((8,))",
            steps=2,
            batch_size=8,
        )
        folder = tmp_path_factory.mktemp("maps")
        run = runs.train(config, folder, progress=False, pictures=0)
        lasting = {"progress": False, "limit": 12, "draws": 1}
        yield run, folder, runs.likelihood(run, folder, **lasting)


def test_maps_are_drawn_by_label_as_categories_and_in_colours(maps, monkeypatch, capsys):
    run, folder, scored = maps
    assert run.denoiser.process == jd.Multinomial(11)
    code, out, err = jaxdiff(
        monkeypatch, capsys, "sample", folder, "--n", 4, "--steps", 2, "--condition", "3,7", "--json"
    )
    assert code == 0, err
    samples = np.load(json.loads(out)["samples"])
    assert (samples.shape, samples.dtype) == ((4, 4, 4), np.uint8)
    assert samples.max() < 11
    assert (folder / "samples.png").exists()
    colours = (run.known.coloured(samples) + 1) * 127.5
    np.testing.assert_allclose(colours, np.array(run.known.palette)[samples], atol=1e-3)
    assert scored["pixels"] == 12 * 16
    assert math.isfinite(scored["bits_per_pixel"])
    assert scored["condition"] == "label"
    assert not any(name.startswith("chain") for name in scored)


def test_what_cannot_be_asked_of_categories_is_refused_first(text, maps, tmp_path, monkeypatch):
    run, folder = text
    data = run.config.data
    config = lambda **given: runs.Config(data=data, network="mlp((8,))", steps=2, batch_size=8, **given)
    for given, words in (
        ({"process": "vp"}, r"process = vp.* is for numbers, and texts are categories; give absorbing"),
        ({"condition": ("label",)}, "texts have no label; leave it out. To give part of a text"),
        ({"flip": True}, "flip = True is for pictures"),
        ({"parameterization": "v"}, "parameterization"),
    ):
        with pytest.raises(ValueError, match=words):
            runs.train(config(**given), tmp_path / "no", progress=False, pictures=0)
        assert not (tmp_path / "no" / "checkpoints").exists()
    for known, network, words in (
        (run.known, "unet(channels=(8, 8))", "rank 2, and texts have rank 1; give transformer"),
        (run.known, "dit(width=8, heads=2)", "rank 2, and texts have rank 1; give transformer"),
        (
            maps[0].known,
            "transformer",
            "network = transformer is for examples of rank 1, and maps have rank 2; give unet",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            runs.build(runs.Config(data=None, network=network, process="absorbing"), known)
    line = runs.Config(data=None, network="unet(channels=(8, 8), blocks=1, space=1)", process="absorbing")
    assert jax.eval_shape(runs.build(line, run.known), np.zeros((2, 8), int), 0.5).logits.shape == (2, 8, 4)
    with pytest.raises(ValueError, match="the data decide its number of categories; give it as a word"):
        config(process=jd.Absorbing(4))
    with pytest.raises((ValueError, TypeError), match="Ancestral"):
        runs.draw(run, 2, jd.samplers.DDIM(), steps=2)
    with pytest.raises(ValueError, match="flow = .* is for numbers, .* texts are categories and have a bound"):
        runs.likelihood(run, folder, limit=2, progress=False, flow=jd.samplers.ProbabilityFlow())
    pictures = dataclasses.replace(run, known=runs.Pictures((4, 4, 1), 0.5, 256, 3))
    with pytest.raises(ValueError, match="infill = 'a_' is for texts"):
        pictures.known.start("a_", 1)
    with pytest.raises(ValueError, match="the texts have 4 characters of the alphabet 'abc '; expected 8 of the"):
        runs.likelihood(run, folder, runs.Config(data=str(data_of(data, length=4))).data, progress=False)
    clothes = Images(np.zeros((9, 4, 4, 1), np.uint8), np.zeros(9, np.int32), 256, 10)
    monkeypatch.setattr(category_maps, "load_fashion_mnist", lambda *given: clothes)
    with pytest.raises(ValueError, match="are maps; expected texts, as the run's own"):
        runs.likelihood(run, folder, runs.Config(data="maps(fashion)").data, progress=False)


def data_of(data, **changed):
    """The words of a data set with other arguments."""
    values = dict(data.arguments) | changed
    return f"text({values['path']!r}, {values['length']}, alphabet={values['alphabet']!r})"
