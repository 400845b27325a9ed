"""Words with numbers: what is read is what Python makes of the same call, and what is written is read back."""

import collections.abc
import dataclasses
import inspect
import math
from typing import Any, Literal, get_args, get_origin

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tables
import tyro
from flax import nnx

import jaxdiff as jd
from jaxdiff import vocabulary
from jaxdiff.likelihood import Trace
from jaxdiff.losses import Loss
from jaxdiff.losses.couplings import Coupling, Independent
from jaxdiff.losses.times import LogNormal, Times
from jaxdiff.losses.weightings import Weighting
from jaxdiff.networks import MLP, Fourier, UNet, Waves
from jaxdiff.processes.schedules import Schedule
from jaxdiff.samplers import DDIM, DPMSolverPP, Heun, Sampler
from jaxdiff.vocabulary import UNREACHABLE, WORDS, Data, Guidance, Network, Noise, describe, parse, write
from jaxdiff.words import Recipe
from jaxdiff.words.annotations import members

W, Interval, Solver = jd.losses.weightings, jd.guidance.Interval, diffrax.AbstractSolver
GIVEN = {  # what words need beside the field that is tried: as text, and as it is
    jd.Absorbing: ("3", {"categories": 3}),
    jd.Multinomial: ("3", {"categories": 3}),
    jd.DiscretizedGaussian: ("3", {"categories": 3}),
    jd.schedules.Polynomial: ("2", {"power": 2.0}),
    jd.losses.times.Fixed: ("0.3", {"t": 0.3}),
    jd.losses.LeastVariance: ("denoising", {"loss": jd.losses.Denoising()}),
    jd.samplers.Switch: ("heun, ddim", {"first": Heun(), "second": DDIM()}),
    diffrax.HalfSolver: ("euler", {"solver": diffrax.Euler()}),
    Interval: ("2", {"scale": 2.0}),
    Heun: ("40", {"churn": 40.0}),  # without which its other fields are refused
    jd.data.Table: ("'x.csv'", {"path": "x.csv"}),
    jd.data.text: ("'x.txt', 8", {"path": "x.txt", "length": 8}),
    jd.data.maps: ("fashion", {"name": "fashion"}),
    jd.data.MixedTable: ("'x.csv'", {"path": "x.csv"}),
    jd.data.ImageFolder: ("'pictures'", {"folder": "pictures"}),
}
EVERY = [(kind, word) for kind, table in WORDS.tables.items() for word in table.makers]


def needed(kind, word):
    """(text, arguments) that it needs."""
    if kind is Noise:  # whose categories the run supplies
        return "", {}
    return GIVEN.get(WORDS.tables[kind].makers[word], ("", {}))


def made(kind, word, **values):
    """What Python makes of the same call."""
    make = WORDS.tables[kind].makers[word]
    values = needed(kind, word)[1] | values
    return kind(make, values) if issubclass(kind, Recipe) else make(**values)


def others(parameter):
    """(text, value) of values that a field might take, by its annotation."""
    for one in members(parameter.kind):
        kind = get_origin(one) or one
        if one is float:
            yield from ((repr(number), number) for number in (0.25, 0.5, 1.5, 3.0, -3.0, 40.0))
            yield "1", 1.0
        elif one is bool:
            yield repr(not parameter.default), not parameter.default
        elif one is int:
            yield from ((str(number), number) for number in (2, 3))
        elif one is str:
            yield "'some where'", "some where"
        elif one is np.ndarray:
            yield "(0.75, 0.5, 0)", np.array([0.75, 0.5, 0.0])
        elif kind is Literal:
            yield from ((repr(choice), choice) for choice in get_args(one))
        elif kind is collections.abc.Sequence and get_args(one) == (str,):
            yield "('one', 'two')", ("one", "two")
        elif kind is collections.abc.Sequence:
            yield from (("(4, 8)", (4, 8)), ("[2]", (2,)))
        elif kind in WORDS.tables:
            yield from ((word, made(kind, word)) for word in WORDS.tables[kind].makers if not needed(kind, word)[0])


