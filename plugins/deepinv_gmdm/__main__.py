"""`python -m deepinv_gmdm`, which is `command.main`."""

import sys

from deepinv_gmdm.command.main import main

if __name__ == "__main__":
    sys.exit(main())
