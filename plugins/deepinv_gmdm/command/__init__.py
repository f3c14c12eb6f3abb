"""The command line `python -m deepinv_gmdm`: `main` reads the words and calls a command.

    restore     simulate a measurement of a picture and restore it, as a `config` says
    pictures    denoise a picture, or say how noisy it is

Results come into an `output_folder`, all together or not at all.
"""
