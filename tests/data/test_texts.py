"""Texts: every token of a split once, there and back, words, and what is refused."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.data import Symbols, text
from jaxdiff.vocabulary import WORDS, Data

RNG = np.random.default_rng(0)
LONG = "".join(RNG.choice(list("abcdefgh  "), 41 * 4096 + 777))
CYCLE = {9: "validation", 19: "test"}
SPLITS = ("train", "validation", "test")


def file(folder, content, name="text.txt"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def blocks_of(split):
    """The split's parts, block by block."""
    blocks = [LONG[i : i + 4096] for i in range(0, len(LONG), 4096)]
    return [block for b, block in enumerate(blocks) if split in (None, CYCLE.get(b % 20, "train"))]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return file(tmp_path_factory.mktemp("text"), LONG + "\n")


@pytest.mark.parametrize("split", [*SPLITS, None])
@pytest.mark.parametrize("length", [128, 100, 5000])
def test_every_character_of_a_split_counts_once_in_its_order(long, split, length):
    found = text(long, length, split)
    assert found.tokens.shape == found.weight.shape == (len(found), length)
    counted = "".join(found.decode(found.tokens[found.weight][None]))
    assert counted == "".join(blocks_of(split))
    assert found.categories == 27
    if length == 128 and split in ("validation", "test"):
        assert list(found.examples) == ["x"]
    if length == 100:
        assert list(found.examples) == ["x", "weight"]


def test_what_is_given_in_a_window_is_the_text_before_it(long):
    for split in SPLITS:
        for window in (found := text(long, 100, split)).decode(found.tokens):
            assert window in LONG


@pytest.mark.parametrize("split", [*SPLITS, None])
def test_words_are_counted_where_they_begin(long, split):
    found = text(long, 100, split)
    parts = blocks_of(split) if split in ("validation", "test") else None
    if split is None:
        assert found.words.sum() == len(LONG.split())
    if parts:
        begun = sum(len(block.split()) for block in parts)
        # a block that begins in the middle of a word holds the rest of it, and not its beginning
        starts = [i for i in range(0, len(LONG), 4096) if LONG[i : i + 4096] in parts]
        assert found.words.sum() == begun - sum(not (LONG[i - 1].isspace() or LONG[i].isspace()) for i in starts)


def test_a_line_is_ended_and_filled_up_and_comes_back(tmp_path):
    names = text(file(tmp_path, "ann\r\njo\n\nbob smith\n"), 12, cut="lines")
    a, b, end, padding = 0, 1, 27, 28
    assert names.tokens[0].tolist() == [a, 13, 13, end] + [padding] * 8
    assert names.decode(names.tokens) == ["ann", "jo", "bob smith"]
    assert names.weight.sum(1).tolist() == [4, 3, 10]
    assert names.words.tolist() == [1, 1, 2]
    assert list(names.examples) == ["x"]
    mask = names.categories
    assert names.encode(["b_b", "b_"]).tolist() == [[b, mask, b, end] + [padding] * 8, [b] + [mask] * 11]
    assert names.decode(names.encode(["b_b", "b_"])) == ["b_b", "b" + "_" * 11]
    np.testing.assert_array_equal(names.encode(names.decode(names.tokens)), names.tokens)


