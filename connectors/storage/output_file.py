"""A binary file that appears under its name when it is whole."""

from contextlib import ExitStack
from types import TracebackType
from typing import IO

from fewscope.connectors.storage.filesystem import output_errors, output_path


class _Output:
    """A binary file that appears under its name when the block succeeds, and not otherwise."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _open(self) -> IO[bytes]:
        self._stack = ExitStack()
        with output_errors(self.uri):
            return self._stack.enter_context(open(self._stack.enter_context(output_path(self.uri)), "wb"))

    def _finish(self) -> None:
        """Write what is left, before the file is closed."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Let go of the file, which is thrown away."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # of the caller: passes as it is
            self._abandon()
            self._stack.__exit__(kind, error, trace)
            return
        with output_errors(self.uri), self._stack:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise
