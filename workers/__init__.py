"""The engine: everything that runs inside a worker (what ERTS is to OTP).

Imported only as ``parallel_actors.workers``; it never imports from the library above it.
"""

from importlib.machinery import EXTENSION_SUFFIXES as _SUFFIXES
from pathlib import Path as _Path

if not any((_Path(__file__).parent / f"scheduler{suffix}").exists() for suffix in _SUFFIXES):
    raise ImportError(
        f"expected the compiled engine of parallel_actors beside {__file__}, got its sources alone. Is this the folder "
        "of the sources, and the current folder? Then Python found it before the installed package: leave the folder, "
        "or use the command `parallel-actors`; or install it here with `pip install -e .`"
    )
