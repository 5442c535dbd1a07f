from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from mmtrain.data.shards.members import group, key_and_extension
from mmtrain.data.shards.tar import Member
from mmtrain.errors import DataError


@given(st.text("ab./\n_", max_size=12))
@example("dir/.hidden.jpg")
@example("a.b/.hidden.jpg")
@example("a.b\nc/d.e")
@example("a//.x")
@example("/.x")
def test_names_are_cut_as_webdataset_cuts_them(name: str) -> None:
    expected = base_plus_ext(name)
    if not name.startswith("__"):
        assert (key_and_extension(name) or (None, None)) == expected


@pytest.mark.timeout(60)  # milliseconds; a regular expression that backtracks takes hours
def test_a_hostile_name_takes_linear_time() -> None:
    assert key_and_extension("/" * 10**6) is None
    assert key_and_extension("__" + "_" * 10**6 + ".a") is not None
    assert key_and_extension("a." * 10**6 + "/\n") is None


@pytest.mark.parametrize("extension", ["__key__", "__url__", "__bad__"])
def test_names_that_webdataset_keeps_for_itself_are_refused(extension: str) -> None:
    with pytest.raises(DataError, match="reserved") as caught:
        list(group([Member(f"k.{extension}", 512, 1)], Path("a.tar")))
    assert caught.value.where == "a.tar, key k, byte 512"
