"""The registry: what it knows, whom it blames, and that one broken plug-in breaks itself only."""

import deepinv
import pytest
from deepinv_gmdm import (
    GMDMDenoiser,
    GMDMPrior,
    available,
    build_denoiser,
    build_noise_estimator,
    build_prior,
)


@pytest.fixture
def installed(tmp_path, monkeypatch, fresh_registry):
    """Make distributions by hand on the path: name -> text of entry_points.txt, and modules."""

    def install(entry_points, modules=None):
        for name, text in entry_points.items():
            folder = tmp_path / f"{name}-1.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (folder / "entry_points.txt").write_text(text)
        for name, text in (modules or {}).items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        fresh_registry.refresh()

    return install


PRIORS = "[deepinv_plugins.priors]\n"


def test_lists_ours_and_deepinvs():
    names = available()
    assert {"gmdm", "tv", "wavelet", "l1", "tikhonov", "pnp", "red", "score", "zero"} <= set(
        names["priors"]
    )
    assert {"gmdm", "drunet", "bm3d", "tv", "wavelet", "median", "epll"} <= set(names["denoisers"])
    assert {"wavelet", "patch_covariance"} <= set(names["noise_estimators"])
    assert available("priors") == names["priors"]


def test_every_name_of_deepinvs_exists(fresh_registry):
    for kind in fresh_registry.GROUPS:
        for plugin in fresh_registry.plugins(kind):
            assert callable(plugin.load()), plugin


def test_builds_by_name_and_by_mapping():
    assert isinstance(build_prior("tv"), deepinv.optim.TVPrior)
    assert build_prior({"name": "wavelet", "level": 2}).level == 2
    prior = build_prior({"name": "gmdm", "weights": "gray-small"}, sigma=0.3)
    assert isinstance(prior, GMDMPrior)
    assert prior.sigma == 0.3
    assert build_prior(prior) is prior
    assert isinstance(build_denoiser("gmdm", method="average"), GMDMDenoiser)
    assert build_noise_estimator("wavelet") is not None


def test_plug_and_play_takes_any_denoiser():
    assert isinstance(build_prior("pnp").denoiser, GMDMDenoiser)
    for name, kind in (("pnp", "PnP"), ("red", "RED"), ("score", "ScorePrior")):
        prior = build_prior({"name": name, "denoiser": {"name": "median", "kernel_size": 3}})
        assert type(prior).__name__ == kind
        assert type(prior.denoiser).__name__ == "MedianFilter"
    own = GMDMDenoiser("gray-small")
    assert build_prior({"name": "red", "denoiser": own}).denoiser is own


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("gmmd", "unknown prior 'gmmd'; did you mean 'gmdm'.*Known are gmdm, l1"),
        (
            {"name": "tv", "n_iter_max": 3},
            "'tv' of 'deepinv': unknown option 'n_iter_max'.*'n_it_max'",
        ),
        ({"name": "gmdm", "weigths": "x"}, "'gmdm' of 'gmdm.prior'.*did you mean 'weights'"),
        ({"name": "gmdm", "weights": "bsds-grey"}, "gray"),
        ({"name": "pnp", "denoiser": "bm3"}, "unknown denoiser 'bm3'; did you mean 'bm3d'"),
        ({"name": "wavelet", "p": 3}, "p should be"),
        ({"name": "wavelet", "level": "x", "wv": 3}, "wv"),
        ({"weights": "x"}, "needs the key 'name'"),
        (7, "a prior is a name or a mapping"),
    ],
)
def test_errors_name_the_remedy(spec, match):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        build_prior(spec)


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="did you mean 'denoisers'"):
        available("denoiser")


def test_a_plug_in_is_imported_only_when_asked_for(installed):
    installed(
        {
            "acme": PRIORS
            + "bad = acme_bad:Prior\nquit = acme_quit:Prior\n"
            + "odd = acme_odd\ngood = acme_good:make\n"
        },
        {
            "acme_bad": "raise SystemError('no\\nluck')",
            "acme_quit": "raise SystemExit(0)",
            "acme_odd": "",
            "acme_good": "def make(size, *, shape=1):\n    return ('made', size, shape)\n",
        },
    )
    assert {"bad", "odd", "good"} <= set(available("priors"))
    assert isinstance(build_prior("tv"), deepinv.optim.TVPrior)
    assert build_prior({"name": "good", "size": 3}) == ("made", 3, 1)
    with pytest.raises(ValueError, match=r"prior 'bad' of 'acme' .*cannot be imported.*no luck"):
        build_prior("bad")
    with pytest.raises(ValueError, match=r"prior 'quit' of 'acme' .*imported: SystemExit: 0"):
        build_prior("quit")
    with pytest.raises(ValueError, match=r"prior 'odd' of 'acme' .*is not callable"):
        build_prior("odd")
    with pytest.raises(ValueError, match=r"'good' of 'acme' needs the option 'size'"):
        build_prior("good")
    with pytest.raises(ValueError, match=r"'good' of 'acme': unknown option 'shap'.*'shape'"):
        build_prior({"name": "good", "size": 1, "shap": 2})


@pytest.mark.parametrize(
    ("raised", "reason"), [("KeyError('lost')", "KeyError: 'lost'"), ("SystemExit", "SystemExit")]
)
def test_what_a_factory_raises_is_reported_with_its_owner(installed, raised, reason):
    code = f"def make(**options):\n    raise {raised}\n"
    module = f"acme_{reason[:3].lower()}"
    installed({"acme": PRIORS + f"angry = {module}:make\n"}, {module: code})
    with pytest.raises(ValueError, match=f"prior 'angry' of 'acme' cannot be built: {reason}"):
        build_prior({"name": "angry", "anything": 1})


def test_the_list_goes_on_after_a_plug_in_that_exits(installed, command):
    installed({"acme": PRIORS + "aaa = acme_exit:Prior\n"}, {"acme_exit": "raise SystemExit"})
    status, printed, _ = command("plugins")
    assert status == 0
    assert "broken: prior 'aaa' of 'acme' (acme_exit:Prior) cannot be imported" in printed
    assert "ok" in next(line for line in printed.splitlines() if line.split()[0] == "tv")


def test_a_name_registered_twice_names_both_owners(installed):
    installed({"acme": PRIORS + "same = a:b\ntv = a:b\n", "rival": PRIORS + "same = c:d\n"})
    with pytest.raises(
        ValueError, match=r"'same' is registered by 'acme' \(a:b\) and 'rival' \(c:d\)"
    ):
        build_prior("same")
    with pytest.raises(ValueError, match=r"'tv' is registered by 'acme' .*'deepinv'"):
        build_prior("tv")
    assert isinstance(build_prior("gmdm"), GMDMPrior)


@pytest.mark.parametrize(
    "text",
    ["not an ini file\n", "[a\nb=c\n", "[x]\na = b\na = c\n", "\x00\xff", "[x]\nno equals\n"],
)
def test_a_malformed_file_of_anybody_breaks_nothing(installed, text):
    installed({"aaa_malformed": text, "acme": PRIORS + "good = builtins:dict\n"})
    assert "good" in available("priors")
    assert isinstance(build_prior("gmdm"), GMDMPrior)
    assert build_prior({"name": "good", "a": 1}) == {"a": 1}
