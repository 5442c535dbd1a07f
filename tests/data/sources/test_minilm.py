from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.sources.minilm import FILES, minilm_folder


def test_the_folder_is_one_that_transformers_loads() -> None:
    folder = minilm_folder()
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)
    text = "The quick brown fox, unbelievably."
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"][1:-1] == TextTokenizer("minilm").encode(text)


def test_it_is_unpacked_once() -> None:
    folder: Path = minilm_folder()
    before = os.stat(folder / "model.safetensors").st_mtime_ns
    assert minilm_folder() == folder
    assert os.stat(folder / "model.safetensors").st_mtime_ns == before
