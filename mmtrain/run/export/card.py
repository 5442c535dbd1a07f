"""The model card of an export: what was trained on what, how, how well, and how to load it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import yaml

from mmtrain.run.data_record import DataRecord
from mmtrain.run.export.agreement import Agreement
from mmtrain.run.stored import StoredRun

_PACKAGES = ("mmtrain", "torch", "lightning", "transformers", "tokenizers")
_RECIPE = ("seed", "budget", "objective", "model", "data", "optim", "trainer")

_CARD = """---
library_name: {library_name}
tags: [mmtrain]
---

# {name}

{architecture}, trained by mmtrain: step {step} of the run `{name}`{averaged}.

## Load it

```python
{usage}
```

{library} loaded this folder and gave the outputs of the trained model on random input; the largest difference was
{difference:.1e}, of outputs up to {largest:.1f}.

## Metrics

{metrics}

## Data

{data}

## Recipe

```yaml
{recipe}```

## Licence

Of the data:

{licence}

The weights bear what licence their makers give them, within what that of the data allows.

## Versions

{versions}
"""


def model_card(
    run: StoredRun,
    data: DataRecord,
    agreement: Agreement,
    *,
    architecture: str,
    library_name: str,
    usage: str,
    averaged: bool,
) -> str:
    """The card, as Markdown with the front matter that hubs read.

    Args:
        run: The run.
        data: What it was trained on.
        agreement: The check of the export.
        architecture: Class of the model.
        library_name: The library that the folder is for.
        usage: Python that loads it.
        averaged: Whether the weights are averaged ones.
    """
    recipe = {key: run.config[key] for key in _RECIPE if key in run.config}
    return _CARD.format(
        library_name=library_name,
        name=run.config["name"],
        architecture=architecture,
        step=run.record.step,
        averaged=", weights averaged over training" if averaged else "",
        usage=usage,
        library=agreement.library,
        difference=agreement.difference,
        largest=agreement.largest,
        metrics=_table(("metric", "value"), {k: f"{v:.4g}" for k, v in run.record.metrics.items()}),
        data=_table(("part", "sha256"), {name: f"`{sha256}`" for name, sha256 in data.fingerprints.items()}),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        licence=data.licence or "Not recorded.",
        versions="\n".join(f"- {name} {version}" for name, version in _versions()),
    )


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    if not rows:
        return "Not recorded."
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
