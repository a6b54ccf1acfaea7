"""The preview: what it computes, in which order, what it says meanwhile; with a network that goes by colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from rasterio.windows import Window

from fewscope.annotate.cells import CELL, CellKey, cells_of, nearest_first, ring_around
from fewscope.annotate.preview import Preview
from fewscope.model.kept import Kept
from fewscope.model.segmenter import load_segmenter
from tests.helpers.previews import ArraySource, ColourSettled, Heard, preview_of, support_of

HEIGHT, WIDTH = 1000, 1400
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
ALL = Window(0, 0, WIDTH, HEIGHT)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(IMAGE)


@pytest.fixture
def preview_and_network(source: ArraySource, heard: Heard) -> Iterator[tuple[Preview, ColourSettled]]:
    preview, network = preview_of([source], heard)
    yield preview, network
    network.open.set()
    preview.close()


def test_the_view_is_answered_exactly_and_nothing_else_is_known(preview_and_network, heard) -> None:
    preview, _ = preview_and_network
    preview.look_at(0, Window(100, 50, 800, 700))
    preview.set_support(support_of(n_classes=2), revision=5)
    status = heard.ready(5).status
    assert (status.cells_done, status.cells_total, status.message) == (6, 6, "")
    for c in range(2):
        found, known = preview.probability(0, Window(100, 50, 800, 700), c)
        assert known.all()
        assert np.array_equal(found, IMAGE[50:750, 100:900, c])
    found, known = preview.probability(0, Window(-40, -30, 100, 90), 0)  # beyond the source
    assert known[30:, 40:].all()
    assert not known[:30].any()
    assert not known[:, :40].any()
    assert not found[~known].any()
    assert not preview.probability(0, ALL, 2)[1].any()  # there is no third class


def test_the_last_cells_end_at_the_edge(preview_and_network, heard) -> None:
    preview, _ = preview_and_network
    preview.look_at(0, ALL)
    preview.set_support(support_of(), revision=1)
    heard.ready(1)
    found, known = preview.probability(0, ALL, 0)
    assert known.all()
    assert np.array_equal(found, IMAGE[..., 0])
    boxes = {box for event in heard.events for box in event.boxes}
    assert max(x1 for _, _, x1, _ in boxes) == WIDTH
    assert max(y1 for _, _, _, y1 in boxes) == HEIGHT


def test_a_correction_decodes_again_and_encodes_nothing(preview_and_network, source, heard) -> None:
    preview, network = preview_and_network
    preview.look_at(0, ALL)
    preview.set_support(support_of(1), revision=1)
    heard.ready(1)
    n_maps, n_reads = network.n_maps, source.n_reads
    preview.set_support(support_of(2), revision=2)
    heard.ready(2)
    assert (network.n_maps, source.n_reads) == (n_maps, n_reads)


def test_states_are_honest_and_the_latest_labels_win(preview_and_network, heard) -> None:
    preview, network = preview_and_network
    preview.look_at(0, ALL)
    heard.wait(lambda e: e.status.cells_total == 12)
    assert preview.status(0).state == "empty"
    preview.set_support(support_of(1), revision=1)
    heard.ready(1)
    network.open.clear()
    for n in range(2, 10):  # returns at once, though packs are held back
        preview.set_support(support_of(n), revision=n)
    status = preview.status(0)
    assert (status.state, status.revision, status.cells_done) == ("stale", 1, 0)
    assert preview.probability(0, ALL, 0)[1].all()  # what is known of before stays on the screen
    network.open.set()
    heard.ready(9)
    assert network.packed[0] == 1
    assert network.packed[-1] == 9
    assert len(network.packed) <= 3  # the one that was begun, and the last
    preview.set_support(None, revision=10)
    assert preview.status(0).state == "empty"
    assert not preview.probability(0, ALL, 0)[1].any()


def test_labels_removed_while_they_are_learned_do_not_come_back(preview_and_network, heard) -> None:
    preview, network = preview_and_network
    preview.look_at(0, ALL)
    network.open.clear()
    preview.set_support(support_of(1), revision=1)
    preview.set_support(None, revision=2)
    network.open.set()
    preview.set_support(support_of(2), revision=3)
    heard.ready(3)
    assert all(event.status.revision in (0, 3) for event in heard.events)


def test_cells_under_the_pointer_come_first(source, heard) -> None:
    preview, network = preview_of([source], heard, threads=1)
    try:
        network.open.clear()
        preview.set_support(support_of(), revision=1)
        preview.look_at(0, ALL, pointer=(1300.0, 60.0))
        heard.wait(lambda e: e.status.cells_total == 12)
        network.open.set()
        heard.ready(1)
        boxes = [box for event in heard.events for box in event.boxes]
        assert boxes[0] == (2 * CELL, 0, 3 * CELL, CELL)
        assert boxes[11] == (0, 2 * CELL, CELL, HEIGHT)  # the farthest
    finally:
        preview.close()


def test_paused_it_computes_nothing(preview_and_network, heard) -> None:
    preview, network = preview_and_network
    preview.look_at(0, ALL)
    preview.set_support(support_of(), revision=1)
    heard.ready(1)
    preview.pause()
    preview.set_support(support_of(2), revision=2)
    assert preview.status(0).state == "paused"
    assert network.packed == [1]
    preview.pause(False)
    heard.ready(2)


def test_what_cannot_be_read_is_a_message_and_the_rest_is_answered(heard) -> None:
    source = ArraySource(IMAGE, broken=Window(1300, 700, 4, 4))
    preview, _ = preview_of([source], heard)
    try:
        preview.look_at(0, ALL)
        preview.set_support(support_of(), revision=1)
        status = heard.ready(1).status
        assert status.message == "array.tif: a block cannot be decoded; copy the file again"
        assert status.cells_done == status.cells_total - 1
        _, known = preview.probability(0, ALL, 0)
        assert known[:, : 2 * CELL].all()
        assert not known[700, 1300]
    finally:
        preview.close()


def test_other_modules_can_wait_for_network_and_foreground(preview_and_network) -> None:
    preview, network = preview_and_network
    assert preview.settled(20) is network
    foreground = preview.foreground(0, 20)
    assert foreground is not None
    assert foreground.covers_all
    assert preview.learned() is None
    encoded = preview.encode(0, Window(0, 0, 224, 224))
    assert encoded is not None
    assert encoded[1].all()


@pytest.mark.slow
def test_with_the_shipped_network_a_cell_is_what_it_answers(heard) -> None:
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 256, (28, 28, 3)), np.ones((16, 16, 1), int)).astype(np.uint8)
    segmenter = load_segmenter(device="cpu", dtype=torch.float32)
    source, support = ArraySource(image), support_of(2)
    preview = Preview(segmenter, [source], on_event=heard)
    try:
        preview.look_at(0, Window(0, 0, 448, 448))
        preview.set_support(support, revision=1)
        heard.ready(1)
        network = preview.settled()
        assert network is not None
        tile, _ = source.read(CellKey(0, 0, 0).read)
        pack = network.pack(support.images, support.labels)
        expected = network.answer(network.maps(tile[None]), pack)[0, 0, 32:-32, 32:-32]
        found, known = preview.probability(0, Window(0, 0, 448, 448), 0)
        assert known.all()
        assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-6
    finally:
        preview.close()


def test_cells_of_a_window_and_around_it() -> None:
    shape = (1000, 1400)
    assert cells_of(0, Window(448, 0, 1, 1), shape) == [CellKey(0, 0, 1)]
    assert cells_of(0, Window(447.5, 0, 1, 1), shape) == [CellKey(0, 0, 0), CellKey(0, 0, 1)]
    assert cells_of(0, Window(-50, -50, 50, 50), shape) == []
    assert len(cells_of(0, Window(-1e9, -1e9, 2e9, 2e9), shape)) == 12
    cells = cells_of(0, Window(0, 0, 1400, 448), shape)
    assert [c.col for c in nearest_first(cells, Window(0, 0, 1400, 448), (1000.0, 9.0))] == [2, 1, 3, 0]
    assert nearest_first(cells, Window(0, 0, 1400, 448), (-5.0, 9.0))[0].col in (1, 2)
    assert ring_around([CellKey(0, 0, 0)], shape) == [CellKey(0, 0, 1), CellKey(0, 1, 0), CellKey(0, 1, 1)]


def test_what_is_kept_stays_within_its_bytes() -> None:
    kept: Kept[int, bytes] = Kept(100, len)
    for i in range(10):
        kept.put(i, bytes(30))
    assert list(kept) == [7, 8, 9]
    assert kept.get(7) is not None
    kept.put(10, bytes(30))
    assert list(kept) == [9, 7, 10]
    kept.put(11, bytes(500))  # larger than all: it is what is needed now
    assert list(kept) == [11]
    assert kept.nbytes == 500
