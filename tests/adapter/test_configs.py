"""Every bundled config, at a small size: each prior runs in it, ours restores."""

import json

import pytest
from deepinv_gmdm.command.config import load_config, shipped

from gmdm_prior.files.pictures import read_picture, save_picture

CONFIGS = sorted(file.stem for file in shipped("configs").glob("*.yaml"))
SIDE = 48
AT_LEAST = 1.0  # dB above the measurement, on a small crop of little content


@pytest.fixture(scope="module", params=CONFIGS)
def config(request, tmp_path_factory):
    """Its name, and a crop of its own picture."""
    picture = read_picture(load_config(request.param).image)[0]
    path = tmp_path_factory.mktemp("crops") / f"{request.param}.png"
    save_picture(picture[..., 24 : 24 + SIDE, 24 : 24 + SIDE], path)
    return request.param, path


def metrics(command, config, out, *words):
    name, image = config
    status, _, error = command("restore", name, f"image={image}", f"out={out}", *words)
    assert status == 0, error
    return json.loads((out / "metrics.json").read_text())


def test_ours_restores(command, config, tmp_path):
    found = metrics(command, config, tmp_path / "out")
    assert found["psnr_restored"] > found["psnr_measurement"] + AT_LEAST


def test_rivals_run(command, config, tmp_path):
    """Every prior that the file has options for, two steps of each."""
    priors = load_config(config[0]).priors
    assert {"gmdm", "tv", "wavelet", "pnp"} <= set(priors)
    for prior in set(priors) - {"gmdm"}:
        quick = ["solver.max_iter=2"]
        if prior == "pnp":
            quick += ["prior.denoiser=median"]  # bm3d is no dependency
        found = metrics(command, config, tmp_path / prior, f"prior={prior}", *quick)
        assert found["psnr_restored"] > 0


@pytest.mark.parametrize("solver", ["hqs", "dpir", "pgd", "fista", "gd", "drs", "admm", "pdcp"])
@pytest.mark.parametrize("name", ["mri", "tomography", "super_resolution", "poisson_gaussian"])
def test_every_solver_where_measurements_are_no_images(command, tmp_path, name, solver):
    """They begin at what is carried back, with all their variables, and do not get worse."""
    picture = read_picture(load_config(name).image)[0][..., 24 : 24 + SIDE, 24 : 24 + SIDE]
    save_picture(picture, tmp_path / "crop.png")
    words = ["prior.weights=gray-small", f"solver.name={solver}", "solver.max_iter=4"]
    if solver not in ("hqs", "dpir"):
        words += ["prior.lambda=1", "prior.sigma=0.05"]
    found = metrics(command, (name, tmp_path / "crop.png"), tmp_path / "out", *words)
    assert found["psnr_restored"] > found["psnr_measurement"] - 0.5
