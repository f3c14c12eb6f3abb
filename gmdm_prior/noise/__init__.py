"""How much noise an image holds."""