@pytest.mark.parametrize(("kind", "word"), EVERY, ids=lambda part: getattr(part, "__name__", part))
def test_a_word_is_read_as_the_call_and_written_as_a_text_that_is_read_back(kind, word):
    """By its defaults, and with its fields changed one by one."""
    given, values = needed(kind, word)
    default = made(kind, word)
    assert parse(f"{word}({given})", kind) == default
    assert parse(write(default, kind), kind) == default
    if not given:
        assert parse(word, kind) == default
    for name, parameter in WORDS.parameters(kind, word).items():
        if name in values:
            continue
        changed = 0
        for text, value in others(parameter):
            call = f"{word}({given}, {name}={text})" if given else f"{word}({name}={text})"
            try:
                expected = made(kind, word, **{name: value})
            except (ValueError, TypeError):
                with pytest.raises(ValueError, match=word):
                    parse(call, kind)
                continue
            found = parse(call, kind)
            assert found == expected, text
            for whole in (False, True):
                assert parse(write(found, kind, whole), kind) == expected, text
            changed += found != default
        assert changed, f"{word}.{name} was never changed"


def test_the_kind_decides_what_a_word_means():
    assert parse("edm", jd.Process) == jd.EDM()
    assert parse("edm", Weighting) == W.EDM()
    assert parse("heun", Sampler) == Heun()
    assert parse("heun", Solver) == diffrax.Heun()
    assert parse("denoising(edm, log_normal(0))", Loss) == jd.losses.Denoising(W.EDM(), LogNormal(0.0))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("160", float, 160.0),
        ("-1e-3", float, -0.001),
        ("inf", float, math.inf),
        ("-inf", float, -math.inf),
        ("3", int, 3),
        ("True", bool, True),
        ("None", float | None, None),
        ("'a b'", str, "a b"),
        ("small", Literal["small", "large"], "small"),
        ("'large'", Literal["small", "large"], "large"),
        ("(1, 2)", tuple[int, ...], (1, 2)),
        ("[1, 2]", tuple[float, float], (1.0, 2.0)),
        ("()", tuple[int, ...], ()),
        ("2", float | Interval, 2.0),
        ("interval(3, .1, 2)", float | Interval, Interval(3.0, 0.1, 2.0)),
        (" vp ( ) ", jd.Process | None, jd.VP()),
        ("(vp, ve(0.1))", tuple[jd.Process, ...], (jd.VP(), jd.VE(0.1))),
    ],
)
def test_constants_and_tuples_are_of_the_type_of_their_annotation(text, kind, value):
    found = parse(text, kind)
    assert found == value
    assert type(found) is type(value)
    assert not isinstance(value, tuple) or list(map(type, found)) == list(map(type, value))
    assert parse(write(value, kind), kind) == value


def test_what_is_written_is_short_and_says_what_differs_from_the_defaults():
    assert write(jd.EDM(0.002, 160.0), jd.Process) == "edm(sigma_max=160)"
    loss = jd.losses.Denoising(W.MinSNR(3.0), LogNormal())
    assert write(loss, Loss) == "denoising(weighting=min_snr(gamma=3), times=log_normal)"
    assert write(jd.EDM(rho=np.float32(5), sigma_max=jnp.float32(0.1)), jd.Process).startswith(
        "edm(sigma_max=0.10000000"
    )
    assert write(jd.samplers.Switch(Heun(), DDIM(), 0.25), Sampler) == "switch(heun, ddim, t=0.25)"
    assert write(Network(UNet, {"channels": [8], "heads": 4}), Network) == "unet(channels=(8,))"
    assert write(jd.OU(5.0), jd.Process) == "vp(beta_min=5, beta_max=5)"


def test_a_text_that_is_kept_says_every_field_whatever_the_defaults_become():
    assert write(jd.EDM(), jd.Process, whole=True) == "edm(sigma_min=0.002, sigma_max=80, rho=7)"
    loss = "denoising(weighting=simple, times=stratified(t_min=1e-05))"
    assert write(jd.losses.Denoising(), Loss, whole=True) == loss
    mlp = "mlp(hidden=(128, 128, 128), waves=sinusoidal(waves=16, lowest=0.25, highest=16))"
    assert write(Network(MLP), Network, whole=True) == mlp


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.0, 0.1, 1 / 3, 5e-324, 1e16, 1e22, 2.0**53, 1.7e308, -math.inf])
def test_a_float_is_read_back_to_the_bit(value):
    assert np.float64(parse(write(value, float), float)).tobytes() == np.float64(value).tobytes()


