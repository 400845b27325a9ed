"""The experiments' paths on data that is not there: TFDS's mock data, and images made up."""

import dataclasses
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import within
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.data import builders, images
from jaxdiff.networks import MLP, initialize
from jaxdiff.training import make_mesh


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    return importlib.import_module


@pytest.mark.slow
def test_cifar10(experiment, tmp_path, monkeypatch):
    cifar10 = experiment("cifar10")
    monkeypatch.setattr(builders.Cifar10, "SPLITS", dict.fromkeys(("train", "validation", "test"), range(8)))
    monkeypatch.setattr(images, "_read", lambda builder, split: list(builder.as_data_source(split)))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", tmp_path)
    tiny = dataclasses.replace(cifar10.CONFIG, network="mlp((8,))", steps=3, batch_size=4)
    with tfds.testing.mock_data(num_examples=8):
        summary = cifar10.run(tiny, tmp_path / "run", limit=2, budget=0, flow=within(0.1))
    assert summary["examples"] == 2
    assert 1.0 < summary["bits_per_dim"] < 20.0
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"samples.png", "denoising.png", "training.png"}


@pytest.mark.slow
def test_imagenet64(experiment, tmp_path, monkeypatch):
    """On archives of the published layout with 22 images."""
    module = experiment("imagenet64")
    splits = {"train": range(0, 16), "validation": range(16, 18), "test": range(18, 22)}
    monkeypatch.setattr(builders.ImageNet64, "SPLITS", splits)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", tmp_path / "data")
    rng = np.random.default_rng(0)
    for i in range(11):
        n = 4 if i == 10 else 2 - (i in (8, 9))
        name = f"train_data_batch_{i + 1}.npz" if i < 10 else "val_data.npz"
        np.savez(
            tmp_path / name, data=rng.integers(0, 256, (n, 12288)).astype(np.uint8), labels=rng.integers(1, 1001, n)
        )
    tiny = {"network": "unet((4, 8), 1)", "steps": 3, "batch_size": 4}
    config = dataclasses.replace(module.CONFIG, data=f"imagenet64({str(tmp_path)!r})", **tiny)
    summary = module.run(config, tmp_path / "run", limit=2, budget=0, flow=within(0.1))
    assert summary["examples"] == 2
    assert 1.0 < summary["bits_per_dim"] < 20.0
    run = runs.load(tmp_path / "run")
    assert run.config == config
    assert {leaf.dtype for leaf in jax.tree.leaves(run.denoiser.params)} == {np.dtype("float32")}


