"""Several sources never share a folder."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewscope.jobs import map_changes, segment_raster, segment_wsi
from fewscope.jobs.folders import RESERVED, folder_names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["x/a.svs", "y/b.svs"], ["a", "b"]),
        (["x/a.svs", "y/a.svs"], ["a-1", "a-2"]),
        (["x/a.svs", "y/a.svs", "z/a-2.svs"], ["a-1", "a-3", "a-2"]),
        (["z/a-2.svs", "x/a.svs", "y/a.svs"], ["a-2", "a-3", "a-4"]),
        (["x/a.svs", "x/a.tif"], ["a-1", "a-2"]),  # one name, two endings
        (["x/A.svs", "y/a.svs"], ["A-1", "a-2"]),  # one name on a disk of Windows or macOS
        (["changes.html.tif", "b.tif"], ["changes.html-1", "b"]),
        (["s3://bucket/x/a.tif?v=1/b", "https://host/y/a.tif"], ["a-1", "a-2"]),
        (["..", "b.svs"], ["source", "b"]),
    ],
)
def test_names(sources, names):
    assert folder_names(sources) == names
    assert folder_names(sources) == names  # a second time, to resume


@given(st.lists(st.sampled_from(["a", "A", "a-1", "a-2", "a-3", "a-2-2", "\u00e9", "e\u0301", ".fewscope"])))
def test_no_two_are_one_on_any_disk_and_none_is_a_file_of_the_job(stems):
    names = folder_names([f"{i}/{stem}.svs" for i, stem in enumerate(stems)])
    keys = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assert len(keys) == len(stems)
    assert not keys & RESERVED


def test_a_name_of_ones_own_is_kept_in_any_order():
    for order in itertools.permutations(["x/a.svs", "y/a.svs", "z/b.svs", "z/a-2.svs"]):
        named = dict(zip(order, folder_names(order), strict=True))
        assert (named["z/b.svs"], named["z/a-2.svs"]) == ("b", "a-2")


@pytest.mark.parametrize("job", [segment_wsi, segment_raster, map_changes])
def test_each_job_gives_each_source_a_folder(job, tmp_path):
    words = ["x/a.tif", "y/a.tif", "z/a-2.tif", "--support", "s", "--out", str(tmp_path)]
    configs = (segment_raster if job is map_changes else job).configs(job.parse(words))
    assert [config.out for config in configs] == [str(tmp_path / name) for name in ("a-1", "a-3", "a-2")]
