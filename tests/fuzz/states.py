"""What runs leave, damaged, and then resumed."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.documents import odd_json
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged
from tests.fuzz.workplace import Options, workplace
from tests.helpers import fakes

STATE_SIDE, STATE_UNIT = 256, 128


@functools.cache
def state() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of a folder whose units are done; and what the finished run must hold, in bytes."""
    import fewscope.pipeline.run

    folder = workplace() / "state"
    number = fewscope.pipeline.run.number_instances
    fewscope.pipeline.run.number_instances = _stop
    try:
        _segment(folder / "out")
    except KeyboardInterrupt:
        pass
    finally:
        fewscope.pipeline.run.number_instances = number
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    _segment(folder / "out")
    return files, fakes.outputs(folder / "out")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _segment(out: Path) -> None:
    import fewscope.pipeline.report.builder
    from fewscope.pipeline.config import SegmentConfig
    from fewscope.pipeline.execution.pool import LocalPool
    from fewscope.pipeline.run import segment

    draw, fewscope.pipeline.report.builder.draw = fewscope.pipeline.report.builder.draw, fakes.no_pictures
    try:
        slide, support = _state_inputs()
        config = SegmentConfig(
            slide, support, str(out), shard=STATE_UNIT, threshold=0.5, instances="components"
        )
        with LocalPool(fakes.ByColour) as pool:
            segment(config, pool, fakes.ByColour())
    finally:
        fewscope.pipeline.report.builder.draw = draw


@functools.cache
def _state_inputs() -> tuple[str, str]:
    slide = fakes.write_slide(workplace() / "state-slide.tif", fakes.picture(STATE_SIDE, STATE_SIDE))
    return slide, fakes.write_support(workplace() / "state-support")


@st.composite
def states(draw: st.DrawFn) -> Case:
    """One to three files of an interrupted run damaged, emptied, lost, or exchanged with another of its kind."""
    files = dict(state()[0])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        match draw(st.sampled_from(("damage", "damage", "damage", "lose", "empty", "swap", "json"))):
            case "damage":
                files[name] = draw(damaged(files[name]))
            case "lose":
                del files[name]
            case "empty":
                files[name] = b""
            case "swap":
                other = draw(st.sampled_from([one for one in sorted(files) if one[-4:] == name[-4:]]))
                files[name], files[other] = files[other], files[name]
            case "json" if name.endswith(".json"):
                with contextlib.suppress(ValueError):  # damaged before
                    files[name] = draw(odd_json(json.loads(files[name])))
    return Case(files, "out")


def use_state(path: Path, _options: Options) -> None:
    """The same command again: the same bytes as a run that was never stopped, or one line."""
    _segment(path)
    found, expected = fakes.outputs(path), state()[1]
    different = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    assert not different, f"a silently different result: {', '.join(different[:5])}"
