"""Folders of tiny language models, like those downloaded from a model hub."""

from pathlib import Path
from typing import Any

from pipeline.data.files import write_json
from pipeline.decoders.shared.keywords import CLOTHING, GROUPS, PEOPLE
from pipeline.decoders.shared.tokenizers import byte_level_bpe

END = "<|endoftext|>"
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "hidden_size": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
    },
    "llama-untied": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    },
}  # fmt: skip


def tiny_config(family: str, vocabulary: int, **changed: Any) -> dict[str, Any]:
    none = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    return {**FAMILIES[family], "vocab_size": vocabulary, **none, **changed}


def tiny_lm(
    folder: Path, family: str, texts: list[str], entries: int = 300, **changed: Any
) -> Path:
    """Write config.json and a tokenizer.json into a folder. The tokenizer is a byte-level BPE whose
    end token has the id 0."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = byte_level_bpe(texts, entries, END)
    inner.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", tiny_config(family, inner.get_vocab_size(), **changed))
    return folder


def tiny_bank(vocabulary: int) -> dict[str, Any]:
    """Return a keyword bank for `blind` with twelve labels. The token ids of its keywords are
    spread over the ids from 4 up."""
    labels = [f"label{n}" for n in range(12)]
    details = {
        f"{topic}: {group}": labels[2:7] for topic, groups in GROUPS.items() for group in groups
    }
    answers = {
        **GROUPS,
        "people": PEOPLE,
        "clothing": CLOTHING,
        "occupation": labels[:2],
        **details,
    }
    keywords = list(
        dict.fromkeys([*labels, *(k for question in answers.values() for k in question)])
    )
    place = {k: n for n, k in enumerate(keywords)}
    ids = [[4 + n % (vocabulary - 4)] * (1 + n % 2) for n in range(len(keywords))]
    return {
        "keywords": keywords, "labels": len(labels), "answers": {q: [place[k] for k in ks] for q, ks in answers.items()},
        "ids": ids, "comma": [4], "separator": [5, 6],
    }  # fmt: skip
