"""What MkDocs asks while it builds the site: two generated pages, and links that lead out of ``docs/``."""

from __future__ import annotations

import re
from typing import Any

from commands import commands_page
from groups import groups_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

GENERATED = {"commands.md": commands_page, "groups.md": groups_page}
OUTSIDE = re.compile(r"\]\(\.\./(?!\.)([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: Any) -> str:
    """Links to files of the repository lead to where it is published; in an editor they are plain paths."""
    return OUTSIDE.sub(rf"]({config.repo_url.rstrip('/')}/blob/main/\1)", markdown)
