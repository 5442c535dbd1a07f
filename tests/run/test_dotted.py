from __future__ import annotations

import pytest

from mmtrain.run.dotted import flatten, has, value_at

CONFIG = {"a": {"b": 1, "c": {}}, "d": None}


def test_keys_are_dotted_and_an_empty_mapping_is_a_value() -> None:
    assert flatten(CONFIG) == {"a.b": 1, "a.c": {}, "d": None}


def test_a_key_leads_to_a_value_or_a_branch() -> None:
    assert [value_at(CONFIG, key) for key in ("a.b", "a", "d")] == [1, CONFIG["a"], None]
    assert has(CONFIG, "d")
    for key in ("b", "a.b.c", "d.e"):
        assert not has(CONFIG, key)
        with pytest.raises(KeyError):
            value_at(CONFIG, key)
