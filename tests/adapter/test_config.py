"""Configurations: words over file over defaults, and errors that name the right key."""

import pytest
from deepinv_gmdm.command.config import load_config, shipped

NEST = "[" * 300 + "]" * 300
TEXT = """
image: {image}
physics: {{name: denoise, noise: {{sigma: 25/255}}}}
solver: {{name: pgd, max_iter: 7}}
prior: {{name: tv, lambda: 3, def_crit: 1.0e-3}}
priors:
  gmdm: {{weights: gray-small, lambda: 0.5, solver: {{name: hqs, max_iter: 4}}}}
  wavelet: {{lambda: 9}}
"""


@pytest.fixture
def file(tmp_path, photo_file):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.format(image=photo_file.name))
    return path


def test_words_over_file_over_defaults(file, photo_file):
    config = load_config(str(file), ["solver.max_iter=9", "physics.noise.sigma=0.5"])
    assert config.solver.max_iter == 9
    assert config.solver.name == "pgd"
    assert config.solver.stride is None
    assert config.solver.start is None  # derived
    assert config.physics.noise.sigma == 0.5
    assert config.image == str(photo_file)  # found beside the config


def test_prior_of_another_name_replaces_the_mapping(file):
    assert dict(load_config(str(file)).prior) == {"name": "tv", "lambda": 3, "def_crit": 1e-3}
    assert dict(load_config(str(file), ["prior=wavelet"]).prior) == {"name": "wavelet", "lambda": 9}
    assert dict(load_config(str(file), ["prior=l1"]).prior) == {"name": "l1"}
    assert dict(load_config(str(file), ["prior.name=l1"]).prior) == {"name": "l1"}


def test_prior_of_the_same_name_keeps_the_mapping(file):
    config = load_config(str(file), ["prior.lambda=5", "prior=tv"])
    assert dict(config.prior) == {"name": "tv", "lambda": 5, "def_crit": 1e-3}


def test_the_files_own_mapping_wins_over_priors(file):
    file.write_text(
        file.read_text().replace("  wavelet:", "  tv: {lambda: 1, n_it_max: 5}\n  wavelet:")
    )
    prior = dict(load_config(str(file)).prior)
    assert prior == {"name": "tv", "lambda": 3, "def_crit": 1e-3, "n_it_max": 5}


def test_options_apply_after_the_name_in_any_order(file):
    config = load_config(str(file), ["prior.weights=x", "prior=gmdm", "priors.gmdm.lambda=2"])
    assert dict(config.prior) == {"name": "gmdm", "lambda": 2, "weights": "x"}
    config = load_config(str(file), ["prior=pnp", "prior.denoiser.name=bm3d"])
    assert config.prior == {"name": "pnp", "denoiser": {"name": "bm3d"}}


def test_a_prior_brings_its_solver_and_words_overrule_it(file):
    config = load_config(str(file), ["prior=gmdm"])
    assert (config.solver.name, config.solver.max_iter) == ("hqs", 4)
    config = load_config(str(file), ["prior=gmdm", "solver.max_iter=6"])
    assert (config.solver.name, config.solver.max_iter) == ("hqs", 6)
    assert load_config(str(file)).solver.name == "pgd"


def test_the_resolved_config_resolves_to_itself(file, tmp_path):
    from omegaconf import OmegaConf

    first = load_config(str(file), ["prior=gmdm", "solver.max_iter=6"])
    again = tmp_path / "again.yaml"
    OmegaConf.save(first, again)
    assert load_config(str(again)) == first


@pytest.mark.parametrize("name", sorted(p.stem for p in shipped("configs").glob("*.yaml")))
def test_shipped_configs_are_found_by_bare_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config.prior.name == "gmdm"
    assert {"tv", "wavelet", "gmdm"} <= set(config.priors)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["solver.max_itr=3"], r"unknown config key 'solver\.max_itr'.*'solver\.max_iter'"),
        (["physic.keep=0.5"], r"unknown config key 'physic.*'physics"),
        (["sigma=0.1"], r"unknown config key 'sigma'.*'physics\.noise\.sigma'"),
        (["solver.max_iter=many"], r"'solver\.max_iter'.*many"),
        (["physics.keep=[1, 2]"], r"'physics\.keep'"),
        (["physics=3"], r"'physics'"),
        (["prior=3"], "'prior' is a name or a mapping"),
        (["prior=gmdm", "priors.gmdm=3"], r"'priors\.gmdm' must be a mapping"),
        (["prior.solver.max_itr=3"], r"unknown config key 'prior\.solver\.max_itr'.*'max_iter'"),
        (["prior.solver=3"], r"'prior\.solver' must be a mapping"),
        (["prior"], "write key=value"),
        (["key={"], "quote it"),
        (["image=nothing.png"], r"image 'nothing\.png' does not exist.*camera"),
        (["image=camer"], "did you mean 'camera'"),
        (["out=???"], r"'out': '\?\?\?' is no value"),
        (["device=???"], r"'device': '\?\?\?' is no value"),
        (["physics.noise.sigma=???"], r"'physics\.noise\.sigma': '\?\?\?' is no value"),
        (["solver=???"], r"'solver': '\?\?\?' is no value"),
        (["prior=???"], r"'prior\.name': '\?\?\?' is no value"),
        (["prior.lambda=???"], r"'prior\.lambda': '\?\?\?' is no value"),
        (["priors=???"], "Missing mandatory value: priors"),
        (["image=???"], "needs the key 'image'"),
        ([f"prior.a={NEST}"], "nested too deeply"),
        ([f"solver={NEST}"], "nested too deeply"),
    ],
)
def test_bad_words_are_refused(file, words, match):
    with pytest.raises(ValueError, match=match):
        load_config(str(file), words)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image: [", "cannot be read"),
        ("- a\n- b\n", "must be a mapping"),
        ("physics: {name: denoise}\n", "needs the key 'image'"),
        (
            "image: camera\nsolver: {nam: hqs}\n",
            r"unknown config key 'solver\.nam'.*'solver\.name'",
        ),
        ("image: camera\nprior: {lambda: 3}\n", "mapping with 'name'"),
        ("image: ${nowhere}\n", "nowhere"),
        (f"image: {NEST}\n", "nested too deeply"),
        (f"image: camera\npriors: {'{a: ' * 600}1{'}' * 600}\n", "nested too deeply"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, match):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        load_config(str(path))


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="config 'debluf' does not exist; did you mean 'deblur'"):
        load_config("debluf")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(str(tmp_path / "binary.yaml"))
