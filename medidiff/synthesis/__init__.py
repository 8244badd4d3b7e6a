"""Synthesis: a cascade of priors draws scans of nobody, each from its own seed.

`Cascade` draws one `Case` after the other for a `Request`; nothing here knows of files, gates or data sets.
"""

from medidiff.synthesis.cascade import Cascade
from medidiff.synthesis.effort import Effort, Finer, Mending
from medidiff.synthesis.request import Request

__all__ = ["Cascade", "Effort", "Finer", "Mending", "Request"]
