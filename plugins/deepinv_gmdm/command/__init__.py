"""The command line: `python -m deepinv_gmdm`."""
