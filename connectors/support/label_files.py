"""Files that hold the labels of a folder of pictures: which there are, and what they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.support.coco_file import is_coco, read_coco_file
from fewscope.connectors.support.drawn_pictures import folder_of_drawn
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.support.labelme_file import is_labelme, read_labelme_files
from fewscope.connectors.support.pair_names import IMAGE_FOLDERS, LABEL_FOLDERS
from fewscope.connectors.support.picture_places import PicturePlaces
from fewscope.connectors.support.pictures import PictureFolder
from fewscope.connectors.support.support_json import FILE, read_statement
from fewscope.connectors.support.voc_boxes import PICTURE_FOLDERS, is_voc, read_voc_files
from fewscope.connectors.support.yolo_files import YoloFiles, find_yolo_files, read_yolo_files
from fewscope.errors import SupportError

ENDINGS = (".json", ".xml")
MARKS_OF_COCO = (b'"images"', b'"annotations"', b'"categories"')
MARKS_OF_LABELME = (b'"shapes"', b'"imagePath"')
GEOJSON = b'"FeatureCollection"'


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Files of labels, with their content, by path; and why others could not be read."""

    coco: dict[str, dict[str, Any]] = field(default_factory=dict)
    labelme: dict[str, dict[str, Any]] = field(default_factory=dict)
    voc: dict[str, bytes] = field(default_factory=dict)
    yolo: YoloFiles = field(default_factory=YoloFiles)
    broken: list[SupportError] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.coco or self.labelme or self.voc or self.yolo.labels)

    def add(self, filesystem: Any, path: str) -> None:
        """Read a file, if it is one of labels: JSON or XML."""
        try:
            if path.lower().endswith(".xml"):
                xml = read_bytes(filesystem, path, path)
                if is_voc(xml):
                    self.voc[path] = xml
                return
            content = read_json(filesystem, path)
        except SupportError as error:
            self.broken.append(error)
            return
        if is_coco(content):
            self.coco[path] = content
        elif is_labelme(content):
            self.labelme[path] = content


def is_label_file(uri: str) -> bool:
    """Whether a file is COCO's or LabelMe's JSON, or Pascal VOC's XML, rather than annotations of a slide or raster;
    False if it cannot be read."""
    if not uri.lower().endswith(ENDINGS):
        return False
    try:
        filesystem, path = find_filesystem(uri)
        content = read_bytes(filesystem, path, uri)
    except Exception:  # whatever is wrong is said by whoever reads it
        return False
    if uri.lower().endswith(".xml"):
        return is_voc(content)
    if GEOJSON in content:
        return False
    return any(all(mark in content for mark in marks) for marks in (MARKS_OF_COCO, MARKS_OF_LABELME))


def read_json(filesystem: Any, path: str) -> Any:
    """Parsed JSON, without the picture that LabelMe puts into it; SupportError if it is none."""
    content = read_bytes(filesystem, path, path)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SupportError(f"{path}: is not JSON ({reason}); export it again") from error
    if isinstance(parsed, dict):
        parsed.pop("imageData", None)
    return parsed


def find_label_files(filesystem: Any, root: str) -> LabelFiles:
    """Files of labels in a folder, and in its folder of labels or annotations."""
    found = LabelFiles()
    for folder in [root, *_folders(filesystem, root, LABEL_FOLDERS)]:
        for path in sorted(filesystem.ls(folder, detail=False)):
            name = PurePosixPath(path).name
            if name.lower().endswith(ENDINGS) and name != FILE and not name.startswith("."):
                found.add(filesystem, path)
    return replace(found, yolo=find_yolo_files(filesystem, root))


def pictures_of_files(
    filesystem: Any,
    root: str,
    uri: str,
    files: LabelFiles,
    stated: dict[str, Any],
    class_names: Sequence[str],
    stack: StackOptions = NO_STACK,
) -> PictureFolder:
    """The labelled pictures of files found in a folder.

    Raises
    ------
    SupportError
        There are several files that may be meant, or they are damaged.
    """
    of_pictures = (files.labelme, files.voc, files.yolo.labels)
    named = [*files.coco, *(path for labels in of_pictures for path in list(labels)[:1])]
    if len(named) > 1:
        cure = (
            "give one of them as the support set, or keep one" if files.coco else "keep the files of one kind"
        )
        raise SupportError(f"{uri}: may be labelled by {named[0]} or {named[1]}; {cure}")
    if files.broken:
        raise files.broken[0]
    if files.coco:
        ((path, content),) = files.coco.items()
        drawn = read_coco_file(path, path, content, _places(filesystem, root, path))
    elif files.yolo.labels:
        drawn = read_yolo_files(filesystem, root, uri, files.yolo)
    else:
        folders = {str(PurePosixPath(path).parent) for path in (files.labelme or files.voc)}
        beside = _folders(filesystem, root, (*IMAGE_FOLDERS, *PICTURE_FOLDERS))
        places = PicturePlaces(filesystem, [*sorted(folders), root, *beside])
        drawn = (
            read_voc_files(uri, files.voc, places)
            if files.voc
            else read_labelme_files(uri, files.labelme, places)
        )
    return folder_of_drawn(filesystem, uri, drawn, stated, class_names, stack)


def pictures_of_file(
    filesystem: Any, path: str, uri: str, class_names: Sequence[str], stack: StackOptions = NO_STACK
) -> PictureFolder:
    """The labelled pictures of one file, which lies beside them, or in a folder of annotations beside theirs.

    Raises
    ------
    SupportError
        It is no file of labels, or damaged.
    """
    files = LabelFiles()
    files.add(filesystem, path)
    if files.broken:
        raise files.broken[0]
    if not files:
        raise SupportError(f"{uri}: is neither COCO's JSON, LabelMe's nor Pascal VOC's XML; export it again")
    root = _parent(path)
    if PurePosixPath(root).name.lower() in LABEL_FOLDERS:
        root = _parent(root)
    return pictures_of_files(
        filesystem, root, uri, files, read_statement(filesystem, root, root), class_names, stack
    )


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0]


def _places(filesystem: Any, root: str, path: str) -> PicturePlaces:
    """Where the pictures of a COCO file may be: beside it, in images/, and in the folder of its subset."""
    subset = PurePosixPath(path).stem.partition("instances_")[2]
    folders = [root, _parent(path), *_folders(filesystem, root, IMAGE_FOLDERS)]
    if subset:
        folders += [f"{folder}/{subset}" for folder in folders]
    return PicturePlaces(filesystem, folders)


def _folders(filesystem: Any, root: str, names: Sequence[str]) -> list[str]:
    entries = filesystem.ls(root, detail=True)
    folders = sorted(entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
    return [path for path in folders if PurePosixPath(path).name.lower() in names]
