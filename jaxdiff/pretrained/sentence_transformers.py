"""A text encoder trained by others and saved by sentence-transformers, with fixed weights: text in, conditions out."""

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

BATCH = 256  # texts per evaluation of the encoder
_UNREAD = ("pooler.", "embeddings.position_ids")  # weights that do not affect the tokens


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """A text encoder with fixed weights, whose tokens are the condition of a denoiser.

    `from_sentence_transformers` makes it.

    Args:
        network: the encoder.
        params: its weights.
        tokenizer: a tokenizer of the library tokenizers.
        length: the largest number of tokens in a text, including the two at its ends.

    Examples:
        >>> import jaxdiff as jd
        >>> encoder = jd.pretrained.from_sentence_transformers("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> cond = encoder(["a red cat", "a house"], length=16)  # doctest: +SKIP
        >>> cond["tokens"].shape, cond["token_mask"].shape  # doctest: +SKIP
        ((2, 16, 384), (2, 16))
        >>> null = {name: part[0] for name, part in encoder([""], length=16).items()}  # doctest: +SKIP
    """

    network: Bert
    params: dict
    tokenizer: Any
    length: int

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self.network.hidden_size

    def ids(self, texts: Sequence[str], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of tokens, int32, and their mask, each `[n, length]`.

        Args:
            texts: a list of texts.
            length: the number of columns; None is the number of tokens in the longest text.

        Raises:
            TypeError: if `texts` is not a list of strings.
            ValueError: if there is no text, or one has more tokens than `length`.
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
        """The parts "tokens" `[n, length, width]`, 0 after the end of a text, and "token_mask" `[n, length]`, bool.

        Arguments and errors are those of `ids`.
        """
        ids, mask = self.ids(texts, length)
        parts = [slice(start, start + BATCH) for start in range(0, len(ids), BATCH)]
        tokens = np.concatenate([_encoded(self.network, self.params, ids[part], mask[part]) for part in parts])
        return {"tokens": np.where(mask[..., None], tokens, np.float32(0)), "token_mask": mask}

    def sentences(self, texts: Sequence[str]) -> np.ndarray:
        """One vector of length 1 for each text, `[n, width]`: the normalised mean of its tokens."""
        tokens, mask = self(texts).values()
        mean = tokens.sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@jax.jit(static_argnums=0)
def _encoded(network: Bert, params, ids, mask) -> jax.Array:
    return network(params, ids, mask)


def from_sentence_transformers(folder: str | os.PathLike) -> SentenceEncoder:
    """The text encoder in a folder written by sentence-transformers: a `BertModel` with mean pooling.

    Weights are read from model.safetensors and stored in float32, and the tokenizer from tokenizer.json, by the library
    tokenizers (`pip install 'jaxdiff[text]'`).

    Args:
        folder: the folder.

    Returns:
        The encoder.

    Raises:
        ImportError: if tokenizers is not installed.
        ValueError: if the folder does not exist; if the model, its activation, positions or pooling are not supported;
            if weights are missing, damaged, of other shapes, or not finite.

    Source:
        Reimers and Gurevych 2019, "Sentence-BERT: sentence embeddings using Siamese BERT-networks".

    Examples:
        >>> import jaxdiff as jd
        >>> encoder = jd.pretrained.from_sentence_transformers("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> encoder.sentences(["a red cat", "a house"]).shape  # doctest: +SKIP
        (2, 384)
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
            f"{folder}/tokenizer.json has {tokenizer.get_vocab_size()} words, the weights {network.vocab_size}; do "
            "both belong to one model?"
        )
    return SentenceEncoder(network, params, tokenizer, min(length, network.max_position_embeddings))


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ValueError(
            f"{folder} has no {name}; expected a folder that sentence-transformers saved, with safetensors"
        )
    return folder / name


def _check_pooling(folder: Path) -> None:
    """Raise if a sentence is something other than the mean of its tokens."""
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
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