def test_what_no_word_makes_is_not_written():
    @dataclasses.dataclass(frozen=True)
    class Mine(Sampler): ...

    for value, kind in (
        (Mine(), Sampler),
        (jd.from_betas([0.1, 0.2]), jd.Process),
        (Independent(lambda key, n: jnp.zeros((n, 2))), Coupling),
        (math.nan, float),
        (10**400, float),
        (jd.VP(), Sampler),
        ("3", float),
        (3.5, int),
    ):
        with pytest.raises(TypeError, match="cannot be written in words"):
            write(value, kind)


def test_a_kind_is_described_by_its_words_with_their_fields_and_defaults():
    assert "edm(sigma_min=0.002, sigma_max=80, rho=7)" in describe(jd.Process)
    assert "switch(first, second, t=0.5)" in describe(Sampler)
    assert "digits" in describe(Data)
    for kind, table in WORDS.tables.items():
        lines = describe(kind)
        assert [line.partition("(")[0] for line in lines] == [*table.makers]
        for line in lines:
            word = line.partition("(")[0]
            assert needed(kind, word)[0] or parse(line, kind) == made(kind, word)


def test_words_are_the_public_names_in_snake_case():
    names = {"VP": "vp", "SubVP": "sub_vp", "BrownianVE": "brownian_ve", "MinSNR": "min_snr", "XTrace": "xtrace"}
    names |= {"HutchPP": "hutch_pp", "DPMSolverPP": "dpm_solver", "UNet": "unet", "LogitNormal": "logit_normal"}
    names |= {
        "load_fashion_mnist": "fashion_mnist",
        "two_moons": "two_moons",
        "ImageFolder": "folder",
        "UniPC": "unipc",
    }
    assert {name: vocabulary.word(name) for name in names} == names


# Recipes


def test_a_network_is_made_when_the_run_has_its_data():
    network = parse("unet(channels=(8,), blocks=1, waves=fourier(4))", Network)
    assert network.asks == ("channels_in", "classes", "outputs", "vector", "image", "level", "tokens", "rngs")
    ours = network(channels_in=1, rngs=nnx.Rngs(0))
    theirs = UNet(1, (8,), 1, waves=Fourier(4), rngs=nnx.Rngs(0))
    for one, other in zip(jax.tree.leaves(nnx.state(ours)), jax.tree.leaves(nnx.state(theirs)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert parse("mlp", Network)(event=2, rngs=nnx.Rngs(0)).event == (2,)


def test_guidance_wraps_a_denoiser_that_comes_later():
    denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], [[1.0], [-1.0]], [[[1.0]], [[1.0]]])
    guide = parse("classifier_free(interval(3, .1, 2))", Guidance)
    assert guide(denoiser=denoiser) == jd.guidance.ClassifierFree(denoiser, Interval(3.0, 0.1, 2.0))
    outer = parse("dynamic_threshold(.9)", Guidance)(denoiser=guide(denoiser=denoiser))
    assert outer == jd.guidance.DynamicThreshold(jd.guidance.ClassifierFree(denoiser, Interval(3.0, 0.1, 2.0)), 0.9)


def test_data_are_read_when_the_run_says_which_part():
    points = parse("two_moons(noise=0.5)", Data)
    assert points.asks == ("key", "n")
    np.testing.assert_array_equal(points(key=jax.random.key(0), n=3), jd.data.two_moons(jax.random.key(0), 3, 0.5))
    pictures = parse("folder('pictures', size=64, channels=1, on_corrupt='skip')", Data)
    grey = {"folder": "pictures", "size": 64, "channels": 1, "on_corrupt": "skip"}
    assert pictures == Data(jd.data.ImageFolder, grey)
    assert pictures.values == grey
    assert pictures.asks == ("split", "progress")
    rows = parse("table('x.csv')", Data)
    assert rows == Data(jd.data.Table, {"path": "x.csv"})
    assert rows.asks == ("split", "condition")
    assert parse("folder('pictures', 64)", Data).values["on_corrupt"] == "raise"


