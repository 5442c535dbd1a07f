"""A real browser without a screen."""

from __future__ import annotations

import shutil
import subprocess
import tempfile

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip

needs_chromium = pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium here")


def chromium(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page, with no way to any other machine, and does what ``options`` say: take a picture, print the DOM."""
    assert _CHROMIUM is not None, "the test is skipped"
    with tempfile.TemporaryDirectory() as profile:
        command = [_CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *options, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    return done
