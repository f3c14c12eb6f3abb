"""Small models with random parameters, shared by the tests: a new model is one line in MODELS."""

import torch

import gmdm_prior as gm
from gmdm_prior.constraints import orthonormalise, project_orthogonal
from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.densities.wavelet.transform import from_tiles


def product(size=2, filters=None, channels=1, components=9, seed=0):
    """A PatchModel with random orthogonal filters of different norms and uneven weights."""
    g = torch.Generator().manual_seed(seed)
    count = channels * (size**2 - 1) if filters is None else filters
    shape = (count, channels, size, size)
    k = project_orthogonal(torch.randn(shape, generator=g, dtype=torch.float64), steps=50)
    logits = torch.randn(count, components, generator=g, dtype=torch.float64)
    return gm.PatchModel(k, logits).requires_grad_(False)


def mixture(size=2, bases=2, classes=3, channels=1, symmetries="d4", seed=0):
    """A PatchMixture with random bases and variances between 1e-3 and 1e-1."""
    g = torch.Generator().manual_seed(seed)
    j = channels * (size**2 - 1)
    a = torch.randn(bases, j, channels, size, size, generator=g, dtype=torch.float64)
    variances = 10 ** (-3 + 2 * torch.rand(classes, j, generator=g, dtype=torch.float64))
    weights = torch.softmax(torch.randn(classes, generator=g, dtype=torch.float64), 0)
    basis = torch.arange(classes) % bases
    model = gm.PatchMixture(orthonormalise(a), variances, weights, basis, symmetries)
    return model.requires_grad_(False)


def subbands(levels=2, components=9, seed=0):
    """SubbandExperts with uneven weights and different scales."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3 * levels, components, generator=g, dtype=torch.float64)
    scales = 0.5 + torch.rand(3 * levels, generator=g, dtype=torch.float64)
    return gm.SubbandExperts(logits, scales).requires_grad_(False)


def wavelet(experts=None, name="db4"):
    """A WaveletModel, by default of a mixture on 4x4 trees."""
    experts = (mixture(4) if experts is None else experts).with_mean(0.2)
    return gm.WaveletModel(experts, name).requires_grad_(False)


def opponents(size=2):
    """An OpponentModel of three different densities at scales of their own."""
    planes = mixture(size, seed=3), product(size), mixture(size, bases=1, classes=2, seed=4)
    return gm.OpponentModel(*planes, scales=(1.5, 0.6, 0.4))


def trained(model, steps=10):
    """A trainable copy after steps of Adam on events that are not its own."""
    free = model.trainable()
    x = events(model, 64, scale=0.1, seed=7)
    optimiser = torch.optim.Adam(free.parameters(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (-free.log_prob(x, 0.1).mean()).backward()
        optimiser.step()
    return free.requires_grad_(False)


MODELS = {
    "product 2x2": lambda: product(2),
    "product of one filter": lambda: product(2, filters=1),
    "product of two filters": lambda: product(2, filters=2),
    "product 3x3": lambda: product(3),
    "product 2x2, two channels": lambda: product(2, channels=2),
    "product with mean": lambda: product(2).with_mean(0.2),
    "mixture 2x2": lambda: mixture(2),
    "mixture 3x3": lambda: mixture(3),
    "mixture 3x3, flips": lambda: mixture(3, symmetries="flips"),
    "mixture 2x2, two channels, no symmetry": lambda: mixture(2, channels=2, symmetries="none"),
    "mixture with mean": lambda: mixture(2).with_mean(0.2),
    "opponents 2x2": opponents,
    "opponents with mean": lambda: opponents().with_mean(0.2),
    "product of two filters, trained": lambda: trained(product(2, filters=2)),
    "product 3x3, trained": lambda: trained(product(3)),
    "mixture 3x3, trained": lambda: trained(mixture(3)),
    "mixture with mean, trained": lambda: trained(mixture(2).with_mean(0.2)),
    "sub-band experts 4x4": lambda: subbands(2),
    "wavelet, two levels of trees": wavelet,
    "wavelet, one level of sub-bands": lambda: wavelet(subbands(1), "db2"),
}


def events(model, count, scale=0.3, seed=1, dtype=torch.float64):
    """Random events around grey, not samples of the model."""
    g = torch.Generator().manual_seed(seed)
    shape = (count, *event_shape(model))
    return (0.5 + scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)


def event_shape(model):
    """The shape of an event; densities of whole images are tested on 4x4 pixels."""
    return getattr(model, "event_shape", (1, 4, 4))


def sample(model, shape, sigma=0.0, generator=None):
    """Samples of events of that shape."""
    if hasattr(model, "event_shape"):
        return model.sample(shape, sigma, generator)
    return model.sample(shape, sigma, generator, size=event_shape(model)[1:])


def mean_of(model):
    """What the density says of the mean grey level of a patch, or of a tile."""
    if isinstance(model, gm.OpponentModel):
        return model.planes[0].mean_part
    return (model.experts if isinstance(model, gm.WaveletModel) else model).mean_part


def span(model):
    """Orthonormal rows (J, a) of the subspace on which the density lives (without the mean)."""
    if isinstance(model, gm.WaveletModel):
        rows = span(model.experts)
        count = (4 // model.patch_size) ** 2
        tiles = torch.einsum("ts,ja->tjsa", torch.eye(count, dtype=rows.dtype), rows)
        grid = (
            -1,
            4 // model.patch_size,
            4 // model.patch_size,
            1,
            model.patch_size,
            model.patch_size,
        )
        return from_tiles(tiles.reshape(grid), model.bank, model.levels).flatten(1)
    if isinstance(model, gm.OpponentModel):
        rows = []
        for turn, plane in zip(
            torch.tensor(OPPONENT, dtype=torch.float64), model.planes, strict=True
        ):
            own = span(plane).unflatten(1, plane.event_shape)
            rows.append((turn[:, None, None] * own).flatten(1))
        return torch.cat(rows)
    filters = model.filters[0] if model.filters.ndim == 5 else model.filters
    rows = filters.detach().double().flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)
