"""Weights as safetensors files, never pickles; shipped ones have a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fewscope.errors import WeightsError
from fewscope.model.atomic import atomic_file

SHIPPED = Path(__file__).parent / "weights"
"""Folder of the shipped weights."""


RANDOM = {nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_, Tensor.normal_, Tensor.uniform_}
"""What fills weights with random numbers; the other functions of `torch.nn.init` call one of them."""


class Unfilled(TorchFunctionMode):
    """While this is entered, networks are made without random numbers: for those whose weights are loaded next.

    Drawing them takes seconds for the 138 million weights of a VGG-16.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, unless it would draw random numbers: then the tensor stays as it is."""
        keywords = kwargs or {}
        if function in RANDOM:
            return args[0] if args else keywords["tensor"]
        return function(*args, **keywords)


def save_weights(net: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the state of `net` as it is, with `metadata` in the file's header. The file appears whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    with atomic_file(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata(path: Path) -> dict[str, str]:
    """What the header of a weights file states, such as the network; WeightsError if it is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({str(error)[:200]}); give weights") from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file.

    Parameters
    ----------
    path : Path
        A safetensors file; one in the shipped folder must have the checksum in ``SHA256.json`` beside it.

    Raises
    ------
    WeightsError
        The file is missing, not a safetensors file, not the one that was shipped, or holds NaN or infinity.
    """
    if not path.exists():
        raise WeightsError(
            f"{path}: no such weights file; give the path of a .safetensors file or a shipped name"
        )
    known = path.parent / "SHA256.json"
    if path.parent == SHIPPED and known.exists():
        expected = json.loads(known.read_text()).get(path.name)
        if expected is not None and checksum(path) != expected:
            raise WeightsError(
                f"{path}: checksum differs from the shipped one; restore the file (git checkout, git lfs)"
            )
    try:
        tensors = load_file(path)
    except SafetensorError as e:
        raise WeightsError(f"{path}: not a safetensors file ({str(e)[:200]})") from e
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: tensor {name} holds values that are not finite; the training that wrote it has failed, take "
                "an earlier checkpoint"
            )
    return tensors
