"""A second distribution with the same name for a prior."""


def EdgePrior():
    return None
