"""``python -m flujo_lens`` is ``lens``."""

import os
import sys

if __name__ == "__main__":
    # -m puts the current folder first: a driver or a library must not be taken from wherever one stands.
    try:
        here = os.getcwd()
    except OSError:  # it was deleted under us
        here = ""
    if sys.path and (not sys.path[0] or os.path.realpath(sys.path[0]) == os.path.realpath(here)):
        del sys.path[0]

    from flujo_lens.cli.app import main

    main()
