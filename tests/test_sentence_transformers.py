"""The frozen text encoder beside PyTorch's layers, which are BERT's, at random weights."""

import json

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks.bert import Bert

CONFIG = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
NETWORK = Bert(**{name: value for name, value in CONFIG.items() if name != "model_type"})
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cat", "house", "##s"]
PARTS = ("query", "key", "value")
MEAN = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in NETWORK.shapes.items()}


@pytest.fixture
def folder(tmp_path, weights):
    tokenizers = pytest.importorskip("tokenizers")
    from safetensors.numpy import save_file

    unread = {"embeddings.position_ids": np.arange(9)[None], "pooler.dense.weight": np.zeros((8, 8), np.float32)}
    save_file(weights | unread, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(MEAN))
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def by_torch(torch, weights, ids, mask):
    """Embeddings as the paper adds them, and `torch.nn.TransformerEncoderLayer`s with the norms after."""
    w = {name: torch.tensor(array) for name, array in weights.items()}
    table = lambda name: w[f"embeddings.{name}_embeddings.weight"]
    x = table("word")[ids] + table("position")[: ids.shape[1]] + table("token_type")[0]
    scale, shift = (w[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias"))
    x = torch.nn.functional.layer_norm(x, (8,), scale, shift, 1e-12)
    for i in range(2):
        layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", 1e-12, batch_first=True).eval()
        of = lambda name, i=i: w[f"encoder.layer.{i}.{name}"]
        state = {
            f"self_attn.in_proj_{kind}": torch.cat(
                [of(f"attention.self.{p}.{kind}") for p in ("query", "key", "value")]
            )
            for kind in ("weight", "bias")
        }
        names = {
            "self_attn.out_proj": "attention.output.dense",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm1": "attention.output.LayerNorm",
            "norm2": "output.LayerNorm",
        }
        state |= {f"{a}.{kind}": of(f"{b}.{kind}") for a, b in names.items() for kind in ("weight", "bias")}
        layer.load_state_dict(state)
        with torch.no_grad():
            x = layer(x, src_key_padding_mask=~torch.tensor(mask))
    return x.numpy()


def test_tokens_are_those_of_torchs_layers(weights):
    torch = pytest.importorskip("torch")
    ids = np.array([[2, 4, 5, 3, 0], [2, 6, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    expected = by_torch(torch, weights, ids, mask)
    np.testing.assert_allclose(NETWORK(weights, ids, mask)[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_texts_become_conditions_and_a_longer_padding_changes_nothing(folder, weights):
    encoder = jd.pretrained.from_sentence_transformers(folder)
    ids, mask = encoder.ids(["a red cat", "Houses"])
    np.testing.assert_array_equal(ids, [[2, 4, 5, 6, 3], [2, 7, 8, 3, 0]])
    np.testing.assert_array_equal(mask, ids > 0)
    cond, longer = encoder(["a red cat", "Houses"]), encoder(["a red cat", "Houses"], length=6)
    assert not cond["tokens"][~mask].any()
    np.testing.assert_array_equal(cond["token_mask"], mask)
    np.testing.assert_allclose(cond["tokens"][mask], NETWORK(weights, ids, mask)[mask], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(longer["tokens"][:, :5], cond["tokens"], rtol=1e-4, atol=1e-5)
    assert longer["tokens"].shape == (2, 6, 8)
    assert not longer["token_mask"][:, 5].any()
    sentence = encoder.sentences(["Houses"])[0]
    mean = cond["tokens"][1, :4].mean(0)
    np.testing.assert_allclose(sentence, mean / np.sqrt((mean**2).sum()), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_or_encoded_is_refused(folder):
    encoder = jd.pretrained.from_sentence_transformers(folder)
    for texts, error, message in [
        ("a cat", TypeError, "texts = 'a cat'; expected a list of texts"),
        (["a", 3], TypeError, "a text = 3; expected a string"),
        ([], ValueError, "texts is empty"),
        (["a red cat cat cat"], ValueError, "a red cat cat cat.* has 7 tokens; expected at most 6"),
    ]:
        with pytest.raises(error, match=message):
            encoder(texts)
    with pytest.raises(ValueError, match="length = 7"):
        encoder(["a"], length=7)

    def refused(name, content, message):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(ValueError, match=message):
            jd.pretrained.from_sentence_transformers(folder)
        (folder / name).write_bytes(before)

    refused("config.json", CONFIG | {"model_type": "roberta"}, "model_type = 'roberta'; expected 'bert'")
    refused("config.json", CONFIG | {"hidden_act": "swish"}, "config.json: hidden_act = 'swish'")
    refused("config.json", CONFIG | {"num_attention_heads": 3}, "3 heads do not divide the width 8")
    refused("config.json", CONFIG | {"hidden_size": 16}, r"has shape \(8,\); expected \(16,\)")
    refused("config.json", CONFIG | {"num_hidden_layers": 3}, "has no weight 'encoder.layer.2")
    refused("config.json", CONFIG | {"num_hidden_layers": 1}, "16 weights that its config does not have")
    refused("config.json", {k: v for k, v in CONFIG.items() if k != "vocab_size"}, "config.json: .*vocab_size")
    refused("1_Pooling/config.json", MEAN | {"pooling_mode_cls_token": True}, "expected pooling_mode_mean_tokens")
    refused("model.safetensors", (folder / "model.safetensors").read_bytes()[:900], "damaged or cut short")
    refused("tokenizer.json", {}, "tokenizer.json is no tokenizer")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model.safetensors; expected a folder that sentence-transformers"):
        jd.pretrained.from_sentence_transformers(folder)


@pytest.mark.slow
def test_a_frozen_text_goes_through_a_network_that_reads_tokens(folder):
    encoder = jd.pretrained.from_sentence_transformers(folder)
    make = lambda rngs: jd.networks.DiT(1, patch=2, width=8, depth=1, heads=2, tokens=encoder.width, rngs=rngs)
    network, params = jd.networks.initialize(jax.random.key(0), make)
    denoiser = jd.Denoiser(network, params, jd.VP())
    null = {name: part[0] for name, part in encoder([""], length=5).items()}
    guided = jd.guidance.ClassifierFree(denoiser, 2.0, null=null)
    x = jd.sample(jax.random.key(1), guided, (2, 4, 4, 1), steps=2, cond=encoder(["a cat", "houses"], length=5))
    assert np.isfinite(x).all()
