"""The `tiltflow` command. Answers what needs no torch by itself and hands the rest to `cli`."""

from __future__ import annotations

import sys

from . import __version__

INTERRUPTED = 128 + 2  # what a shell reports for a program that SIGINT ended


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in (["--version"], ["-V"]):
        print(f"tiltflow {__version__}")
        return 0
    try:
        from .cli import main as run  # seconds of imports, so Ctrl-C is caught around them too

        return run(argv)
    except KeyboardInterrupt:
        print("\ntiltflow: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