def test_recipes_are_equal_where_they_make_the_same():
    assert Network(MLP, {"hidden": [128] * 3}) == Network(MLP) == parse("mlp((128, 128, 128))", Network)
    assert len({Network(MLP), parse("mlp", Network), Network(UNet), Network(MLP, {"hidden": (8,)})}) == 3
    assert Network(MLP) != Recipe(MLP)
    for arguments in ({"width": 3}, {"classes": 3}):
        with pytest.raises(TypeError, match=f"MLP has no argument {next(iter(arguments))}"):
            Network(MLP, arguments)


# What is refused

WRONG = [  # text, kind, what the message has: the nearest, or what the word is
    ("vpp", jd.Process, "did you mean vp?"),
    ("subvp", jd.Process, "did you mean sub_vp?"),
    ("EDM", jd.Process, "did you mean edm?"),
    ("cosin", jd.Process, "did you mean cosine?"),
    ("brownianve", jd.Process, "did you mean brownian_ve?"),
    ("flwo", jd.Process, "did you mean flow?"),
    ("denoise", Loss, "did you mean denoising?"),
    ("flow_matchin", Loss, "did you mean flow_matching?"),
    ("score_match", Loss, "did you mean score_matching?"),
    ("minsnr(5)", Weighting, "did you mean min_snr?"),
    ("sigmoyd", Weighting, "did you mean sigmoid?"),
    ("lognormal", Times, "did you mean log_normal?"),
    ("stratifyed", Times, "did you mean stratified?"),
    ("optimal_transprt", Coupling, "did you mean optimal_transport?"),
    ("dpmsolver", Sampler, "did you mean dpm_solver?"),
    ("dimm", Sampler, "did you mean ddim?"),
    ("euler_maruyam", Sampler, "did you mean euler_maruyama?"),
    ("karas", jd.grids.Grid, "did you mean karras?"),
    ("hutchinsen", Trace, "did you mean hutchinson?"),
    ("hutch", Trace, "did you mean hutch_pp?"),
    ("classifierfree(3)", Guidance, "did you mean classifier_free?"),
    ("u_net", Network, "did you mean unet?"),
    ("furier", Waves, "did you mean fourier?"),
    ("fashionmnist", Data, "did you mean fashion_mnist?"),
    ("two_moon", Data, "did you mean two_moons?"),
    ("tsit", Solver, "did you mean tsit5?"),
    ("edm(sigmamax=160)", jd.Process, "edm has no sigmamax (did you mean sigma_max?)"),
    ("heun(chrun=40)", Sampler, "heun has no chrun (did you mean churn?)"),
    ("unet(channel=(8,))", Network, "unet has no channel (did you mean channels?)"),
    ("denoising(wieghting=simple)", Loss, "denoising has no wieghting (did you mean weighting?)"),
    ("ancestral(smal)", Sampler, "did you mean small?"),
    ("switch(heun, dimm)", Sampler, "second = dimm: there is no dimm (did you mean ddim?)"),
    ("denoising(heun)", Loss, "weighting = heun: heun is a sampler and a solver; expected a weighting (simple, "),
    ("denoising(simple, vp)", Loss, "times = vp: vp is a process; expected a law of times (stratified, "),
    ("heun", Loss, "heun is a sampler and a solver; expected a loss (denoising, "),
    ("digits", Network, "digits is a data set; expected a network (unet, mlp, dit, joint, transformer)"),
    ("edm(sigma_max=log_snr)", jd.Process, "sigma_max = log_snr: log_snr is a grid; expected a number; edm("),
]  # fmt: skip


