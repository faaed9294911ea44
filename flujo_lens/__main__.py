"""The program ``lens``; ``python -m flujo_lens`` is the same."""

import gc
import os
import sys


def main() -> None:
    """Run the command line of this process, and exit."""
    # Before the first import: garbage collections during the imports take a tenth of a short command's time.
    gc.set_threshold(50_000, 20, 20)
    from flujo_lens.cli.app import main

    main()


if __name__ == "__main__":
    # -m puts the current folder first on sys.path; drivers and libraries must not be imported from it.
    try:
        is_here = bool(sys.path) and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd())
    except OSError:  # the current folder was deleted under us
        is_here = True
    if is_here:
        del sys.path[0]

    main()
