"""The programs in the documentation run as they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import simplejpeg

from mmtrain.data.shards.write import write_shards

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- tested as written -->\n```python\n"


def programs(page: str) -> list[str]:
    return [part.partition("```")[0] for part in (DOCS / page).read_text().split(MARK)[1:]]


def python(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_batches_from_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(71):
        picture = simplejpeg.encode_jpeg(rng.integers(0, 256, (40, 48, 3), np.uint8))
        samples.append((f"{number:03d}", {"jpg": picture, "txt": f"picture {number}".encode()}))
    for number, path in enumerate(write_shards(samples, tmp_path / "pairs", "shard", 30)):
        path.rename(path.with_name(f"{number:06d}.tar"))
    check = "assert batch['image'].shape == (16, 3, 32, 32) and len(batch['caption']) == 16 and state['epoch'] == 1"
    done = python(programs("data.md")[0] + check, tmp_path)
    assert done.returncode == 0, done.stderr


def test_packed_rows_from_texts(tmp_path: Path) -> None:
    lines = [f'{{"text": "{"word " * (1 + number % 40)}"}}' for number in range(300)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    pack = "data pack text corpus.jsonl --tokenizer bytes --out corpus"
    command = [sys.executable, "-m", "mmtrain", *pack.split()]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    done = python(programs("data.md")[1] + "assert batch['tokens'].shape == (8, 128)", tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_file_that_the_documentation_names_exists() -> None:
    root = DOCS.parent
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"`((?:benchmarks|mmtrain|tests|conf|slurm)/[\w/.]+)`", page.read_text()):
            assert (root / name).exists(), f"{page.name} names {name}"
