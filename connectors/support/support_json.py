"""support.json beside the pictures of a support set: what they do not say themselves."""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

from fewscope.connectors.source import PLAUSIBLE_MPP
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.support.support_set import MAX_CLASSES
from fewscope.errors import SupportError

FILE = "support.json"
KEYS = {"mpp", "class", "classes", "instances", "sparse", "corrected", "ranges", "labelled_for", "pictures"}
EXAMPLE = '{"mpp": 0.5, "class": "nucleus"}'


def read_statement(filesystem: Any, root: str, uri: str) -> dict[str, Any]:
    """What support.json in a folder states; empty if there is none.

    Returns
    -------
    "mpp", um per px; "class", a name; or "classes", the names of a mask's values 1, 2...; "instances", whether masks of
    many values hold object numbers; "sparse", how many of the last pictures are labelled in places only; "corrected",
    two numbers; "ranges", the values of each channel from which pictures of 8 bits were made; "labelled_for", for each
    picture the names of the classes that are labelled in it, if not all; "pictures", for each picture the number of the
    larger one that it is cut from.

    Raises
    ------
    SupportError
        It is no JSON, or states something else.
    """
    path = f"{root.rstrip('/')}/{FILE}"
    if not filesystem.exists(path):
        return {}
    shown = f"{uri.rstrip('/')}/{FILE}"
    try:
        stated = json.loads(read_bytes(filesystem, path, shown))
    except ValueError as error:
        if isinstance(error, SupportError):
            raise
        raise SupportError(f"{shown}: is not JSON ({error}); write {EXAMPLE}") from error
    if not isinstance(stated, dict) or set(stated) - KEYS:
        keys = sorted(stated) if isinstance(stated, dict) else type(stated).__name__
        raise SupportError(f"{shown}: holds {keys}, expected {EXAMPLE}")
    mpp = stated.get("mpp")
    if mpp is not None:
        is_number = isinstance(mpp, int | float) and not isinstance(mpp, bool)
        if not is_number or not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise SupportError(
                f"{shown}: mpp is {mpp!r}, expected {PLAUSIBLE_MPP[0]:g}..{PLAUSIBLE_MPP[1]:g} um per px"
            )
        stated["mpp"] = float(mpp)
    _check_names(stated, shown)
    _check_numbers(stated, shown)
    _check_ranges(stated, shown)
    _check_pictures(stated, shown)
    return stated


def _check_names(stated: dict[str, Any], shown: str) -> None:
    if not isinstance(stated.get("class", ""), str):
        raise SupportError(f"{shown}: class is {reprlib.repr(stated['class'])}, expected a name")
    if "classes" in stated:
        classes = stated["classes"]
        is_list = isinstance(classes, list) and 1 <= len(classes) <= MAX_CLASSES
        if not is_list or not all(isinstance(name, str) and name for name in classes) or "class" in stated:
            raise SupportError(
                f"{shown}: classes are {reprlib.repr(classes)}, expected up to {MAX_CLASSES} names and no "
                '"class" beside them'
            )
    if "instances" in stated and (not isinstance(stated["instances"], bool) or "classes" in stated):
        raise SupportError(
            f"{shown}: instances is {reprlib.repr(stated['instances'])}, expected true if the values of masks are "
            'object numbers, or false if they are not, and no "classes" beside it'
        )


def _check_numbers(stated: dict[str, Any], shown: str) -> None:
    for key, n_numbers in (("sparse", None), ("corrected", 2)):
        values = stated.get(key, 0 if n_numbers is None else [0, 0])
        numbers = [values] if n_numbers is None else values
        if (
            not isinstance(numbers, list)
            or len(numbers) != (n_numbers or 1)
            or not all(map(_is_count, numbers))
        ):
            raise SupportError(
                f"{shown}: {key} is {reprlib.repr(values)}, expected {n_numbers or 1} number(s) from 0 on"
            )


def _check_ranges(stated: dict[str, Any], shown: str) -> None:
    ranges = stated.get("ranges", [[0, 1]])
    is_list = isinstance(ranges, list) and bool(ranges)
    if not is_list or not all(_is_range(one) for one in ranges):
        raise SupportError(
            f"{shown}: ranges are {reprlib.repr(ranges)}, expected two numbers for each channel, the first below the "
            "second"
        )


def _check_pictures(stated: dict[str, Any], shown: str) -> None:
    names, numbers = stated.get("labelled_for", []), stated.get("pictures", [])
    known = stated.get("classes", [])
    if not isinstance(names, list) or not all(
        isinstance(one, list) and all(n in known for n in one) for one in names
    ):
        raise SupportError(
            f"{shown}: labelled_for is {reprlib.repr(names)}, expected names of its classes for each picture"
        )
    if not isinstance(numbers, list) or not all(map(_is_count, numbers)):
        raise SupportError(
            f"{shown}: pictures are {reprlib.repr(numbers)}, expected a number from 0 on for each picture"
        )


def of_each(stated: dict[str, Any], key: str, n: int, uri: str) -> list[Any]:
    """What support.json states under a key of each of n pictures; empty if it does not.

    Raises
    ------
    SupportError
        It is of another number of pictures.
    """
    values: list[Any] = stated.get(key, [])
    if values and len(values) != n:
        raise SupportError(
            f"{uri.rstrip('/')}/{FILE}: {key} is of {len(values)} pictures, the folder holds {n}; leave it out"
        )
    return values


def _is_range(value: Any) -> bool:
    numbers = value if isinstance(value, list) and len(value) == 2 else [math.nan, math.nan]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
        return False
    return -math.inf < numbers[0] < numbers[1] < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
