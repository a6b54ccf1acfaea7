"""Networks by name: a new one is a file of its own and one line in `NETWORKS`.

Imports torch when a network is built and not before, so that a command line can list the names at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fewscope.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewscope.model.networks.compact import CompactNet
    from fewscope.model.networks.relation import RelationNet, Variant


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One line of `NETWORKS`.

    Attributes
    ----------
    family : Literal['compact', 'relation']
        Decides the recipe of training, and whether the network can be fine-tuned on a support set.
    build : Callable[[bool], CompactNet | RelationNet]
        Makes the network with random weights; takes whether it predicts depth, which relation networks never
        do.
    side_multiple : int
        The sides of the network's input are multiples of it, px.
    encoder : str
        Key of `model.networks.encoders.ENCODERS`; "" for a network with an encoder of its own.
    """

    family: Literal["compact", "relation"]
    build: Callable[[bool], CompactNet | RelationNet]
    side_multiple: int
    encoder: str = ""


def _compact(size: str) -> NetworkSpec:
    def build(depth: bool) -> CompactNet:
        from fewscope.model.networks.compact import CompactNet

        return CompactNet(size, depth=depth)

    return NetworkSpec("compact", build, side_multiple=16)


def _relation(encoder: str, variant: Variant) -> NetworkSpec:
    def build(_depth: bool) -> RelationNet:
        from fewscope.model.networks.encoders import ENCODERS
        from fewscope.model.networks.relation import RelationNet

        return RelationNet(variant, ENCODERS[encoder]())

    return NetworkSpec("relation", build, side_multiple=32, encoder=encoder)


NETWORKS: dict[str, NetworkSpec] = {
    "compact-S": _compact("S"),
    "compact-L": _compact("L"),
    "vgg16-released": _relation("vgg16", "released"),  # the published code has VGG-16 alone
    "vgg16-paper": _relation("vgg16", "paper"),
    "resnet101-paper": _relation("resnet101", "paper"),
    "inception-paper": _relation("inception", "paper"),
}

MODELS = tuple(
    dict.fromkeys("compact" if spec.family == "compact" else name for name, spec in NETWORKS.items())
)
"""What `load_segmenter` takes: the weights of a compact network tell its size."""


def build_network(name: str, *, depth: bool = True) -> CompactNet | RelationNet:
    """Build a network with random weights.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    depth : bool
        Whether a compact network predicts depth (`model.depth`) too; the relation networks never do.

    Raises
    ------
    ConfigError
        There is no network of this name.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network {name!r} is not one of {', '.join(NETWORKS)}")
    return NETWORKS[name].build(depth)


def start_from(net: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load initial weights for training; those of a compact network without depth are accepted for one with it.

    Parameters
    ----------
    net : nn.Module
        The network, changed in place.
    weights : dict[str, Tensor]
        By the names of `net.state_dict()`.
    name : str
        Name of the network, for the error.

    Raises
    ------
    WeightsError
        The weights are of another network.
    """
    own = net.state_dict()
    wrong = [key for key, tensor in weights.items() if key not in own or own[key].shape != tensor.shape]
    wrong += [key for key in own if key not in weights and not key.startswith("depth_head.")]
    if wrong:
        raise WeightsError(
            f"the initial weights are of another network than {name}: {wrong[0]} does not fit; give those of {name}"
        )
    net.load_state_dict(weights, strict=False)
