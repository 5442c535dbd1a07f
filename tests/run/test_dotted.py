from __future__ import annotations

from typing import Any

import pytest

from mmtrain.run.dotted import flatten, has, set_value, value_at

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


def test_a_value_is_set_where_its_branches_are_and_where_they_are_not() -> None:
    config: dict[str, Any] = {"a": {"b": 1}}
    set_value(config, "a.c", 2)
    set_value(config, "x.y.z", 3)
    assert config == {"a": {"b": 1, "c": 2}, "x": {"y": {"z": 3}}}
