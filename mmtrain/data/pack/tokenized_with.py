"""What packed documents were tokenised with, compared with a run's tokenizer."""

from __future__ import annotations

import json
import warnings
from typing import Any

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.open import fetch_beside
from mmtrain.data.prepare import MARKER
from mmtrain.data.shards.manifest import Manifest
from mmtrain.errors import DataError


def require_tokenizer(manifest: Manifest, tokenizer: TextTokenizer) -> None:
    """Refuses documents that another tokenizer made; warns where nothing says which one did.

    Args:
        manifest: The documents, as `pack_text` writes them, with ``dataset.json`` beside.
        tokenizer: The run's.

    Raises:
        DataError: They were tokenised with another one, or ``dataset.json`` is damaged.
    """
    where = str(manifest.path.with_name(MARKER))
    made_with = _read(manifest)
    if made_with is None:
        warnings.warn(f"nothing says what the documents were tokenised with: there is no {where}", stacklevel=2)
        return
    own = tokenizer.identity
    differing = [
        f"{what} {made_with.get(name)}, not {mine}"
        for what, name, mine in (("vocabulary of", "vocab_size", own.vocab_size), ("sha256", "sha256", own.sha256))
        if made_with.get(name) != mine
    ]
    if differing:
        name = f"the tokenizer {made_with.get('name')!r} ({'; '.join(differing)})"
        mend = "set data.tokenizer.source to that one, or pack the texts again: python -m mmtrain data pack text"
        reason = f"the documents were tokenised with {name}, and this run's is {tokenizer.source!r}"
        raise DataError(reason, where=where, mend=mend)


def _read(manifest: Manifest) -> dict[str, Any] | None:
    """The tokenizer that ``dataset.json`` beside a manifest tells of; None where there is none."""
    try:
        path = fetch_beside(manifest, MARKER)
        content = json.loads(path.read_bytes())
        made_with: dict[str, Any] = content["tokenizer"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        where = str(manifest.path.with_name(MARKER))
        raise DataError("it does not tell the tokenizer", where=where, mend="pack the texts again") from None
    return made_with
