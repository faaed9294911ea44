"""``python -m flujo_lens`` is ``lens``."""

import os
import sys

if __name__ == "__main__":
    # -m puts the current folder first on sys.path; drivers and libraries must not be imported from it.
    try:
        is_here = bool(sys.path) and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd())
    except OSError:  # the current folder was deleted under us
        is_here = True
    if is_here:
        del sys.path[0]

    from flujo_lens.cli.app import main

    main()