def stripes(n, seed):
    """Images whose class is how many rows are bright."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, n).astype(np.int32)
    bright = np.arange(28)[None] < 2 * label[:, None] + 3
    image = 50 + 150 * bright[..., None, None] + rng.integers(0, 50, (n, 28, 28, 1))
    return jd.data.Images(image.astype(np.uint8), label, 256, 10)


@pytest.mark.slow
def test_the_classifier_learns_and_is_trained_once(experiment, tmp_path, monkeypatch):
    small, load = experiment("classifier"), experiment("fashion_mnist_classifier").load
    monkeypatch.setattr(jd.data, "load_fashion_mnist", lambda split: stripes(320, 0))
    monkeypatch.setattr(small, "BATCH", 32)
    classifier, held_out = load(tmp_path), stripes(100, 1)
    assert small.accuracy(classifier, held_out) > 0.5
    monkeypatch.setattr(small, "train", None)
    features, logits = load(tmp_path)(held_out.image, batch_size=64)
    assert features.shape == (100, small.FEATURES)
    np.testing.assert_allclose(logits, classifier(held_out.image)[1], rtol=1e-4, atol=1e-4)


def test_the_fid_and_its_floor_are_against_the_test_images(experiment):
    pixels = lambda images: (images[:, 0, :3, 0].astype(np.float32), None)
    train, test = stripes(300, 0).image, stripes(200, 1).image
    distances = experiment("fashion_mnist").distances
    assert [found.value for found in distances(pixels, test, test, test)] == pytest.approx([0, 0], abs=1e-6)
    shifted, floor = distances(pixels, train[:150] + np.uint8(1), train, test)
    assert shifted != floor
    assert distances(pixels, train[:150], train, test)[1] == floor


def sent_by_rings(values, devices):
    """What each of `devices` sends while a vector of `values` is summed in a ring, by doing it: bytes of float32."""
    rng = np.random.default_rng(0)
    held = rng.standard_normal((devices, devices, values // devices))
    whole, sent = held.sum(0), 0
    for turn in range(2 * (devices - 1)):  # pieces are added up on their way round once, and handed on another time
        passed = [(device - turn) % devices for device in range(devices)]
        pieces = [held[device, piece].copy() for device, piece in enumerate(passed)]
        sent += 4 * pieces[0].size
        for device, piece in enumerate(passed):
            after = (device + 1) % devices
            held[after, piece] = pieces[device] + (held[after, piece] if turn < devices - 1 else 0)
    np.testing.assert_allclose(held, np.broadcast_to(whole, held.shape))
    return sent


def test_scaling_predicts_what_rings_send(experiment):
    scaling = experiment("scaling")
    machine = scaling.Machine("one byte a second, four to a node", 1.0, 4, near=1.0, far=1.0)
    size = scaling.Size("", 96, 1.0, 16)
    assert scaling.communication(size, machine, 1) == 0
    assert scaling.communication(size, machine, 4) == sent_by_rings(96, 4)
    assert scaling.communication(size, machine, 12) == sent_by_rings(96, 4) + sent_by_rings(96 // 4, 3)


@pytest.mark.parametrize(
    ("depth", "width", "parameters", "products"),  # Peebles and Xie 2023, table 4: millions, and 1e9 multiply-adds
    [(12, 384, 33, 6.06), (12, 768, 130, 23.01), (24, 1024, 458, 80.71), (28, 1152, 675, 118.64)],
)
def test_scaling_counts_the_published_transformers(experiment, depth, width, parameters, products):
    size = experiment("scaling").dit("", depth, width)
    assert round(size.parameters / 1e6) == parameters
    assert size.forward == pytest.approx(2e9 * products, rel=1e-3)


def test_scaling_reads_what_a_program_moves(experiment):
    program = """
%body.1 (p: (f32[8])) -> (f32[8]) {
  %sum = (f32[3,2]{1,0}, bf16[]) all-reduce(%a, %b), to_apply=%add
}

