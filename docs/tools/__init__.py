"""What the site is built with: commands and configs as pages, docstrings, the gallery."""
