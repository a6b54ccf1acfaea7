"""Networks by name: a new one is a file of its own and one line in `NETWORKS`.

Imports torch when a network is built and not before, so that a command line can list the names at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from fewscope.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewscope.model.networks.compact import CompactNet
    from fewscope.model.networks.episodic import EpisodicNet
    from fewscope.model.networks.relation import RelationNet, Variant

    Network = CompactNet | RelationNet | EpisodicNet


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One line of `NETWORKS`.

    Attributes
    ----------
    family : Literal['compact', 'relation', 'episodic']
        Decides the recipe of training, and whether the network can be fine-tuned on a support set.
    build : Callable[[bool], Network]
        Makes the network with random weights; takes whether it predicts depth, which compact networks alone do.
    side_multiple : int
        The sides of the network's input are multiples of it, px.
    encoder : str
        Key of `model.networks.imagenet.SOURCES`, whose ImageNet weights fit; "" without any.
    trained : bool
        Whether it can be trained; else it works with the weights of others.
    frozen : bool
        Whether it is trained on top of a backbone that stays as it is.
    shipped : str
        Name of the shipped weights; "" for that of the network.
    """

    family: Literal["compact", "relation", "episodic"]
    build: Callable[[bool], Network]
    side_multiple: int
    encoder: str = ""
    trained: bool = True
    frozen: bool = False
    shipped: str = ""


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


def _authors(_depth: bool) -> RelationNet:
    from fewscope.model.networks.hkustcv import AuthorsRelationNet

    return AuthorsRelationNet()


def _episodic(module: str, of: str, encoder: str, side: int | None, *options: str) -> NetworkSpec:
    def build(_depth: bool) -> EpisodicNet:
        made: Callable[..., EpisodicNet] = getattr(import_module(f"fewscope.model.networks.{module}"), of)
        return made(*options, native_size=side)

    return NetworkSpec("episodic", build, side_multiple=32, encoder=encoder)


def _published() -> dict[str, NetworkSpec]:
    """The networks of other papers, and with a number in their name those that work at a size of their own."""
    made = {"oslsm": _episodic("oslsm", "OSLSM", "vgg16-plain", None)}
    made["guided"] = _episodic("guided", "GuidedNet", "vgg16-plain", None)
    for side in (None, 417):
        made["panet" if side is None else f"panet-{side}"] = _episodic("panet", "PANet", "vgg16-plain", side)
    for side in (None, 128, 321):  # at 128 px inside, it trains in minutes (docs/protocol.md)
        spec = _episodic("canet", "CANet", "resnet50", side)
        made["canet" if side is None else f"canet-{side}"] = replace(spec, frozen=True)
    for side in (None, 400):
        for backbone, encoder in (
            ("vgg16", "vgg16-plain"),
            ("resnet50", "resnet50"),
            ("resnet101", "resnet101"),
        ):
            name = f"hsnet-{backbone}" if side is None else f"hsnet-{backbone}-{side}"
            made[name] = replace(_episodic("hsnet", "HSNet", encoder, side, backbone), frozen=True)
    for backbone, encoder in (("compact", ""), ("vgg16", "vgg16-plain"), ("resnet50", "resnet50")):
        spec = _episodic("prototype", "PrototypeNet", encoder, None, backbone)
        made[f"prototype-{backbone}"] = replace(
            spec, trained=False, shipped="compact-two-looks" if backbone == "compact" else ""
        )
    return made


NETWORKS: dict[str, NetworkSpec] = {
    "compact-S": _compact("S"),
    "compact-L": _compact("L"),
    "vgg16-released": _relation("vgg16", "released"),  # the published code has VGG-16 alone
    "vgg16-paper": _relation("vgg16", "paper"),
    "resnet101-paper": _relation("resnet101", "paper"),
    "inception-paper": _relation("inception", "paper"),
    "vgg16-hkustcv": NetworkSpec("relation", _authors, side_multiple=32, trained=False),
    **_published(),
}

MODELS = tuple(
    dict.fromkeys("compact" if spec.family == "compact" else name for name, spec in NETWORKS.items())
)
"""What `load_segmenter` takes: the weights of a compact network tell its size."""


def build_network(name: str, *, depth: bool = True) -> Network:
    """Build a network with random weights.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    depth : bool
        Whether a compact network predicts depth (`model.depth`) too; no other network does.

    Raises
    ------
    ConfigError
        There is no network of this name.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network {name!r} is not one of {', '.join(NETWORKS)}")
    return NETWORKS[name].build(depth)


def loadable(net: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What of a weights file `net` loads: all of it, unless it uses a part of another network."""
    accepted: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = getattr(net, "accepted", None)
    return weights if accepted is None else accepted(weights)


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