ENTRY %main.2 (p: f32[8]) -> f32[8] {
  %gather.start = (f32[2]{0}, f32[8]{0}) all-gather-start(%p)
  %gather = f32[8]{0} all-gather-done(%gather.start)
  %piece = f32[4]{0} reduce-scatter(%gather)
}
"""
    assert experiment("scaling").moved(program) == {
        "all-reduce in the loop": [1, 26],
        "all-gather": [1, 32],
        "reduce-scatter": [1, 16],
    }


def test_scaling_measures_what_it_predicts(experiment, capsys):
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, (8,), rngs=rngs))
    denoiser = jd.Denoiser(network, params, jd.VP())
    mesh = make_mesh(devices=jax.devices()[:1])
    assert experiment("scaling").measure(denoiser, [{"x": np.zeros((4, 2), np.float32)}], [mesh]) == [True]
    assert "(1, 1)" in capsys.readouterr().out


def test_glyphs_names_the_packages_where_there_are_no_typefaces(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match="0 families of typefaces.*apt-get install fonts-dejavu"):
        experiment("glyphs").faces([tmp_path])


def test_glyphs_counts_what_its_judge_reads(experiment):
    """Of four pictures the judge is sure of two, and right about two; one pixel differs within the first label."""
    probability = np.array([[0.95, 0.05], [0.85, 0.15], [0.8, 0.2], [0.02, 0.98]])
    images = np.zeros((4, 2, 2, 1), np.uint8)
    images[0, 0, 0] = 255
    found = experiment("glyphs").reading(lambda images: (None, np.log(probability)), images, np.array([0, 0, 1, 1]))
    assert found == pytest.approx({"legible": 0.5, "right": 0.75, "spread": (0.25 + 0) / 2})


@pytest.fixture
def typefaces(experiment):
    try:
        return experiment("glyphs").faces()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_capitals_are_as_high_in_every_typeface(experiment, typefaces):
    """0.58 of 32 pixels, to a pixel for antialiasing and one for overshoot."""
    glyphs = experiment("glyphs")
    for paths in typefaces.values():
        rows = np.flatnonzero(np.asarray(glyphs.draw(paths[0], "H", 32)).max(1) > 127)
        assert (rows[-1] - rows[0] + 1) / 4 == pytest.approx(0.58 * 32, abs=1.5), paths[0]


@pytest.mark.slow
def test_glyphs(experiment, typefaces, tmp_path, monkeypatch, capsys):
    glyphs, small = experiment("glyphs"), experiment("classifier")
    config = runs.Config(data=None, condition=("label",), network="mlp((8,))", steps=2, batch_size=8)
    monkeypatch.setitem(glyphs.SETTINGS, "cpu", glyphs.Setting(8, config, samples=186, steps=2))
    few = {family: paths[:1] for family, paths in list(typefaces.items())[:6]}
    monkeypatch.setattr(glyphs, "faces", lambda: few)
    monkeypatch.setattr(glyphs, "DRAWINGS", 1)
    monkeypatch.setattr(small, "BATCH", 62)
    monkeypatch.chdir(tmp_path)
    glyphs.main()
    printed = capsys.readouterr().out
    assert "3 typefaces for the model, 3 for the judge; 186 samples of each kind" in printed
    assert all(kind in printed for kind in ("real", "unconditional", "conditional", "guided, scale 2"))
    assert (tmp_path / "runs/glyphs_cpu/glyphs.png").stat().st_size > 1000


def test_digits_conditional_scores_the_digits_themselves(experiment):
    """Under their own labels they are right and no way from themselves; under the next one's none is."""
    module, digits = experiment("digits_conditional"), jd.data.load_digits("train")
    real = module.pixels(digits.image)
    svm = module.SVC().fit(real, digits.label)
    right, spread, distance = module.scores(svm, real, digits.image, digits.label)
    assert right > 0.99
    by_hand = [np.sum((real[digits.label == k] - real[digits.label == k].mean(0)) ** 2) for k in range(10)]
    counts = np.bincount(digits.label)
    assert spread == pytest.approx(np.mean(np.array(by_hand) / counts), rel=1e-6)
    assert distance.value == pytest.approx(0, abs=1e-6)
    assert module.scores(svm, real, digits.image, (digits.label + 1) % 10)[0] < 0.01


@pytest.mark.slow
def test_digits_conditional(experiment, tmp_path, monkeypatch):
    module = experiment("digits_conditional")
    config = dataclasses.replace(module.SETTINGS["cpu"].config, network="unet((4, 8), 1)", steps=2)
    tiny = module.Setting(config, (4, 8), 2, samples=70, steps=2, told=2)
    monkeypatch.setitem(module.SETTINGS, "cpu", tiny)
    monkeypatch.setattr(module, "SCALES", (0.0, 3.0))
    found = module.main("cpu", tmp_path)
    assert {name for name, _ in found} == {"noisy classifier", "clean classifier", "classifier-free"}
    assert np.isfinite([(right, spread, *distance) for right, spread, distance in found.values()]).all()
    assert (tmp_path / "guidance.png").is_file()


@pytest.mark.slow
def test_joint_digits(experiment, tmp_path, monkeypatch):
    """A bound of an untrained model is far above what it knows of a label, log2 10 bits."""
    module = experiment("joint_digits")
    tiny = module.Setting(16, 1, steps=2, batch_size=8, samples=20, sampler_steps=2, draws=2, scored=10)
    monkeypatch.setitem(module.SETTINGS, "cpu", tiny)
    found = module.main("cpu", tmp_path)
    assert found["bits of a label given its image"][0] == pytest.approx(np.log2(10), abs=0.1)
    assert all(np.isfinite(value) for value, _ in found.values())
    assert found["bits, together"][0] > 64
    assert (tmp_path / "label.png").is_file()


