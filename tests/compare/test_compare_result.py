"""A comparison goes to JSON and back unchanged."""

import json
import math
from dataclasses import replace

import pytest

from innerloop.compare.result import Comparison
from innerloop.errors import DataError
from innerloop.evaluation.intervals import Estimate
from toolkit.comparisons import synthetic_comparison


@pytest.mark.parametrize(("kind", "images"), [("regression", False), ("classification", True)])
def test_a_comparison_survives_json(kind, images):
    found = synthetic_comparison(kind, images=images)
    again = Comparison.from_json(found.to_json())
    assert again == found
    assert again.methods[0].metrics["loss"].low < again.methods[0].metrics["loss"].high


def test_what_is_undefined_is_null():
    found = synthetic_comparison()
    first = replace(found.methods[0], metrics={"loss": Estimate(1.0, math.nan, math.inf)})
    text = replace(found, methods=(first,)).to_json()
    assert json.loads(text)["methods"][0]["metrics"]["loss"] == [1.0, None, None]
    assert math.isnan(Comparison.from_json(text).methods[0].metrics["loss"].low)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"schema_version": 1}', '{"schema_version": 1, "methods": 3}']
)
def test_other_files_are_refused(text):
    with pytest.raises(DataError, match="comparison"):
        Comparison.from_json(text)


def test_a_newer_version_is_named():
    with pytest.raises(DataError, match="version 99"):
        Comparison.from_json('{"schema_version": 99}')


def test_a_method_is_found_by_name():
    found = synthetic_comparison()
    assert found.method("maml").label == found.label("maml") == "MAML"
    assert found.label("gpt") == "gpt"
    with pytest.raises(DataError, match=r"no method 'gpt'.*maml"):
        found.method("gpt")
