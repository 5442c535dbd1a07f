"""Which pictures and tables of runs a page shows: the newest of each kind."""

from __future__ import annotations

from collections.abc import Sequence

from mmtrain.run.report.cases import Case
from mmtrain.run.report.media import Medium, media_of
from mmtrain.run.report.values import in_order


def newest_of(cases: Sequence[Case]) -> list[tuple[Case, Medium]]:
    """The newest picture or table of each key of each run; no table that stands beside its picture.

    Runs of the first seed come first: who looks at some only sees every setting before any of them again.
    """
    found = []
    seeds = in_order(str(case.config.get("seed", "")) for case in cases)
    for case in sorted(cases, key=lambda case: seeds.index(str(case.config.get("seed", "")))):
        newest = {medium.key: medium for medium in media_of(case.path)}
        shown = [m for key, m in newest.items() if m.is_picture or not _has_picture(newest, key)]
        found += [(case, medium) for medium in shown]
    return found


def _has_picture(newest: dict[str, Medium], key: str) -> bool:
    parent = newest.get(key.removesuffix("/table"))
    return key.endswith("/table") and parent is not None and parent.is_picture
