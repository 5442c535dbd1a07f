"""The programs in the documentation run as they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from stored_runs import CLIP, write_run
from tiny_run import Program

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.packed_text import PackedText
from mmtrain.data.shards.write import write_shards

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- tested as written -->\n```python\n"
SHELL_MARK = "<!-- tested as written -->\n```bash\n"


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


def test_a_tokenizer_is_trained_and_texts_are_packed_with_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, first in (("corpus", 0), ("held_out", 300)):
        lines = [f'{{"text": "word {number} of many words"}}' for number in range(first, first + 200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    commands = (DOCS / "data.md").read_text().split(SHELL_MARK)[1].partition("```")[0].splitlines()
    for command in commands:
        python_m, _, arguments = command.partition(" mmtrain ")
        done = program(*arguments.split(), *(["--workers", 1] if "pack" in arguments else []))
        assert (python_m, done.status) == ("python -m", 0), done.err
    data = PackedText(root="data/mine", sequence_length=32, global_batch_size=8, num_workers=0)
    data.prepare()
    assert next(iter(data.train_loader(0, 1)))["tokens"].shape == (8, 33)
    assert len(data.eval_loaders(0, 1)["val"].loader) > 0


@pytest.mark.slow
def test_an_export_is_used(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "clip", CLIP, tokenizer=TextTokenizer("clip"))
    Image.new("RGB", (40, 50), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    commands = (DOCS / "export.md").read_text().split(SHELL_MARK)[1].partition("```")[0].splitlines()
    assert [program(*command.split()[3:]).status for command in commands] == [0, 0, 0]
    for text in programs("export.md"):
        done = python(text, tmp_path)
        assert done.returncode == 0, done.stderr


def test_every_file_that_the_documentation_names_exists() -> None:
    root = DOCS.parent
    for page in [root / "README.md", root / "CONTRIBUTING.md", *DOCS.glob("*.md"), *root.glob("examples/*/README.md")]:
        folders = "benchmarks|mmtrain|tests|conf|slurm|examples|notebooks|docs"
        for name in re.findall(rf"`((?:{folders})/[\w/.]+)`", page.read_text()):
            if not re.search(r"NAME|/X/|/\.\.\.", name):
                assert (root / name).exists(), f"{page.name} names {name}"


def shown_code(page: Path) -> list[tuple[str, str]]:
    """Blocks of code that a page shows of a file: ``<!-- of FILE -->`` stands above them."""
    found = re.findall(r"^<!-- of (\S+) -->\n```\w*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == page.read_text().count("<!-- of "), "a mark without its block"
    return found


def test_the_code_that_is_shown_is_that_of_the_files() -> None:
    shown = [(page.name, *block) for page in DOCS.glob("*.md") for block in shown_code(page)]
    assert len(shown) >= 7
    for page, name, code in shown:
        text = (DOCS.parent / name).read_text()
        assert code in text, f"{page} shows other code than {name} has"
