"""`fit` and its parts: data, settings, checkpoints, the three methods, stopping and going on."""

import dataclasses
import itertools
import math
import os

import pytest
import torch
from models import mixture, product
from training_examples import pictures

import gmdm_prior as gm
from gmdm_prior.files.safetensors import write_aside
from gmdm_prior.training import Checkpoints, FitSettings, fit
from gmdm_prior.training.checkpoint import FORMAT, Checkpoint, disagreement
from gmdm_prior.training.data.pool import ImagePool, step_generator
from gmdm_prior.training.ipalm import product as product_trainer
from gmdm_prior.training.ipalm.product import ProductTrainer, initial_product
from gmdm_prior.training.likelihood.trainer import LikelihoodTrainer, em_problem
from gmdm_prior.training.measure import draw
from gmdm_prior.training.methods import KINDS, Kind, Method, resolved
from gmdm_prior.training.run.config import TrainConfig

SMALL = {
    "em": {"patch_size": 3, "bases": 1, "classes": 2, "components": 4, "patches": 300, "steps": 2},
    "em+score": {"patch_size": 3, "bases": 1, "classes": 2, "components": 4, "patches": 300}
    | {"steps": 3, "crops": 4},
    "score": {"patch_size": 3, "steps": 4, "crops": 4},
    "score of a product": {"method": "score", "model": "patch", "patch_size": 3, "steps": 4}
    | {"crops": 4},
    "hqs": {"patch_size": 3, "steps": 4, "crops": 4},
    "hqs of operators": {"method": "hqs", "physics": "mix", "patch_size": 3, "steps": 4}
    | {"crops": 4},
    "hqs of a product": {
        "method": "hqs",
        "model": "patch",
        "patch_size": 3,
        "steps": 4,
        "crops": 4,
    },
    "score of a product from the data": {"method": "score", "model": "patch", "patch_size": 3}
    | {"steps": 4, "crops": 4},
    "ipalm": {"model": "patch", "patch_size": 3, "steps": 5, "batch_size": 50},
}


START = {"score": mixture, "score of a product": product}
START |= {"hqs": mixture, "hqs of operators": mixture, "hqs of a product": product}


def settings(method, **changes):
    return FitSettings(**{"method": method, "measure_every": 1} | SMALL[method] | changes)


def run(method, folder=None, resume=None, stop_at=None, **changes):
    """Records of a run, stopped after a step if asked."""
    records = fit(
        pictures(),
        pictures(1, seed=1),
        settings(method, **changes),
        init=START[method](3).float() if method in START and resume is None else None,
        checkpoints=folder,
        resume=resume,
    )
    seen = []
    for record in records:
        seen.append(record)
        if record.step == stop_at:
            break
    records.close()
    return seen


@pytest.mark.parametrize("method", SMALL)
def test_records_count_the_steps_and_the_last_has_the_model(method):
    records = run(method)
    assert [r.step for r in records] == list(range(1, records[0].steps + 1))
    kind = gm.PatchModel if SMALL[method].get("model") == "patch" else gm.PatchMixture
    assert isinstance(records[-1].model, kind)
    assert all(math.isfinite(r.loss) for r in records)
    assert records[-1].psnr is not None
    assert not any(p.requires_grad for p in records[-1].model.parameters())


def test_the_last_record_is_measured_whatever_the_interval():
    records = run("ipalm", measure_every=4)
    assert [r.model is not None for r in records] == [False, False, False, True, True]
    assert [r.psnr is not None for r in records] == [False, False, False, True, True]


