"""What is measured in every object: what the source measures, then the stains."""

from __future__ import annotations

from fewscope.connectors.pixels.stains import Stains
from fewscope.connectors.source import MeasuredChannel, SourceInfo
from fewscope.errors import ConfigError
from fewscope.pipeline.config import SegmentConfig


def stains_of(config: SegmentConfig) -> Stains | None:
    """Stains that are measured in every object."""
    return Stains(config.stains) if config.stains else None


def measured_channels(config: SegmentConfig, info: SourceInfo) -> tuple[MeasuredChannel, ...]:
    """What is measured in every object: what the source measures, then the stains."""
    stains = stains_of(config)
    return info.measured + (stains.measured if stains else ())


def check_measured(config: SegmentConfig, info: SourceInfo) -> None:
    """Check that stains and positive channels can be measured in a source.

    Raises
    ------
    ConfigError
        Stains of something else than an RGB slide, or a channel that is not measured.
    """
    if config.stains and (info.kind != "slide" or info.channels):
        raise ConfigError(
            f"--stains {config.stains}: stains are measured in the RGB pixels of slides, and {config.source} has "
            f"{f'{info.n_channels} channels' if info.channels else 'bands'}; leave --stains out, intensities are "
            "measured anyway"
        )
    names = [one.name for one in measured_channels(config, info)]
    for one in config.measured.grades:
        if one.channel not in names:
            raise ConfigError(
                f"--positive {one}: {config.source} has no such channel, but {', '.join(names) or 'none at all'}"
                + ("; --stains h-dab measures DAB" if one.channel == "DAB" else "; give one of them")
            )
