"""Errors that are meant for people: one line that names the file or option, what is wrong with it, and what to do.

Each is a `FewscopeError`, and the builtin that fits as well, so that ``except ValueError`` and ``except OSError`` catch
what they should. Anything else that is raised is a fault of Fewscope's.
"""

from __future__ import annotations


class FewscopeError(Exception):
    """Base of all errors that Fewscope raises on purpose.

    Its text is one printable line, whatever names and texts of files are in it.

    >>> str(SourceError("red\\x1b[31m.tif: is\\nempty"))
    'red\\\\x1b[31m.tif: is empty'
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(FewscopeError, ValueError):
    """An option makes no sense, or contradicts another."""


class SourceError(FewscopeError, ValueError):
    """A slide or raster cannot be opened or used."""


class SupportError(FewscopeError, ValueError):
    """A support set cannot be used."""


class LabelError(FewscopeError, ValueError):
    """A label that the page has sent, or the folder in which labels are kept, cannot be used."""


class LabelConflict(LabelError):
    """A label that is to be changed has been changed by another page in the meantime."""


class PageRunError(FewscopeError, ValueError):
    """A run cannot be started from the page, or has no result there."""


class DatasetError(FewscopeError, ValueError):
    """A folder of labelled images for training or evaluation is missing, incomplete or not laid out as expected."""


class WeightsError(FewscopeError, ValueError):
    """Weights are damaged, or are those of another network."""


class OutputError(FewscopeError, OSError):
    """The output cannot be written: full or read-only disk, a file in the way, no access."""


class RunMismatch(FewscopeError, FileExistsError):
    """The output folder holds another run, or files that are not a run's."""


class RunInUse(RunMismatch):
    """Another driver is at work in the output folder."""


class UnreadableError(FewscopeError, RuntimeError):
    """More of the source was unreadable than ``max_unreadable`` allows. The report was written all the same."""


class ResultNotFound(FewscopeError, FileNotFoundError):
    """A folder holds no result, or the run in it has not finished."""


class MissingPackageError(FewscopeError, ImportError):
    """An optional package is needed and not installed; the message names it."""


class Cancelled(FewscopeError, RuntimeError):
    """A run was cancelled by its caller. Finished units are kept: the same call resumes."""


class HolesError(FewscopeError, RuntimeError):
    """Some units killed every worker that tried them. The report was written all the same, and names them."""


class WorkerError(FewscopeError, RuntimeError):
    """Ray cannot be started or reached, or a worker died again and again."""