def test_sound_says_where_espeak_is_missing(experiment, monkeypatch):
    sound = experiment("sound")
    monkeypatch.setattr(sound.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        sound.voices()


def test_a_tone_is_seen_in_its_band_and_heard_again(experiment):
    sound = experiment("sound")
    tone = np.sin(2 * np.pi * 1000 * np.arange(sound.RATE) / sound.RATE)
    image = sound.spectrogram(tone)
    centre = np.linspace(*(2595 * np.log10(1 + np.array([80, 8000]) / 700)), sound.MELS + 2)[1:-1]
    nearest = np.abs(centre - 2595 * np.log10(1 + 1000 / 700)).argmin()
    assert (image[..., 0].argmax(1) == nearest).all()
    again = sound.heard(image)
    loudest = np.abs(np.fft.rfft(again)).argmax() * sound.RATE / len(again)
    half = 700 / 2595 * np.log(10) * (1 + 1000 / 700) * (centre[1] - centre[0])  # from a band's middle to its end, Hz
    assert loudest == pytest.approx(1000, abs=half)


@pytest.mark.slow
def test_sound(experiment, tmp_path, monkeypatch, capsys):
    sound, small = experiment("sound"), experiment("classifier")
    if sound.shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is missing; apt-get install espeak-ng")
    tiny = sound.Setting(1, {"channels": (4,), "blocks": 1}, 2, 4, 1e-3, 0.5, samples=30, sampler_steps=2)
    monkeypatch.setitem(sound.SETTINGS, "cpu", tiny)
    monkeypatch.setattr(sound, "voices", lambda: (["m1"], ["f1"]))
    monkeypatch.setattr(small, "FEATURES", 8)
    monkeypatch.setattr(small, "BATCH", 25)
    monkeypatch.chdir(tmp_path)
    sound.main()
    assert "1 voices for the model, 1 for the judge, 5 accents each, 50 words" in capsys.readouterr().out
    assert (tmp_path / "runs/sound_cpu/sound.png").stat().st_size > 1000
    with sound.wave.open(str(tmp_path / "runs/sound_cpu/sound.wav")) as file:
        assert file.getnframes() == 10 * (sound.FRAMES - 1) * sound.HOP


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_the_transformer_costs_what_the_unet_costs(experiment, setting):
    """A forward pass, as XLA counts the program before it is optimised."""
    arguments = np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.float32)
    cost = {}
    for name, (make, _) in experiment("dit").SETTINGS[setting].networks.items():
        network, params = initialize(jax.random.key(0), make)
        cost[name] = jax.jit(network).lower(params, *arguments).cost_analysis()["flops"]
    assert cost["DiT"] == pytest.approx(cost["U-Net"], rel=0.05)


@pytest.mark.slow
def test_dit(experiment, tmp_path, monkeypatch, capsys):
    """What an MLP multiplies: 784 by 512, whose input needs no gradient, 512 by 784, and for the noise level 32 by 512
    and twice 512 by 512."""
    dit, small = experiment("dit"), experiment("classifier")
    monkeypatch.setattr(jd.data, "load_fashion_mnist", lambda split: stripes(320, 0))
    monkeypatch.setattr(small, "BATCH", 320)
    make = lambda rngs: MLP((28, 28, 1), (512,), rngs=rngs)
    tiny = dit.Setting({"MLP": (make, 1e-3)}, 2, 64, ema_decay=0.5, samples=150, sampler_steps=2, scored=20)
    monkeypatch.setitem(dit.SETTINGS, "cpu", tiny)
    monkeypatch.chdir(tmp_path)
    dit.main()
    printed = capsys.readouterr().out.split()
    products = 512 * ((4 + 6) * 784 + 2 * 6 * 512 + 4 * 32)
    assert float(printed[printed.index("MFLOP") - 1]) == pytest.approx(products / 1e6, rel=0.15)
    assert (tmp_path / "runs/dit_cpu/dit.png").stat().st_size > 1000


