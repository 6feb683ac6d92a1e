"""Finds libskimstone and declares what its header declares."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cffi

_HERE = Path(__file__).resolve().parent


def _header() -> str:
    """The header: of the wheel, or of the source tree that this file is in."""
    places = [_HERE / "skimstone.h", _HERE.parents[2] / "ffi" / "include" / "skimstone.h"]
    for place in places:
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise ImportError(f"skimstone.h is in none of {', '.join(map(str, places))}")


def _library() -> str:
    """The library that SKIMSTONE_LIBRARY names, or that of the wheel."""
    name = {"darwin": "libskimstone.dylib", "win32": "skimstone.dll"}.get(sys.platform, "libskimstone.so")
    path = os.environ.get("SKIMSTONE_LIBRARY", str(_HERE / name))
    if not Path(path).exists():
        raise ImportError(f"there is no {path}; set SKIMSTONE_LIBRARY to libskimstone")
    return path


# Every declaration stands on one line.
_LINES = re.findall(r"^(?:typedef|SKIM_API |#define SKIM_[A-Z]+_).*$", _header(), re.MULTILINE)

ffi = cffi.FFI()
ffi.cdef("\n".join(line.replace("SKIM_API ", "") for line in _LINES))
lib = ffi.dlopen(_library())