@pytest.mark.parametrize("method", SMALL)
def test_goes_on_to_the_same_bits(method, tmp_path):
    whole = run(method)[-1].model
    store = Checkpoints(tmp_path)
    steps = run(method, store, stop_at=2)[-1].steps
    run(method, store, resume=store.latest(), stop_at=steps - 1)
    found = store.latest()
    assert found.step == steps - 1
    resumed = run(method, store, resume=found)
    assert [r.step for r in resumed] == [steps]
    for one, other in zip(whole.parameters(), resumed[-1].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_gives_its_model_again(tmp_path):
    store = Checkpoints(tmp_path)
    whole = run("em", store)[-1]
    again = run("em", store, resume=store.latest())
    assert len(again) == 1
    assert again[0].step == whole.step
    for one, other in zip(whole.model.parameters(), again[0].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ipalm_may_be_given_more_steps(tmp_path):
    store = Checkpoints(tmp_path)
    run("ipalm", store, steps=2)
    more = run("ipalm", store, resume=store.latest(), steps=4)[-1].model
    whole = run("ipalm", steps=4)[-1].model
    assert torch.equal(more.filters, whole.filters)
    fewer = disagreement({"steps": 4}, {"steps": 2, "method": "ipalm"})
    assert fewer == "steps is 4 there and 2 now"
    other = disagreement({"steps": 2}, {"steps": 3, "method": "score"})
    assert other == "steps is 2 there and 3 now"


def test_inertia_falls_to_zero_over_the_last_tenth():
    trainer = ProductTrainer(ImagePool.of(pictures()), resolved(settings("ipalm", steps=40)))
    inertia = []
    while trainer.step < trainer.steps:
        trainer.advance()
        inertia += [block["inertia"] for block in trainer._optimiser.param_groups]
    shares = [1.0] * 37 + [0.75, 0.5, 0.25]
    assert inertia == pytest.approx([0.95 * share for share in shares for _ in range(2)])


def test_losses_fall():
    ipalm = run("ipalm", steps=60, batch_size=400, measure_every=30)
    assert ipalm[59].held_out_loss < ipalm[29].held_out_loss < 0.9 * ipalm[0].loss
    em = [r.loss for r in run("em", steps=4) if r.stage == "tied"]
    assert all(after < before + 1e-4 for before, after in itertools.pairwise(em))


def test_ipalm_iterates_are_feasible():
    model = run("ipalm")[-1].model
    rows = model.filters.double().flatten(1)
    gram = rows @ rows.T
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-5 * gram.diagonal().max()
    assert rows.mean(1).abs().max() < 1e-6


def test_the_start_of_ipalm_is_the_papers():
    model = initial_product(7, generator=torch.Generator().manual_seed(0))
    assert model.filters.shape == (48, 1, 7, 7)
    mu = torch.linspace(-1, 1, 125)
    expected = 0.1 * math.sqrt(1000) / (1 + 1000 * mu**2)
    torch.testing.assert_close(model.experts.logits, expected.repeat(48, 1))
    # 48 entries of N(0, 1/49) each: norms near 1
    assert 0.4 < model.filters.flatten(1).norm(dim=1).mean() < 1.3


def test_one_noise_level_is_asked_for_by_equal_bounds():
    trainer = ProductTrainer(
        ImagePool.of(pictures()), resolved(settings("ipalm", sigma_min=0.02, sigma_max=0.02))
    )
    x, y, sigma = product_trainer.noisy_patches(
        trainer._pool, trainer._settings, step_generator(0, 3, 0)
    )
    assert torch.equal(sigma, torch.full((50,), 0.02))
    # 8 zero-mean dimensions of 9: variance of the projected noise is 8/9 sigma²
    assert float((y - x).square().mean()) == pytest.approx(0.02**2 * 8 / 9, rel=0.25)
    assert y.mean((-2, -1)).abs().max() < 1e-6


def test_noisy_images_report_the_noisy_likelihood_and_no_psnr():
    record = run("em", noise=0.1)[-1]
    assert record.psnr is None
    held_out = draw(ImagePool.of(pictures(1, seed=1)), settings("em", noise=0.1))
    direct = record.model.log_prob(held_out.patches, 0.1).double().mean() / 8
    assert record.held_out_loss == pytest.approx(-float(direct), abs=1e-6)


def test_colour_images():
    records = list(
        fit(
            pictures(3, shape=(3, 16, 16)),
            pictures(1, 1, (3, 16, 16)),
            settings("em", channels=3, patch_size=2),
        )
    )
    assert records[-1].model.event_shape == (3, 2, 2)


# --- data -----------------------------------------------------------------------------------------


def test_patches_are_pieces_of_the_images():
    images = [torch.arange(float(n), n + 5 * 7).view(1, 5, 7) for n in (0, 1000)]
    pool = ImagePool.of(images)
    patches = pool.patches(200, 3, "none", step_generator(0, 1))
    corners = patches[:, 0, 0, 0]
    assert set(corners.tolist()) == {
        float(n + 7 * i + j) for n in (0, 1000) for i in range(3) for j in range(5)
    }
    within = patches - corners[:, None, None, None]
    expected = (7 * torch.arange(3.0)[:, None] + torch.arange(3.0)).expand_as(within)
    assert torch.equal(within, expected)


def test_patches_of_colour_images_keep_their_channels_together():
    image = torch.arange(3 * 4 * 5.0).view(3, 4, 5)
    patches = ImagePool.of([image]).patches(40, 2, "none", step_generator(0, 1))
    assert torch.equal(patches[:, 1] - patches[:, 0], torch.full((40, 2, 2), 20.0))


def test_patches_are_seen_in_all_symmetries():
    image = torch.arange(9.0).view(1, 3, 3)
    patches = ImagePool.of([image]).patches(200, 3, "d4", step_generator(0, 1))
    assert len(patches.unique(dim=0)) == 8


def test_pool_counts_places_and_knows_its_content():
    pool = ImagePool.of([torch.zeros(1, 5, 6), torch.zeros(1, 2, 9)])
    assert pool.positions(3) == 3 * 4
    assert pool.images[0].shape == (1, 5, 6)
    other = ImagePool.of([torch.zeros(1, 5, 6), torch.ones(1, 2, 9)])
    assert pool.fingerprint != other.fingerprint


def test_crops_of_small_images_are_all_they_have():
    crop = ImagePool.of([torch.rand(1, 4, 9)]).crop(6, "none", step_generator(0, 1))
    assert crop.shape == (1, 4, 6)


def test_streams_differ():
    draws = [torch.rand(2, generator=step_generator(*p)) for p in ((0, 1), (0, 2), (1, 1))]
    assert len(torch.stack(draws).unique(dim=0)) == 3


def test_small_images_are_named_and_the_last_refused():
    images = {"good.png": torch.rand(1, 20, 20), "tiny.png": torch.rand(1, 2, 20)}
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 images.*tiny\.png"):
        fit(images, pictures(1), settings("ipalm"))
    with pytest.raises(ValueError, match="none of 1 images has the 3x3 pixels"):
        fit([torch.rand(1, 2, 9)], pictures(1), settings("ipalm"))


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoint(step):
    return Checkpoint(step, {"seed": 0}, {"tensor": torch.arange(step), "text": "a"})


def test_two_checkpoints_are_kept(tmp_path):
    store = Checkpoints(tmp_path / "new")
    for step in (1, 2, 30):
        store.save(checkpoint(step))
    assert [p.name for p in store.files()] == ["step-00000030.pt", "step-00000002.pt"]
    found = store.latest()
    assert found.step == 30
    assert torch.equal(found.state["tensor"], torch.arange(30))


@pytest.mark.parametrize("left", [0, 1, 0.5, 0.999])
def test_a_truncated_checkpoint_falls_back_to_the_one_before_it(tmp_path, left):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(checkpoint(step))
    newest = store.files()[0]
    data = newest.read_bytes()
    newest.write_bytes(data[: left if left in (0, 1) else int(left * len(data))])
    with pytest.warns(UserWarning, match=r"step-00000002\.pt cannot be read.*the one before it"):
        assert store.latest().step == 1


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_never_loaded(tmp_path):
    content = {"format": FORMAT, "step": 1, "settings": {}, "state": Malicious(tmp_path / "bad")}
    torch.save(content, tmp_path / "step-00000001.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert Checkpoints(tmp_path).latest() is None
    assert not (tmp_path / "bad").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_aside(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_aside(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_disagreement_names_both_values(tmp_path):
    store = Checkpoints(tmp_path)
    run("ipalm", store, stop_at=2)
    found = store.latest()
    with pytest.raises(ValueError, match="of another run: seed is 0 there and 1 now"):
        run("ipalm", store, resume=found, seed=1)
    with pytest.raises(ValueError, match=r"images is 4 images of .* there and 3 images"):
        fit(pictures(3), pictures(1), settings("ipalm"), resume=found)
    assert run("ipalm", resume=found, checkpoint_every=7, measure_every=3)[-1].step == 5


def test_a_loss_that_is_no_number_stops_with_the_last_good_state(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    whole = run("ipalm")[-1].model
    draw = product_trainer.noisy_patches

    def broken(pool, how, generator):
        x, y, sigma = draw(pool, how, generator)
        broken.calls += 1
        return x, y if broken.calls < 4 else y * math.nan, sigma

    broken.calls = 0
    monkeypatch.setattr(product_trainer, "noisy_patches", broken)
    with pytest.raises(FloatingPointError, match="step 4"):
        run("ipalm", store, checkpoint_every=100)
    monkeypatch.undo()
    found = store.latest()
    assert found.step == 3
    model = run("ipalm", resume=found)[-1].model
    assert torch.equal(model.filters, whole.filters)


def test_an_interruption_in_the_middle_of_a_step_loses_that_step_only(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    step = LikelihoodTrainer.advance

    def interrupted(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(LikelihoodTrainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("em", store, checkpoint_every=1)
    assert store.latest().step == 5


# --- settings -------------------------------------------------------------------------------------


def test_defaults_of_the_patch_model_are_the_papers():
    s = resolved(FitSettings(model="patch"))
    assert (s.method, s.patch_size, s.steps, s.batch_size) == ("ipalm", 7, 100_000, 3200)
    assert (s.sigma_min, s.sigma_max, s.checkpoint_every) == (0, 0.4, 1000)
    s = resolved(FitSettings())
    assert (s.method, s.patch_size, s.bases, s.classes, s.symmetries) == ("em", 8, 3, 40, "d4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "pach"}, "model must be one of mixture, patch"),
        ({"method": "adam"}, "method must be one of em, em.score, score, hqs, ipalm"),
        ({"model": "patch", "method": "em"}, "method=em does not fit model=patch"),
        ({"method": "ipalm"}, "method=ipalm does not fit model=mixture"),
        ({"noise": 0.1, "method": "em+score"}, "needs clean images"),
        ({"noise": -1.0}, "noise must be"),
        ({"patch_size": 1}, "patch_size must be at least 2; got 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"channels": 2}, "channels must be 1"),
        ({"classes": 2}, "classes must be at least bases"),
        ({"components": 20}, "classes must not exceed components"),
        ({"sigma_min": 0.5}, "sigma_min <= sigma_max"),
        ({"symmetries": "d8"}, "symmetries must be one of"),
    ],
)
def test_settings_that_cannot_be_trained(changes, message):
    with pytest.raises(ValueError, match=message):
        resolved(FitSettings(**changes))


def test_score_matching_needs_a_start():
    with pytest.raises(ValueError, match="needs init"):
        fit(pictures(), pictures(1), settings("score"))


def test_too_few_patches_for_the_components():
    with pytest.raises(ValueError, match="components=400 need at least as many patches"):
        list(fit(pictures(1), pictures(1), settings("em", components=400)))


def test_components_follow_the_number_of_patches():
    pool = ImagePool.of(pictures(2))
    problem = em_problem(pool, settings("em", components=None, patches=10**6))
    assert len(problem.coordinates) == pool.positions(3)
    assert problem.settings.components == max(2, pool.positions(3) // 100)


def test_settings_that_methods_use_exist():
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    for name, kind in KINDS.items():
        for method in kind.methods.values():
            assert method.uses <= known, name


class Flat:
    """A trainer of a density that learns nothing."""

    steps, stage = 3, "flat"

    def __init__(self, pool, settings, init):
        self.step, self._model = 0, product(settings.patch_size).float()

    def advance(self):
        self.step += 1
        return 1.0 / self.step

    def state(self):
        return {"step": self.step}

    def restore(self, state):
        self.step = state["step"]

    def model(self):
        return self._model

    def held_out_loss(self, held_out, model):
        return -held_out.log_likelihood(model)


def test_a_row_of_the_table_is_all_that_a_new_kind_needs(monkeypatch, tmp_path):
    method = Method(Flat, steps=3, uses=frozenset(), checkpoint_every=1, measure_every=2)
    monkeypatch.setitem(KINDS, "flat", Kind({"wait": method}, patch_size=3))
    data, store = (pictures(), pictures(1, seed=1)), Checkpoints(tmp_path)
    records = list(fit(*data, FitSettings(model="flat"), checkpoints=store))
    assert [r.held_out_loss is None for r in records] == [True, False, False]
    assert records[-1].psnr > 5
    assert store.latest().settings["method"] == "wait"
    again = list(fit(*data, FitSettings(model="flat"), resume=store.latest()))
    assert again[0].step == 3
    with pytest.raises(ValueError, match="needs clean images"):
        fit(*data, FitSettings(model="flat", noise=0.1))