def test_the_densities_of_a_table_integrate_to_one_and_a_mixtures_condition_is_its_share(experiment):
    tabular = experiment("tabular")
    rows = tabular.made(300)
    y = np.linspace(-6, 6, 2001)
    along = np.column_stack([np.full_like(y, 1.0), np.full_like(y, 1.2), y])
    normal = lambda densities: np.trapezoid(np.exp(densities(along)[1]), y)
    fits = [tabular.mixture_of(rows.train, 2, 3), tabular.kernels_of(rows.train, 2, 0.2), tabular.true_log_densities]
    fits.append(tabular.in_units(fits[0], rows))
    np.testing.assert_allclose([normal(densities) for densities in fits], 1, atol=1e-6)


@pytest.mark.slow
def test_tabular(experiment, tmp_path, monkeypatch, capsys):
    tabular = experiment("tabular")
    tiny = {"network": "mlp((8,))", "steps": 5, "batch_size": 64}
    monkeypatch.setattr(tabular, "FOLDER", tmp_path)
    monkeypatch.setattr(tabular, "SETTINGS", {"cpu": {"made": tiny, "digits": tiny}})
    monkeypatch.setattr(tabular, "COMPONENTS", (1, 2))
    tabular.main("cpu", 500)
    assert capsys.readouterr().out.count("diffusion") == 2
    assert {path.name for path in tmp_path.glob("*.png")} == {"conditional.png", "pairs.png"}


def test_quality_halves_the_digits(experiment):
    one, other = experiment("quality").halves()
    assert (len(one), len(other)) == (899, 898)
    every = np.concatenate([jd.data.load_digits(split).image for split in ("train", "validation", "test")])
    for half in (one, other):
        assert abs(int(half.image.sum()) / len(half) / (every.sum() / len(every)) - 1) < 0.02
    both = np.concatenate([one.image, other.image]).reshape(1797, -1)
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(every.reshape(1797, -1), axis=0))


@pytest.mark.slow
def test_quality_measures_every_metric_and_draws_its_picture(experiment, tmp_path, monkeypatch):
    quality = experiment("quality")
    monkeypatch.setattr(quality, "CONFIG", dataclasses.replace(quality.CONFIG, network="mlp((8,))", steps=5))
    monkeypatch.setattr(quality, "NUMBERS", (12, 20))
    monkeypatch.setattr(quality, "STEPS", (1, 2))
    found = quality.main("pixels", tmp_path)
    assert found["numbers"].keys() == {12, 20}
    assert found["steps"][2][0] == found["numbers"][20][0]
    assert found["numbers"][20][0]["frechet_distance"].value > found["numbers"][20][1]["frechet_distance"].value
    assert (tmp_path / "quality_pixels.png").stat().st_size > 1000


def test_the_posterior_of_a_mixture_is_bayes_rule(experiment):
    """log p(x_0) + log p(y | x_0) - log p(x_0 | y) is log p(y), whatever x_0."""
    module, rng = experiment("inverse_problems"), np.random.default_rng(0)
    prior = module.ten_gaussians(jd.data.load_digits("train"))
    matrix, x = rng.standard_normal((5, 64)) / 8, module.draws(rng, prior, 20).reshape(20, 64)
    y = matrix @ x[0] + module.NOISE_STD * rng.standard_normal(5)
    weights, means, covariances = module.posterior(prior, matrix, y)
    log_density = lambda weights, means, covariances: logsumexp(
        [np.log(w) + multivariate_normal(m, c).logpdf(x) for w, m, c in zip(weights, means, covariances)], axis=0
    )
    likelihood = norm(x @ matrix.T, module.NOISE_STD).logpdf(y).sum(1)
    evidence = log_density(*prior) + likelihood - log_density(weights + 1e-300, means, covariances)
    np.testing.assert_allclose(evidence, evidence[0], atol=1e-5)


@pytest.mark.slow
def test_inverse_problems_scores_every_method(experiment, tmp_path, monkeypatch, capsys):
    module = experiment("inverse_problems")
    monkeypatch.setattr(module, "STEPS", 3)
    found = module.main(samples=3, shown=10, steps=2, folder=tmp_path)
    assert {way for _, way in found["exact"]} == {"(floor)", "exact", "DAPS", "RePaint", *module.ROWS}
    assert np.isfinite(
        [value for half in ("exact", "trained") for row in found[half].values() for value in row.values()]
    ).all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ""}


