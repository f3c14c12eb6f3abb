"""Scripts for statements of the paper and for what its parts are worth."""
