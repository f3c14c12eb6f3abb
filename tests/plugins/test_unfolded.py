"""Unfolded solvers: steps, levels and bases learn, and the density stays exact."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_solver
from deepinv_gmdm.config import shipped
from deepinv_gmdm.operators import OperatorConfig, build_operator
from deepinv_gmdm.picture import read_picture

import gmdm_prior as gm


@pytest.fixture(scope="module")
def problem():
    """Two crops, blurred."""
    photo = read_picture(shipped("images") / "camera.png")[0]
    clean = torch.cat([photo[..., 60:84, 80:104], photo[..., 120:144, 40:64]])
    physics = build_operator(OperatorConfig(name="gaussian_blur", width=1.0), (1, 24, 24))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, physics, physics.A(clean) + 0.02 * noise


def network(kind, model):
    if kind == "hqs":
        return build_solver(
            {"name": "hqs", "max_iter": 3, "start": 0.1},
            GMDMPrior(model),
            sigma=0.02,
            unfold=True,
            trainable=["stepsize", "g_param"],
        )
    if kind == "pgd":
        return build_solver(
            {"name": "pgd", "max_iter": 3},
            GMDMPrior(model, max_iter=3, tol=0),
            sigma=0.02,
            prior_sigma=0.05,
            unfold=True,
        )
    denoiser = GMDMDenoiser(model, method="average", stride=4)
    return deepinv.optim.HQS(  # of deepinv, directly
        prior=deepinv.optim.PnP(denoiser),
        data_fidelity=deepinv.optim.L2(sigma=0.02),
        params_algo={"stepsize": [0.01, 0.004], "g_param": [0.08, 0.04]},
        max_iter=2,
        unfold=True,
        trainable_params=["stepsize", "g_param"],
    )


@pytest.mark.parametrize("kind", ["hqs", "pgd", "direct"])
def test_ten_steps_of_adam(problem, kind, tmp_path):
    clean, physics, y = problem
    start = gm.load("bsds-gray-small", dtype=torch.float64)
    model = start.trainable()
    net = network(kind, model)
    steps = [p for name, p in net.named_parameters() if "stepsize" in name]
    assert steps
    before = [p.detach().clone() for p in steps]
    adam = torch.optim.Adam(
        [
            {"params": steps, "lr": 1e-5 if kind == "pgd" else 1e-4},
            {"params": model.parameters(), "lr": 2e-3},
        ]
    )
    losses = []
    for _ in range(10):
        adam.zero_grad()
        loss = (net(y.double(), physics.double()) - clean.double()).square().mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, steps, strict=True))
    assert (model.filters - start.filters).abs().max() > 1e-3
    rows = model.filters.flatten(2)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(63).double()[None], rtol=0, atol=1e-10)
    assert model.filters.mean((-2, -1)).abs().max() < 1e-12
    patch = clean[:1, :, :8, :8].double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.log_prob(patch, 0.1).sum(), patch)
    torch.testing.assert_close(model.score(patch.detach(), 0.1), gradient, rtol=1e-9, atol=1e-9)

    gm.save(model, tmp_path / "learnt.safetensors")
    learnt = gm.load(tmp_path / "learnt.safetensors", dtype=torch.float64)
    again = network(kind, learnt)
    with torch.no_grad():
        learned = dict(net.named_parameters())
        for name, parameter in again.named_parameters():
            if name in learned:  # of the solver; those of the model came from the file
                parameter.copy_(learned[name])
        torch.testing.assert_close(
            again(y.double(), physics), net(y.double(), physics), rtol=0, atol=1e-6
        )


def test_frozen_weights_stay_frozen(problem):
    _, physics, y = problem
    net = network("hqs", gm.load("bsds-gray-small"))
    net(y, physics.float()).square().sum().backward()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained
    assert all("stepsize" in name or "g_param" in name for name in trained)
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="did you mean 'stepsize'"):
        build_solver("hqs", GMDMPrior(), sigma=0.1, unfold=True, trainable=["stepsise"])