def refusal(text, kind, name="setting"):
    with pytest.raises(ValueError, match=name) as caught:
        parse(text, kind, name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    return message


@pytest.mark.parametrize(("text", "kind", "expected"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_spelling_is_answered_by_the_nearest_word_or_by_what_the_word_is(text, kind, expected):
    message = refusal(text, kind)
    assert message.startswith(f"setting = {text!r}: "), "what was given"
    assert expected in message


def test_a_path_is_answered_by_the_data_set_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "poem").write_text("a rose")
    for text, expected in (
        ("people.csv", "table('people.csv')"),
        ("../my rows.NPZ", "table('../my rows.NPZ')"),
        ("kjv.txt", "text('kjv.txt', length=128)"),
        ("poem", "text('poem', length=128)"),
        ("pictures", "folder('pictures', size=64)"),
    ):
        assert refusal(text, Data | None) == f"setting = {text!r}: write {expected}"
        parse(expected, Data)
    assert "is neither a word, a call of one, a constant nor a tuple" in refusal("people.csv", jd.Process)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("edm(1, 2, 3, 4)", jd.Process, "edm takes 3 values; given 4; edm(sigma_min=0.002, sigma_max=80, rho=7)"),
        ("edm(3)", Weighting, "edm takes no values; given 1; edm"),
        ("edm(1, sigma_min=2)", jd.Process, "edm is given sigma_min twice; edm(sigma_min=0.002, sigma_max=80, rho=7)"),
        ("vp(beta_min=1, beta_min=2)", jd.Process, "vp is given beta_min twice; vp("),
        ("switch(heun)", Sampler, "switch needs second; switch(first, second, t=0.5)"),
        ("switch", Sampler, "switch needs first and second; switch(first, second, t=0.5)"),
        ("folder", Data, "folder needs folder; folder(folder, size=64, channels=3, on_corrupt='raise')"),
        ("edm(sigma_max=-1)", jd.Process, "sigma_max = -1.0; expected a number above 0; edm(sigma_min=0.002"),
        ("edm('a')", jd.Process, "sigma_min = 'a': expected a number; edm(sigma_min=0.002"),
        ("vp(True)", jd.Process, "beta_min = True: expected a number; vp("),
        ("vp(None)", jd.Process, "beta_min = None: expected a number; vp("),
        ("hutchinson(1.0)", Trace, "probes = 1.0: expected a whole number; hutchinson(probes=1)"),
        ("'edm'", jd.Process, "'edm' is a string; write edm without quotes"),
        ("mlp(64)", Network, "hidden = 64: expected a tuple of values, with a comma where it has one: (1,); mlp("),
        ("mlp((64, 'a'))", Network, "hidden = (64, 'a'): expected a whole number; mlp("),
        ("mlp(classes=3)", Network, "classes is supplied by the run; leave it out; mlp("),
        ("table('x.csv', condition=('y',))", Data, "condition is supplied by the run; leave it out; table(path)"),
        ("folder('a', 8, on_corrupt='ignore')", Data, "on_corrupt = 'ignore': expected one of raise, skip; folder("),
        ("independent(source=cat)", Coupling, "independent has no source; independent"),
        ("probability_flow(euler)", Sampler, "solver = diffrax.Euler() gives no estimate of its error"),
        ("(1, 2, 3)", tuple[float, float], "expected a tuple of values"),
        ("3", jd.Process, "expected a process (vp, "),
        ("vp(9" + "9" * 400 + ")", jd.Process, "the number is too large"),
    ],
)
def test_a_wrong_value_is_answered_by_what_was_expected_and_the_fields_with_their_defaults(text, kind, expected):
    assert expected in refusal(text, kind)


