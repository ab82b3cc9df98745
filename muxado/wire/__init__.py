"""The wire: bytes to frames and back, one module per version behind one interface.

A version is a class derived from :class:`Codec`. The session chooses one by number, once, and
nothing above this package asks which it is. Parsing calls a :class:`Handler` instead of making
an object per frame: at hundreds of thousands of frames a second the objects would be the cost.
"""

from __future__ import annotations

from muxado.config import Config
from muxado.wire.base import HEADER, Codec, Handler
from muxado.wire.v1 import Version1
from muxado.wire.v2 import Version2
from muxado.wire.watch import watch

__all__ = ["HEADER", "Codec", "Handler", "codec", "watch"]

_CODECS: dict[int, type[Codec]] = {1: Version1, 2: Version2}


def codec(config: Config, handler: Handler) -> Codec:
    """The codec that ``config.version`` names, set to call ``handler``."""
    return _CODECS[config.version](handler, typed=config.typed)
