"""Tasks whose queries differ from the five labelled patches: another picture, scene, stain or date; lookalikes; empty
pictures.

A task is a support set of five patches and a few scenes. A scene is one patch, or two side by side: one with objects,
and one that shows a lookalike or nothing of the class, so that false positives on new ground cost IoU. All pictures
come from the folder of shared data; no picture of a scene was used to train the shipped weights (`was_trained`).
Tasks that are `held_back` must not be used to choose anything.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from skimage.morphology import remove_small_objects

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.datasets.class_folders import allowed_for_shipping, read_pair

N_SUPPORT = 5
N_SCENES = 5


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A picture, uint8 (224, 224, 3), and its mask, bool (224, 224)."""

    image: np.ndarray
    mask: np.ndarray

    @property
    def empty(self) -> Patch:
        """The same picture, of a class that it does not show."""
        return Patch(self.image, np.zeros_like(self.mask))


Scene = tuple[Patch, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A support set and the scenes that are predicted with it.

    Attributes
    ----------
    domain : str
        "microscopy", "land" or "photographs".
    kind : str
        "source" (another picture, scene, stain or date), "background" (ground that no patch shows) or "lookalike".
    """

    name: str
    domain: str
    kind: str
    held_back: bool
    support: tuple[Patch, ...]
    scenes: tuple[Scene, ...]

    @property
    def images(self) -> np.ndarray:
        """Support images, uint8 (5, 224, 224, 3)."""
        return np.stack([patch.image for patch in self.support])

    @property
    def labels(self) -> np.ndarray:
        """Support labels, uint8 (5, 224, 224), 0 or 1."""
        return np.stack([patch.mask for patch in self.support]).astype(np.uint8)

    @property
    def queries(self) -> list[Patch]:
        """The patches of all scenes, in order."""
        return [patch for scene in self.scenes for patch in scene]


@dataclass(frozen=True, slots=True)
class Pool:
    """Patches to draw from: some pairs of a class folder.

    Attributes
    ----------
    sources : tuple of str
        Beginnings of the source ids that are used; empty for all.
    keys : tuple of str
        Pairs that are used; empty for all.
    """

    folder: str
    sources: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class Shared:
    """The folder of shared data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pairs: dict[str, list[dict[str, str]]] = {}
        with open(root / "fewshot" / "pairs.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self.pairs.setdefault(row["class"], []).append(row)
        self.validation = set((root / "fewshot" / "splits" / "val.txt").read_text().split())

    def was_trained(self, row: dict[str, str]) -> bool:
        """Whether the shipped weights were trained on a pair."""
        return row["class"] not in self.validation and allowed_for_shipping(row["licence"])

    def draw(self, pool: Pool, n: int, *, unseen: bool, without: Sequence[str] = ()) -> list[dict[str, str]]:
        """Draw n pairs, as many from each source as from the others; `without` are source ids not to be used."""
        rows = [
            row
            for row in self.pairs[pool.folder]
            if (not pool.sources or row["source_id"].startswith(pool.sources))
            and (not pool.keys or row["k"] in pool.keys)
            and row["source_id"] not in without
            and not (unseen and self.was_trained(row))
        ]
        rows.sort(key=_order)
        turns: dict[str, int] = {}
        for row in rows:
            row["turn"] = str(turns.setdefault(row["source_id"], 0))
            turns[row["source_id"]] += 1
        rows.sort(key=lambda row: int(row["turn"]))
        if len(rows) < n:
            raise SystemExit(f"{pool}: {len(rows)} pairs; {n} are needed")
        return rows[:n]

    def patch(self, row: dict[str, str]) -> Patch:
        """Read a pair."""
        pair = read_pair(self.root / "fewshot" / row["class"] / f"{row['k']}.jpg")
        assert pair is not None
        return Patch(pair.image, pair.mask)


def _order(row: dict[str, str]) -> bytes:
    """A fixed random order."""
    return hashlib.sha256(f"{row['class']}/{row['k']}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Spec:
    """A task made of pairs of class folders.

    Attributes
    ----------
    shown : tuple of Pool
        Lookalikes that the patches show, labelled as background: two of the five patches.
    beside : tuple of Pool
        What is beside the objects in a scene; nothing of it is of the class.
    """

    name: str
    domain: str
    kind: str
    support: Pool
    queries: tuple[Pool, ...]
    shown: tuple[Pool, ...] = ()
    beside: tuple[Pool, ...] = ()
    held_back: bool = False

    def build(self, shared: Shared) -> Task:
        """Read its patches."""
        n_shown = 2 if self.shown else 0
        support = shared.draw(self.support, N_SUPPORT - n_shown, unseen=False)
        shown = [row for p, n in _shares(self.shown, n_shown) for row in shared.draw(p, n, unseen=False)]
        used = [row["source_id"] for row in (*support, *shown)]
        queries = [
            row
            for p, n in _shares(self.queries, N_SCENES)
            for row in shared.draw(p, n, unseen=True, without=used)
        ]
        beside = [
            row
            for p, n in _shares(self.beside, N_SCENES if self.beside else 0)
            for row in shared.draw(p, n, unseen=True, without=used)
        ]
        patches = [*map(shared.patch, support), *(shared.patch(row).empty for row in shown)]
        scenes: list[Scene] = [(shared.patch(row),) for row in queries]
        if beside:
            scenes = [(*scene, shared.patch(row).empty) for scene, row in zip(scenes, beside, strict=True)]
        return Task(self.name, self.domain, self.kind, self.held_back, tuple(patches), tuple(scenes))


def _shares(pools: Sequence[Pool], n: int) -> Iterator[tuple[Pool, int]]:
    """Each pool with its share of n."""
    for i, pool in enumerate(pools):
        yield pool, (n + len(pools) - 1 - i) // len(pools)


def _organs(*names: str) -> Pool:
    return Pool("nuclei_he_monuseg", tuple(f"TCGA-{name}" for name in names))


MICRO, LAND, PHOTO = "microscopy", "land", "photographs"

SPECS: tuple[Spec, ...] = (
    Spec("H&E, two organs to others", MICRO, "source", _organs("2Z", "AC"),
         (_organs("44", "69", "A6", "AO", "CU", "GL"),)),
    Spec("H&E, two other organs to others", MICRO, "source", _organs("HT", "CU"),
         (_organs("EJ", "HC", "IZ", "2Z", "69"),), held_back=True),
    Spec("embryo, one picture to others", MICRO, "source", Pool("nuclei_fluo_embryo", ("a102535b0e88374b",)),
         (Pool("nuclei_fluo_embryo", ("f29f", "538b", "cb4d", "f4c4")),)),
    Spec("grey smears, two pictures to others", MICRO, "source", Pool("nuclei_smear_grey", ("4217", "1b44")),
         (Pool("nuclei_smear_grey"),)),
    Spec("purple tissue to white ground", MICRO, "background", Pool("nuclei_purple_tissue"),
         (Pool("nuclei_purple_on_white"),)),
    Spec("white cells' nuclei, another stain", MICRO, "source", Pool("wbc_nucleus_b"), (Pool("wbc_nucleus"),)),
    Spec("white cells, another stain", MICRO, "source", Pool("wbc_whole_cell"), (Pool("wbc_whole_cell_b"),)),
    Spec("white cells, back to the first stain", MICRO, "source", Pool("wbc_whole_cell_b"), (Pool("wbc_whole_cell"),),
         held_back=True),
    Spec("vessels, one set to the other", MICRO, "source", Pool("retina_vessel", ("test",)),
         (Pool("retina_vessel", ("training", "train")),)),
    Spec("membranes, first slices to last", MICRO, "source", Pool("em_membrane", tuple(f"slice_{i}" for i in range(3))),
         (Pool("em_membrane", tuple(f"slice_{i}" for i in range(15, 30))),)),
    Spec("water, dark to bright land", LAND, "source", Pool("water_s2_x"), (Pool("water_s2_y"),)),
    Spec("water, bright to dark land", LAND, "source", Pool("water_s2_y"), (Pool("water_s2_x"),), held_back=True),
    Spec("water, roads and roofs beside", LAND, "background", Pool("water_s2_x"), (Pool("water_s2_x"),),
         beside=(Pool("dubai_road", keys=("2", "5", "6", "8", "16")),)),
    Spec("water, sand and roofs beside", LAND, "background", Pool("water_s2_y"), (Pool("water_s2_y"),),
         beside=(Pool("dubai_vegetation", keys=("6", "12", "18")), Pool("dubai_road", keys=("1", "14"))),
         held_back=True),
    Spec("roads, two tiles to others", LAND, "source", Pool("dubai_road", ("t5_002", "t5_003")),
         (Pool("dubai_road"),)),
    Spec("vegetation, two tiles to others", LAND, "source", Pool("dubai_vegetation", ("t6_002", "t6_004")),
         (Pool("dubai_vegetation", ("t5", "t6_007", "t6_009")),)),
    Spec("donuts, other food shown", PHOTO, "lookalike", Pool("coco_donut"), (Pool("coco_donut"),),
         shown=(Pool("coco_cake"), Pool("coco_sandwich")),
         beside=(Pool("coco_cake"), Pool("coco_sandwich"), Pool("coco_pizza"))),
    Spec("teddy bears, bears shown", PHOTO, "lookalike", Pool("coco_teddy_bear"), (Pool("coco_teddy_bear"),),
         shown=(Pool("coco_bear"),), beside=(Pool("coco_bear"),), held_back=True),
    Spec("broccoli, plants beside", PHOTO, "background", Pool("coco_broccoli"), (Pool("coco_broccoli"),),
         beside=(Pool("coco_potted_plant"),)),
    Spec("buses, trains shown", PHOTO, "lookalike", Pool("coco_bus"), (Pool("coco_bus"),),
         shown=(Pool("coco_train"),), beside=(Pool("coco_train"),)),
    Spec("giraffes, dogs and elephants beside", PHOTO, "background", Pool("coco_giraffe"), (Pool("coco_giraffe"),),
         beside=(Pool("coco_dog"), Pool("coco_elephant")), held_back=True),
    Spec("toilets, sinks shown", PHOTO, "lookalike", Pool("coco_toilet"), (Pool("coco_toilet"),),
         shown=(Pool("coco_sink"),), beside=(Pool("coco_sink"),)),
    Spec("sunflowers, pizza shown", PHOTO, "lookalike", Pool("caltech_sunflower"), (Pool("caltech_sunflower"),),
         shown=(Pool("caltech_pizza"),), beside=(Pool("caltech_pizza"),)),
    Spec("crabs, scorpions and starfish beside", PHOTO, "background", Pool("caltech_crab"), (Pool("caltech_crab"),),
         beside=(Pool("caltech_scorpion"), Pool("caltech_starfish"))),
    Spec("pianos, laptops shown", PHOTO, "lookalike", Pool("caltech_grand_piano"), (Pool("caltech_grand_piano"),),
         shown=(Pool("caltech_laptop"),), beside=(Pool("caltech_laptop"),)),
    Spec("pizza, drawings to photographs", PHOTO, "source", Pool("caltech_pizza"), (Pool("coco_pizza"),),
         held_back=True),
    Spec("scarves", PHOTO, "source", Pool("ccp_scarf"), (Pool("ccp_scarf"),)),
    Spec("skirts", PHOTO, "source", Pool("ccp_skirt"), (Pool("ccp_skirt"),), held_back=True),
)  # fmt: skip


# -- windows of whole pictures and rasters ---------------------------------------------------------------------------


def _windows(
    image: np.ndarray,
    mask: np.ndarray,
    n: int,
    least: float,
    within: tuple[float, float] = (0.0, 1.0),
    scanned: np.ndarray | None = None,
) -> list[Patch]:
    """n windows of 224 px whose object covers at least a share of them, in a fixed random order, overlapping little.

    `within` bounds the columns of the picture that are used, as shares of its width; all pixels of a window are
    `scanned`, bool (H, W).
    """
    height, width = mask.shape
    low, high = round(within[0] * width), round(within[1] * width)
    rng = np.random.default_rng(0)
    taken: list[tuple[int, int]] = []
    found: list[Patch] = []
    for apart in (PATCH_SIZE, PATCH_SIZE // 2, PATCH_SIZE // 8):
        for _ in range(4000):
            row = int(rng.integers(0, height - PATCH_SIZE + 1))
            col = int(rng.integers(low, high - PATCH_SIZE + 1))
            if any(abs(row - r) < apart and abs(col - c) < apart for r, c in taken):
                continue
            window = np.s_[row : row + PATCH_SIZE, col : col + PATCH_SIZE]
            share = mask[window].mean()
            if least <= share <= 0.85 and (scanned is None or scanned[window].all()):
                taken.append((row, col))
                found.append(Patch(np.ascontiguousarray(image[window]), mask[window].copy()))
            if len(found) == n:
                return found
    raise SystemExit(f"{len(found)} windows; {n} are needed")


def _scenes(patches: Sequence[Patch]) -> tuple[Scene, ...]:
    return tuple((patch,) for patch in patches)


def _counted(shared: Shared, name: str) -> tuple[np.ndarray, np.ndarray]:
    folder = shared.root / "counting" / "dsb2018"
    with Image.open(folder / f"{name}.png") as file:
        image = np.asarray(file.convert("RGB"))
    with Image.open(folder / f"{name}.inst.png") as file:
        return image, np.asarray(file) > 0


def fluorescence(shared: Shared) -> Task:
    """Nuclei of one fluorescence picture, then of others."""
    support = _windows(*_counted(shared, "5f9d29d6388c700f"), N_SUPPORT, 0.02)
    others = (
        "20b20ab049372d18",
        "20c37b1ad2f510ed",
        "4948e3dfe0483c21",
        "df53d0b6c2c4e45d",
        "8fdc34509a0c3721",
    )
    queries = [_windows(*_counted(shared, name), 1, 0.02)[0] for name in others]
    return Task(
        "fluorescence, one picture to others", MICRO, "source", False, tuple(support), _scenes(queries)
    )


def stained(shared: Shared) -> Task:
    """Nuclei of stained tissue: one source, then pictures of another."""
    pool = Pool("nuclei_purple_on_white")
    support = [shared.patch(row) for row in shared.draw(pool, N_SUPPORT, unseen=False)]
    names = (
        "353ab00e964f71aa",
        "4e92129f4e8066d6",
        "7773ac91af61ed04",
        "c0152b1a260e71f9",
        "8f94a80b95a881d0",
    )
    queries = [_windows(*_counted(shared, name), 1, 0.01)[0] for name in names]
    return Task("stained tissue, another source", MICRO, "source", True, tuple(support), _scenes(queries))


def smears(shared: Shared) -> Task:
    """Nuclei of white cells, beside windows of smears without white cells but with platelets of the same colour."""
    folder = shared.root / "counting" / "bccd"
    boxes: dict[str, list[tuple[str, int, int, int, int]]] = {}
    with open(folder / "boxes.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            box = tuple(int(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            boxes.setdefault(row["image"], []).append((row["class"], *box))  # type: ignore[arg-type]
    empty: list[Patch] = []
    for name, found in sorted(boxes.items()):
        if (window := _without_white_cells(found)) is not None and len(empty) < N_SCENES:
            with Image.open(folder / f"{name}.jpg") as picture:
                image = np.asarray(picture.convert("RGB"))[window]
            empty.append(Patch(np.ascontiguousarray(image), np.zeros(image.shape[:2], bool)))
    support = shared.draw(Pool("wbc_nucleus"), N_SUPPORT, unseen=False)
    used = [row["source_id"] for row in support]
    queries = shared.draw(Pool("wbc_nucleus"), N_SCENES, unseen=True, without=used)
    scenes = tuple((shared.patch(row), other) for row, other in zip(queries, empty, strict=True))
    return Task(
        "white cells' nuclei, platelets beside",
        MICRO,
        "background",
        False,
        tuple(map(shared.patch, support)),
        scenes,
    )


def _without_white_cells(boxes: Sequence[tuple[str, int, int, int, int]]) -> tuple[slice, slice] | None:
    """A window of 224 px round a platelet that no white cell's box touches, in a picture of 640x480; None if none."""
    for kind, left, top, right, bottom in boxes:
        if kind != "Platelets":
            continue
        x = min(max((left + right - PATCH_SIZE) // 2, 0), 640 - PATCH_SIZE)
        y = min(max((top + bottom - PATCH_SIZE) // 2, 0), 480 - PATCH_SIZE)
        if not any(
            k == "WBC"
            and x < x2 + 10
            and x1 - 10 < x + PATCH_SIZE
            and y < y2 + 10
            and y1 - 10 < y + PATCH_SIZE
            for k, x1, y1, x2, y2 in boxes
        ):
            return np.s_[y : y + PATCH_SIZE, x : x + PATCH_SIZE]
    return None


@functools.cache
def _ucayali(root: Path, year: int) -> tuple[np.ndarray, np.ndarray]:
    """False colours (near infrared, red, green), and water by MNDWI, which needs a band that is not shown."""
    with rasterio.open(root / "rasters" / "ucayali" / f"{year}.tif") as file:
        swir, near, red, green = file.read().astype(np.float32)
    water = (green - swir) > 0
    return np.stack([near, red, green], -1).astype(np.uint8), remove_small_objects(water, max_size=12)


def ucayali_dates(shared: Shared) -> Task:
    """A river at one date, then at later ones."""
    support = _windows(*_ucayali(shared.root, 1985), N_SUPPORT, 0.04)
    years = (2000, 2005, 2010, 2015, 2020)
    queries = [_windows(*_ucayali(shared.root, year), 1, 0.04)[0] for year in years]
    return Task("river, 1985 to later dates", LAND, "source", False, tuple(support), _scenes(queries))


def ucayali_city(shared: Shared) -> Task:
    """A river in forest, then beside a city and clearings."""
    support = _windows(*_ucayali(shared.root, 2015), N_SUPPORT, 0.02, (0.55, 1.0))
    queries = [
        _windows(*_ucayali(shared.root, year), 1, 0.04, (0.05, 0.5))[0]
        for year in (1995, 2000, 2005, 2010, 2020)
    ]
    return Task("river, forest to city", LAND, "background", False, tuple(support), _scenes(queries))


@functools.cache
def _prairie(root: Path, year: int) -> tuple[np.ndarray, np.ndarray]:
    """True colours, and lakes by NDWI with the near infrared, which is not shown."""
    (path,) = (root / "rasters" / "naip").glob(f"*_{year}*.tif")
    with rasterio.open(path) as file:
        bands = file.read().astype(np.float32)
    green, near = bands[1], bands[3]
    water = (green - near) / (green + near + 1) > 0.2
    return bands[:3].transpose(1, 2, 0).astype(np.uint8), remove_small_objects(water, max_size=200)


def prairie(shared: Shared, first: int, later: int, held_back: bool) -> Task:
    """Prairie lakes in one summer, then in another."""
    support = _windows(*_prairie(shared.root, first), N_SUPPORT, 0.05)
    queries = _windows(*_prairie(shared.root, later), N_SCENES, 0.05)
    return Task(f"lakes, {first} to {later}", LAND, "source", held_back, tuple(support), _scenes(queries))


def cape(shared: Shared) -> Task:
    """Land of a coast, the west of a scene, then the east."""
    with rasterio.open(shared.root / "rasters" / "s2_cape_lookout_8band.tif") as file:
        bands = file.read().astype(np.float32)
    green, near = bands[2], bands[7]
    land = (green - near) / (green + near + 1e-3) <= 0
    image = np.stack([bands[3], bands[2], bands[1]], -1).clip(0, 255).astype(np.uint8)
    scanned = bands.any(0) & (bands < 255).any(0)
    land = remove_small_objects(land & scanned, max_size=30)
    support = _windows(image, land, N_SUPPORT, 0.05, (0.0, 0.4), scanned)
    queries = _windows(image, land, N_SCENES, 0.05, (0.5, 1.0), scanned)
    return Task("coast, west to east", LAND, "source", False, tuple(support), _scenes(queries))


OTHERS: tuple[Callable[[Shared], Task], ...] = (
    fluorescence,
    stained,
    smears,
    ucayali_dates,
    ucayali_city,
    lambda shared: prairie(shared, 2009, 2016, False),
    lambda shared: prairie(shared, 2016, 2012, True),
    cape,
)


def shift_tasks(root: Path) -> Iterator[Task]:
    """All tasks of a folder of shared data."""
    shared = Shared(root)
    for spec in SPECS:
        yield spec.build(shared)
    for build in OTHERS:
        yield build(shared)