@pytest.mark.slow
def test_samplers_of_categories_are_near_their_laws(experiment, tmp_path, monkeypatch):
    """One mask a step is as near as the law's own draws; all at once is not."""
    module = experiment("discrete_samplers")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "MASKS", {"Unmask": module.MASKS["Unmask, random"]})
    monkeypatch.setattr(module, "UNIFORM", {"Ancestral": module.UNIFORM["Ancestral"]})
    module.main((1, 5), (1, 32))
    assert (tmp_path / "samplers.png").stat().st_size > 1000
    law = module.of_table(jd.Absorbing(module.K))
    once, each = module.curves(module.MASKS, (1, module.TOKENS), *law)["Unmask"][1]
    assert each < 1.5 * module.floor(*law) < once


def test_counts_of_n_grams_and_of_neighbours_are_those_of_their_definition(experiment):
    """Of a few characters and of a small map, by dictionaries."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 60)
    train, test = np.arange(60) < 45, np.arange(60) >= 45
    found = experiment("text").n_grams(codes, train, test, range(1, 4), symbols=3)

    def witten_bell(history, symbol, seen):
        if history is None:
            return 1 / 3
        follows = [c for h, c in seen if h[len(h) - len(history) :] == history]
        shorter = witten_bell(history[1:] if history else None, symbol, seen)
        kinds = len(set(follows))
        return (follows.count(symbol) + kinds * shorter) / (len(follows) + kinds) if follows else shorter

    sequence = tuple(codes.tolist())
    seen = [(sequence[i - 2 : i], sequence[i]) for i in range(2, 45)]
    for order, bits in zip(range(1, 4), found):
        of = [-np.log2(witten_bell(sequence[i - order + 1 : i], sequence[i], seen)) for i in range(45, 60)]
        np.testing.assert_allclose(bits, np.mean(of), rtol=1e-12)
    maps = experiment("maps")
    around = dict(zip(maps.NEIGHBOURS, maps.neighbours(np.arange(12).reshape(1, 3, 4), 99)))
    assert [int(around[name][0, 1, 1]) for name in maps.NEIGHBOURS] == [4, 1, 0, 2, 99, 99]
    assert [int(around[name][0, 2, 3]) for name in maps.NEIGHBOURS] == [10, 7, 6, 99, 9, 3]
    alike = rng.integers(0, 2, (50, 4, 4))
    assert 0.9 < maps.counted(alike, rng.integers(0, 2, (200, 4, 4)), 2) < 1.3
    assert maps.counted(np.zeros((9, 4, 4), int), np.zeros((2, 4, 4), int), 2) < 0.02


@pytest.mark.slow
def test_text(experiment, tmp_path, monkeypatch, capsys):
    """On characters drawn at random."""
    text = experiment("text")
    (tmp_path / "kjv.txt").write_text("".join(np.random.default_rng(0).choice(list("abcdefgh "), 20 * 4096)))
    tiny = {"length": 64, "network": "transformer(8, 1, 2, noise=False)", "steps": 2, "batch_size": 8}
    monkeypatch.setattr(text, "SETTINGS", {"cpu": tiny})
    monkeypatch.setattr(text, "INFILL", {"kjv": "ab__"})
    text.main(folder=tmp_path)
    printed = capsys.readouterr().out
    assert "by the chain rule" in printed
    assert "\n    ab__\n    ab" in printed


@pytest.mark.slow
def test_maps(experiment, tmp_path, monkeypatch, capsys):
    """On clothes of noise."""
    maps = experiment("maps")
    rng = np.random.default_rng(0)
    clothes = jd.data.Images(rng.integers(0, 99, (40, 8, 8, 1), np.uint8), np.arange(40, dtype=np.int32) % 10, 256, 10)
    monkeypatch.setattr("jaxdiff.data.category_maps.load_fashion_mnist", lambda *given: clothes)
    monkeypatch.setattr(maps, "SETTINGS", {"cpu": {"network": "mlp((8,))", "steps": 2, "batch_size": 8}})
    maps.main(folder=tmp_path)
    assert "by multinomial, at most" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "fashion_absorbing_cpu").glob("*.png")} >= {"samples.png", "real.png"}
