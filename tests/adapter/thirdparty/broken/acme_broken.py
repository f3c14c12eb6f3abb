"""A plug-in that cannot even be imported."""

raise RuntimeError("the roof is leaking\nand the door is stuck")
