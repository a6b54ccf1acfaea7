"""XML of strangers: parsed without entities and without references to other files."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from xml.parsers import expat

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from fewscope.errors import FewscopeError


def parse_xml(uri: str, content: bytes | str, kind: type[FewscopeError]) -> ElementTree.Element:
    """Root of an XML document.

    Parameters
    ----------
    uri
        The file, for errors.
    content
        Bytes in any encoding that it states, or text.
    kind
        Error to raise.

    Raises
    ------
    FewscopeError
        Of ``kind``: it is not XML, or defines entities, which can grow without end or name other files.
    """
    try:
        root: ElementTree.Element = defusedxml.ElementTree.fromstring(content)
    except DefusedXmlException as error:
        raise kind(
            f"{uri}: its XML defines entities, which are not read; save it without its DOCTYPE"
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # unknown encodings, too
        reason = " ".join(str(error).split())[:200]
        raise kind(f"{uri}: is not XML that can be read ({reason}); save it again") from error
    return root


def root_tag(head: bytes) -> str | None:
    """Name of the root of a document, without its prefix, by its beginning; None if that is no XML."""
    names: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: names.append(name)
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(head, False)
    return names[0].rpartition(":")[2] if names else None


def tag_of(element: ElementTree.Element) -> str:
    """Name of an element without its namespace; nothing for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(element: ElementTree.Element | None, name: str) -> list[ElementTree.Element]:
    """The elements of a name directly in another one, in any namespace; none where there is no other one."""
    return [] if element is None else [part for part in element if tag_of(part) == name]


def child(element: ElementTree.Element | None, name: str) -> ElementTree.Element | None:
    """The first element of a name directly in another one; None if there is none."""
    return next(iter(children(element, name)), None)


def text_in(element: ElementTree.Element | None, name: str) -> str | None:
    """Text of the first element of a name in another one; None if there is none."""
    found = child(element, name)
    return None if found is None else found.text
