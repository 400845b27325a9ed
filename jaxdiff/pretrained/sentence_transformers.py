"""A text encoder that others have trained, as sentence-transformers saved it, frozen: text in, conditions out."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_instance, check_path, check_whole, read_json, require, said
from jaxdiff.networks.bert import Bert
from jaxdiff.pretrained.weights import check_shapes, read_weights

BATCH = 256  # texts that are encoded at once
_UNREAD = ("pooler.", "embeddings.position_ids")  # weights that tokens do not depend on


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """Text as the condition of a denoiser, by an encoder whose weights stay as they are.

        encoder = jd.pretrained.from_sentence_transformers("all-MiniLM-L6-v2")
        cond = encoder(["a red cat", "a house"], length=16)         # {"tokens": [2, 16, 384], "token_mask": [2, 16]}
        null = {name: part[0] for name, part in encoder([""], length=16).items()}

    network, params: the encoder. tokenizer: that of the library tokenizers. length: the most tokens of a text, the two
    at its ends among them.
    """

    network: Bert
    params: dict
    tokenizer: Any
    length: int

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.network.hidden_size

    def ids(self, texts: Sequence[str], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 and their mask, each [n, length]; as long as the longest text unless given.

        Raises TypeError for what is no list of texts, ValueError for one of more tokens than `length`.
        """
        check_instance("texts", texts, (list, tuple), 'a list of texts, such as ["a red cat"]')
        for text in texts:
            check_instance("a text", text, str, "a string")
        if not texts:
            raise ValueError("texts is empty; expected one text or more")
        most = self.length if length is None else check_whole("length", length, most=self.length)
        found = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        counts = np.array([len(ids) for ids in found])
        if counts.max() > most:
            long = said(texts[int(counts.argmax())])
            raise ValueError(f"{long:.80} has {counts.max()} tokens; expected at most {most}: shorten it")
        mask = np.arange(counts.max() if length is None else length) < counts[:, None]
        ids = np.zeros(mask.shape, np.int32)
        ids[mask] = np.concatenate(found)
        return ids, mask

    def __call__(self, texts: Sequence[str], length: int | None = None) -> dict[str, np.ndarray]:
        """The parts "tokens" [n, length, width], 0 where the text has ended, and "token_mask" [n, length].

        The arguments, and what is raised, are those of `ids`.
        """
        ids, mask = self.ids(texts, length)
        parts = [slice(start, start + BATCH) for start in range(0, len(ids), BATCH)]
        tokens = np.concatenate([_encoded(self.network, self.params, ids[part], mask[part]) for part in parts])
        return {"tokens": np.where(mask[..., None], tokens, np.float32(0)), "token_mask": mask}

    def sentences(self, texts: Sequence[str]) -> np.ndarray:
        """One vector of length 1 for each text, [n, width]: the mean of its tokens, normalised."""
        tokens, mask = self(texts).values()
        mean = tokens.sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@jax.jit(static_argnums=0)
def _encoded(network: Bert, params, ids, mask) -> jax.Array:
    return network(params, ids, mask)


def from_sentence_transformers(folder: str | os.PathLike) -> SentenceEncoder:
    """The encoder of a folder that sentence-transformers saved: a `BertModel` whose sentences are means of tokens.

    Weights are read from model.safetensors and kept in float32, words from tokenizer.json, by the library tokenizers
    (`pip install 'jaxdiff[text]'`).

    Raises ValueError for a folder that is none, another kind of model, activation, positions or pooling, weights that
    are missing, damaged, of other shapes or not finite; ImportError without tokenizers.
    """
    folder = check_path("folder", folder)
    config = read_json(_file(folder, "config.json"))
    expected = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{folder}/config.json: {name} = {said(config[name])}; expected {said(value)}")
    names = {field.name for field in dataclasses.fields(Bert)}
    try:
        network = Bert(**{name: value for name, value in config.items() if name in names})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}/config.json: {error}") from None
    _check_pooling(folder)
    length = read_json(_file(folder, "sentence_bert_config.json")).get("max_seq_length")
    length = network.max_position_embeddings if length is None else check_whole("max_seq_length", length)
    weights = _file(folder, "model.safetensors")
    found = {name: array for name, array in read_weights(weights).items() if not name.startswith(_UNREAD)}
    check_shapes(weights, {name: array.shape for name, array in found.items()}, network.shapes)
    params = {name: jnp.asarray(array, jnp.float32) for name, array in found.items()}
    tokenizer = _tokenizer(_file(folder, "tokenizer.json"))
    if tokenizer.get_vocab_size() > network.vocab_size:
        raise ValueError(
            f"{folder}/tokenizer.json has {tokenizer.get_vocab_size()} words, the weights {network.vocab_size}; are "
            "both of one model?"
        )
    return SentenceEncoder(network, params, tokenizer, min(length, network.max_position_embeddings))


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ValueError(
            f"{folder} has no {name}; expected a folder that sentence-transformers saved, with safetensors"
        )
    return folder / name


def _check_pooling(folder: Path) -> None:
    """Raise where a sentence is something else than the mean of its tokens."""
    pooling = read_json(_file(folder, "1_Pooling/config.json"))
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if modes != ["pooling_mode_mean_tokens"]:
        given = ", ".join(modes) or "no mode"
        raise ValueError(f"{folder}/1_Pooling/config.json has {given}; expected pooling_mode_mean_tokens alone")


def _tokenizer(path: Path) -> Any:
    require("tokenizers")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library's own, of no narrower class
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
