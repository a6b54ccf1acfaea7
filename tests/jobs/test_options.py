"""Command lines of all jobs: light, grouped in one order, with examples that parse, and old names that still work."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

import pytest

from fewscope.jobs import convert, evaluate, map_changes, segment_raster, segment_wsi, train
from fewscope.jobs.options import GROUPS, JobParser
from tests.helpers.machine import ROOT

ALL = (segment_wsi, segment_raster, map_changes, train, evaluate, convert)
JOBS = {job.__name__.rpartition(".")[2]: job for job in ALL}
HEAVY = {"torch", "numpy", "ray", "rasterio", "scipy", "pyarrow", "zarr", "dask", "sklearn", "PIL"}
RENAMED = [
    ("segment_wsi", "s.svs --support s --out o", "--max-unread=0.2", "max_unreadable", 0.2),
    ("segment_raster", "s.tif --support s --out o", "--max-unread 0.3", "max_unreadable", 0.3),
    ("map_changes", "a.tif b.tif --support s --out o", "--max-unread 0.3", "max_unreadable", 0.3),
    ("evaluate", "--data d --out o", "--rivals otsu forest", "baselines", ["otsu", "forest"]),
    ("evaluate", "--data d --out o", "--way 5", "n_way", 5),
    ("train", "--synthetic-only --out o", "--examine-every 100", "validate_every", 100),
    ("convert", "voc d --out o", "--most 7", "max_pairs", 7),
]


def options_of(name: str) -> list[argparse.Action]:
    return [action for action in JOBS[name].parser()._actions if action.option_strings]


@pytest.mark.parametrize("name", JOBS)
def test_help_imports_nothing_heavy(name):
    """What takes seconds to import is imported once the command line is known to be right."""
    code = (
        f"import runpy, sys; sys.argv = ['jobs/{name}.py', '--help']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('\\n' + ' '.join({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    text, _, modules = done.stdout.rpartition("\n\n")
    assert text.startswith(f"usage: python jobs/{name}.py ")
    assert "argparse" in modules.split()
    assert not HEAVY & set(modules.split())


@pytest.mark.parametrize("name", JOBS)
def test_every_option_is_in_one_of_the_groups_in_their_order(name):
    parser = JOBS[name].parser()
    shown = re.findall(r"^([a-z]+):$", parser.format_help(), re.MULTILINE)
    assert shown == [group for group in GROUPS if group in shown]
    assert {"input", "output", "execution"} <= set(shown)
    grouped = {action.dest for group in parser.group.values() for action in group._group_actions}
    assert grouped == {action.dest for action in parser._actions}
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("name", JOBS)
def test_examples_in_the_help_parse(name):
    job = JOBS[name]
    prog = "fewscope something"
    shown = re.findall(rf"^ +{prog} (.*)$", job.parser(prog).format_help(), re.MULTILINE)
    shown = [line for line in shown if "[options]" not in line]
    assert shown
    for line in shown:
        assert job.parse(line.replace("'", "").split()).out


@pytest.mark.parametrize(("name", "rest", "old", "dest", "value"), RENAMED)
def test_an_old_name_works_and_warns_on_stderr(name, rest, old, dest, value, capsys):
    args = JOBS[name].parse([*rest.split(), *old.split()])
    assert getattr(args, dest) == value
    said = capsys.readouterr()
    assert said.out == ""
    option = re.split("[ =]", old)[0]
    assert (
        said.err == f"warning: {option} is now {JOBS[name].parser().renamed[option]}; "
        "the old name goes in the next release\n"
    )
    assert option not in {word for action in options_of(name) for word in action.option_strings}


def test_every_renamed_option_leads_to_one_that_exists():
    for name in JOBS:
        existing = {word for action in options_of(name) for word in action.option_strings}
        renamed = JOBS[name].parser().renamed
        assert set(renamed.values()) <= existing
        assert not set(renamed) & existing


def test_what_follows_two_dashes_is_not_an_option():
    parser = JobParser("x", renamed={"--old": "--new"})
    parser.group["input"].add_argument("names", nargs="*")
    parser.group["input"].add_argument("--new")
    assert parser.parse_args(["--", "--old"]).names == ["--old"]


def test_both_segmenting_jobs_show_the_same_choices_of_instances():
    choices = [
        action.choices
        for name in ("segment_wsi", "segment_raster", "map_changes")
        for action in options_of(name)
        if action.dest == "instances"
    ]
    assert choices == [("auto", "components", "split", "learned")] * 3


@pytest.mark.parametrize(
    "words",
    [
        "coco annotations.json --out o",
        "coco annotations.json --images i --fold 1 --out o",
        "voc d --fold 4 --out o",
    ],
)
def test_convert_refuses_options_of_the_other_format(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        convert.parse(words.split())
    assert "error: " in capsys.readouterr().err