HOSTILE = {
    "attribute": "vp.__class__",
    "method": "''.__class__.__mro__",
    "builtin": "open('x')",
    "import": "__import__('os').system('touch here')",
    "f-string": "f'{open}'",
    "f-string within": "folder(f'{open}', 8)",
    "lambda": "lambda: 1",
    "comprehension": "[x for x in (1,)]",
    "generator": "vp(x for x in (1,))",
    "dictionary": "{'a': 1}",
    "subscript": "vp[0]",
    "star": "vp(*(1, 2))",
    "stars": "vp(**{})",
    "operator": "vp(1 + 1)",
    "power": "9**9**9",
    "comparison": "1 < 2",
    "choice": "vp if 1 else ve",
    "walrus": "(x := 1)",
    "call of a call": "vp()()",
    "bytes": "b'a'",
    "complex": "vp(1j)",
    "dots": "...",
    "minus a string": "vp(-'a')",
    "minus a word": "-vp",
    "statement": "import os",
    "two": "vp; ve",
    "comment": "# vp",
    "nothing": "",
    "brackets": "(" * 10_000,
    "brackets that close": "(" * 4999 + ")" * 4999,
    "calls": "switch(" * 30 + ")" * 30,
    "minuses": "-" * 9999 + "1",
    "nots": "not " * 2499 + "x",
    "attributes": "a" + ".b" * 4999,
    "sums": "a" + "+a" * 4999,
    "powers": "a" + "**a" * 3333,
    "null byte": "vp\0",
    "a million digits": "9" * 10**6,
    "many digits": "vp(" + "9" * 5000 + ")",
    "surrogate": "\ud800",
    "control characters": "vp\x1b[2J",
    "control characters within": "folder(size='\x1b[2J\u202e')",
    "a long name": "v" * 9999,
    "other letters": "ⅴp(1",
    "escape": "folder('\\d', 8)",
    "not closed": "vp(",
    "newline": "vp\nve",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_is_refused_in_one_line_and_nothing_of_it_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in (jd.Process, Data, tuple[float, ...], str):
        assert refusal(text, kind).isprintable()
    assert not any(tmp_path.iterdir())


def test_texts_are_read_up_to_a_length_and_a_depth():
    nested = lambda n: "predictor_corrector(" * n + "ddim" + ")" * n
    padded = lambda n: f"vp({' ' * (n - 4)})"
    assert isinstance(parse(nested(20), Sampler), Sampler)
    assert "expected at most 20 deep" in refusal(nested(21), Sampler)
    assert parse(padded(10_000), jd.Process) == jd.VP()
    assert "10001 characters; expected at most 10000" in refusal(padded(10_001), jd.Process)


def test_what_is_no_text_is_a_type_error():
    for text in (None, 3, jd.VP(), b"vp"):
        with pytest.raises(TypeError, match=r"process = .*; expected text"):
            parse(text, jd.Process, "process")


def test_strings_are_read_back_whatever_they_hold():
    for path in (
        "a b",
        "it's",
        'say "a"',
        "back\\slash",
        "new\nline",
        "\udc80 no unicode",
        "naïve/ファイル",
        "({[",
        "",
    ):
        data = Data(jd.data.ImageFolder, {"folder": path, "size": 8})
        assert parse(write(data, Data), Data) == data


# Every public name, and every row of the tests' tables


def of_class(kind):
    """What is a class of `kind`, or a function that returns one."""

    def of(one):
        found = one if isinstance(one, type) else inspect.signature(one).return_annotation if callable(one) else None
        return isinstance(found, type) and issubclass(found, kind)

    return of


def arguments(one):
    """The names of the arguments that make it, of what is called."""
    called = one.__init__ if isinstance(one, type) else one
    return {*inspect.signature(called).parameters} if callable(called) else set()


ROOMS = {  # where the public names of a kind are, which of them are of it, and its table in the tests
    jd.Process: (jd.processes, of_class(jd.Process), tables.PROCESSES | tables.CATEGORIES),
    Schedule: (jd.schedules, of_class(Schedule), tables.SCHEDULES),
    Sampler: (
        jd.samplers,
        of_class(Sampler),
        {name: row.sampler for name, row in tables.SAMPLERS.items()} | tables.TOKEN_SAMPLERS,
    ),
    Trace: (jd.likelihood, of_class(Trace), tables.TRACES),
    jd.grids.Grid: (jd.grids, of_class(jd.grids.Grid), tables.GRIDS),
    Loss: (jd.losses, dataclasses.is_dataclass, {name: row.loss for name, row in tables.LOSSES.items()}),
    Weighting: (W, dataclasses.is_dataclass, tables.WEIGHTINGS),
    Times: (jd.losses.times, dataclasses.is_dataclass, tables.TIMES),
    Coupling: (jd.losses.couplings, dataclasses.is_dataclass, tables.COUPLINGS),
    Guidance: (jd.guidance, of_class(jd.denoisers.Wrapper), tables.GUIDANCE | tables.TOKEN_GUIDANCE),
    Waves: (jd.networks.embeddings, lambda one: dataclasses.is_dataclass(one) and "waves" in arguments(one), None),
    Network: (jd.networks, lambda one: {"event", "channels_in", "ends"} & arguments(one), None),
    Data: (jd.data, lambda one: {"split"} & arguments(one) or {"key", "n"} <= arguments(one), None),
}
ABSTRACT = {jd.Process, jd.Gaussian, jd.Discrete, Schedule, Sampler, Trace, jd.grids.Grid, jd.denoisers.Wrapper}
NO_ROW = {
    "Product": "tests/processes/test_product.py: its data are a tree",
    "Each": "tests/samplers/test_each.py: its data are a tree",
    "Classification": "tests/losses/test_classification.py: it trains classifiers",
    "Subsets": "tests/networks/test_joint.py: its times are a tree",
    "AnyOrder": "tests/losses/test_bound.py: its data are masks",
    "Sum": "tests/losses/test_bound.py: its terms are rows",
}


def public(kind):
    """{name: what it is} of the public names of a kind."""
    room, of, _ = ROOMS[kind]
    names = getattr(room, "__all__", [name for name in vars(room) if not name.startswith("_")])
    found = {name: getattr(room, name) for name in names if not name.startswith("check_")}
    return {name: one for name, one in found.items() if of(one) and one not in ABSTRACT}


def test_every_public_name_of_a_kind_is_a_word_or_says_why_not():
    missing = set()
    for kind in ROOMS:
        assert public(kind), kind
        makers = [*WORDS.tables[kind].makers.values()]
        missing |= {name for name, one in public(kind).items() if one not in makers}
    assert missing == UNREACHABLE.keys()


def test_every_public_name_of_a_kind_has_a_row_in_the_tests_tables_or_says_why_not():
    missing = set()
    for kind, (*_, rows) in ROOMS.items():
        if rows is not None:
            missing |= public(kind).keys() - {name.partition(" ")[0] for name in rows}
    assert missing == NO_ROW.keys()


TABLE = [(kind, name) for kind, (*_, rows) in ROOMS.items() for name in rows or ()]


@pytest.mark.parametrize(("kind", "name"), TABLE, ids=lambda part: getattr(part, "__name__", part))
def test_every_row_of_the_tests_tables_is_written_and_read_back(kind, name):
    value = ROOMS[kind][2][name]
    if name.partition(" ")[0] in UNREACHABLE or name.endswith("under a null"):  # a value of cond, of any form
        with pytest.raises(TypeError, match="cannot be written"):
            write(value, kind)
    else:
        assert parse(write(value, kind), kind) == value


# The command line


@dataclasses.dataclass(frozen=True)
class Settings:
    process: jd.Process = jd.VP()
    """How data becomes noise."""
    loss: Loss = jd.losses.Denoising(W.MinSNR(3.0))
    sampler: Sampler = DPMSolverPP(order=3)
    network: Network | None = None
    guidance: tuple[Guidance, ...] = ()
    scale: float | Interval = 1.0
    steps: int = 3


REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def of_words(info):
    found = vocabulary.primitive(info.type)
    return found and tyro.constructors.PrimitiveConstructorSpec(**found)


def settings(*arguments) -> Any:
    return tyro.cli(Settings, args=arguments, registry=REGISTRY)


def test_the_command_line_takes_words():
    assert settings() == Settings()
    arguments = ["--process", "edm(sigma_max=160)", "--guidance", "classifier_free(3)", "dynamic_threshold"]
    arguments += ["--network", "unet((32,))", "--scale", "interval(2)", "--steps", "4", "--sampler", "heun(churn=40)"]
    found = settings(*arguments)
    guides = Guidance(jd.guidance.ClassifierFree, {"scale": 3.0}), Guidance(jd.guidance.DynamicThreshold)
    network = Network(UNet, {"channels": (32,)})
    expected = Settings(jd.EDM(sigma_max=160.0), Settings.loss, Heun(40.0), network, guides, Interval(2.0), 4)
    assert found == expected
    assert settings("--scale", "2").scale == 2.0
    assert settings("--network", "None").network is None


def test_the_command_lines_help_shows_the_kind_and_the_default_as_text(capsys):
    with pytest.raises(SystemExit, match="0"):
        settings("--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--process PROCESS How data becomes noise. (default: vp)" in shown
    assert "--loss LOSS (default: 'denoising(weighting=min_snr(gamma=3))')" in shown
    assert "--sampler SAMPLER (default: 'dpm_solver(order=3)')" in shown
    assert "--network NETWORK" in shown


def test_the_command_lines_errors_are_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        settings("--process", "edn")
    assert str(caught.value.code).startswith(
        "jaxdiff: process = 'edn': there is no edn (did you mean edm?); expected a"
    )
    assert capsys.readouterr() == ("", "")