def test_lines_are_in_the_split_of_the_block_where_they_begin(tmp_path):
    lines = ["".join(RNG.choice(list("abc"), RNG.integers(1, 30))) for _ in range(6000)]
    whole = "\n".join(lines)
    path, begins = file(tmp_path, whole), np.cumsum([0] + [len(line) + 1 for line in lines])
    for split in SPLITS:
        expected = [line for line, at in zip(lines, begins) if CYCLE.get(int(at) // 4096 % 20, "train") == split]
        found = text(path, 32, split, cut="lines")
        assert found.decode(found.tokens) == expected


def test_an_alphabet_of_one_s_own_is_the_categories_in_its_order(tmp_path):
    found = text(file(tmp_path, "Ab\n_é"), 5, alphabet="é_\nAb")
    assert found.tokens.tolist() == [[3, 4, 2, 1, 0]]
    assert found.symbols.blank == "□"
    assert found.decode(found.encode("A□□")) == "A□□□□"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A tokenizer of pairs of bytes, with truncation, padding and a template that are not to be used."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([LONG[:20_000]], trainer)
    made.enable_truncation(3)
    made.enable_padding(length=7)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def test_the_ids_of_a_tokenizer_are_the_categories(long, pieces):
    for split in SPLITS:
        found = text(long, 64, split, tokenizer=pieces)
        assert found.categories == 300
        assert found.decode(found.tokens[found.weight]).removesuffix("\n") == "".join(blocks_of(split))
    characters = text(long, 64, split)
    assert found.words.sum() == characters.words.sum()
    assert found.decode(found.encode("bad é □□ face"))[: len("bad é □□ face")] == "bad é □□ face"
    lines = text(file(pieces.parent, "bad cage\nface é\n"), 16, tokenizer=pieces, cut="lines")
    assert lines.categories == 302
    assert lines.decode(lines.tokens) == ["bad cage", "face é"]
    assert lines.words.tolist() == [2, 2]


def test_a_word_is_counted_once_where_several_tokens_are_one_character(pieces, tmp_path):
    content = "été à Zürich, 東京 \U0001f600\U0001f600 na\u00efve\u00a0" * 7
    path = file(tmp_path, content)
    for length in (1, 5, 100):
        found = text(path, length, tokenizer=pieces)
        assert found.words.sum() == len(content.split())
    assert found.weight.sum() > len(content)
    assert found.decode(found.tokens[found.weight]) == content


def test_symbols_are_json(pieces):
    for symbols in (Symbols(), Symbols("ab", ended=True), Symbols("", pieces.read_text(), True)):
        assert Symbols(**json.loads(json.dumps(dataclasses.asdict(symbols)))) == symbols


REFUSED = [
    ("ann\nJo x\nQ", {"cut": "lines"}, r"has 'J' in line 2, column 1, .*alphabet=' JQanox'"),
    ("ann jo", {"length": 7}, "length = 7, but .* has 6 characters up to the end"),
    ("ann jo", {"split": "test"}, "has 6 characters, too few for a split 'test'"),
    ("ann\njohannes", {"cut": "lines", "length": 8}, "line 2 has 8 characters, 'johannes'; expected at most 7.*of 9"),
    ("ann\n", {"cut": "lines", "split": "validation"}, "none in its split 'validation'"),
    ("\n \n", {"alphabet": "\n "}, "is empty; expected a text"),
    (b"\xff\xfe", {}, "is not UTF-8"),
    ("ann", {"alphabet": "an", "tokenizer": "x.json"}, "expected one of them"),
]


@pytest.mark.parametrize(("content", "arguments", "words"), REFUSED)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, content, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        text(file(tmp_path, content), **{"length": 3} | arguments)
    assert "\n" not in str(caught.value)


def test_the_alphabet_of_the_message_can_be_pasted_into_a_shell(tmp_path):
    strange = "a'\"`$HOME!\\n\n\té東\U0001f600"
    with pytest.raises(ValueError, match="or give its own, alphabet=") as caught:
        text(file(tmp_path, strange), 3)
    alphabet = str(caught.value).rpartition("alphabet=")[2]
    command = f"printf %s \"text('x.txt', length=3, alphabet={alphabet})\""
    pasted = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert WORDS.parse(pasted, Data).values["alphabet"] == "".join(sorted(set(strange)))


def test_a_tokenizer_that_does_not_exist_is_named_as_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gpt2 does not exist; expected the tokenizer.json of a Hugging Face"):
        text(file(tmp_path, "ann jo"), 3, tokenizer="gpt2")


def test_texts_and_tokens_that_do_not_fit_are_refused():
    lines = Symbols("ab", ended=True)
    with pytest.raises(ValueError, match="text 1 has 4 characters, its end included; expected at most 3"):
        lines.encode(["a", "aba"], 3)
    with pytest.raises(ValueError, match=r"text 0 has 'c' in line 1, column 2"):
        lines.encode("ac", 3)
    with pytest.raises(TypeError, match="texts = 3"):
        lines.encode(3, 3)
    with pytest.raises(ValueError, match="tokens has 5; expected 0 to 4, the last of which is the mask"):
        lines.decode(np.array([5]))
    with pytest.raises(ValueError, match="tokens = array of float64"):
        lines.decode(np.zeros((2, 2)))
    with pytest.raises(FileNotFoundError, match="nowhere.txt does not exist"):
        text("nowhere.txt", 3)


def test_batches_are_made_of_them(long):
    found = text(long, 100, "validation")
    batch = jd.data.batches(found.examples, 8, 0)[3]
    assert batch["x"].shape == batch["weight"].shape == (8, 100)


def test_a_training_text_without_a_test_split_is_named(tmp_path, caplog):
    path = tmp_path / "short.txt"
    path.write_text("anna " * 1000)
    text(path, 8)
    assert not caplog.records
    text(path, 8, "train")
    assert "short.txt has 5,000 characters and no split 'test'" in caplog.text
    assert "jaxdiff likelihood RUN --data \"text('other.txt', length=8, ...)\"" in caplog.text
