"""`restore` of your own measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deepinv_gmdm.command.files import say
from deepinv_gmdm.command.results import Results, compare, psnr
from deepinv_gmdm.command.solving import device_of, plain_value, solve, solver_of, visible
from deepinv_gmdm.measured.files import Measurement, kind_for, read_measurement
from deepinv_gmdm.measured.problem import Problem, problem
from deepinv_gmdm.operator_files import read_kernel, sides
from deepinv_gmdm.operators import as_picture, picture_title
from deepinv_gmdm.physics import PhysicsConfig, data_term
from deepinv_gmdm.restoration import like_of, make_solver, measured_part
from gmdm_prior.files.formats import choose, npy
from gmdm_prior.files.formats.layout import plain
from gmdm_prior.files.formats.picture import Picture, parse_range


def restore_file(config: DictConfig, configs: Sequence[Path], progress: bool) -> dict[str, Any]:
    """Restore the file `measurement` of a config; what `command.restore.restore` says."""
    path = Path(config.measurement)
    physics: Any = OmegaConf.to_object(config.physics)
    given = parse_range(plain_value(config.data_range))
    kind = kind_for(physics.name)
    measured = read_measurement(
        path,
        kind,
        data_range=given,
        axis=config.axis,
        key=config.key,
        missing=physics.name == "inpainting",
    )
    truth = None if config.truth is None else _Truth(config, measured)
    notes = [*measured.notes, *_said_once(physics)]
    suffix = _suffix(measured)
    device = device_of(config.device)
    with Results(config, suffix, configs) as results, torch.no_grad():
        physics = _shared(config, measured, physics, given, device)
        done: list[tuple[Problem, Tensor, Tensor]] = []
        told: list[dict[str, Any]] = []
        start = time.perf_counter()
        for index in range(len(measured)):
            posed, found = problem(
                measured, index, physics, given, truth.side if truth else None, device
            )
            like = like_of(posed.physics, posed.y)
            fidelity = data_term(posed.physics, posed.y)
            prior = plain_value(config.prior)
            make_solver(prior, solver_of(config), posed.physics, like, False, fidelity)
            shown = visible(
                measured_part(posed.physics, as_picture(posed.physics, posed.y, like)), posed.y
            )
            for note in notes if index == 0 else []:
                print(note, flush=True)
            page = f"page {index + 1}: " if len(measured) > 1 else ""
            for note in found:
                print(f"{page}{note}", flush=True)
            solution, info = solve(config, posed.physics, posed.y, like, progress)
            done.append((posed, shown, solution))
            told.append(info)
        metrics: dict[str, Any] = {"sigma": [posed.sigma for posed, _, _ in done]}
        if any(posed.gain is not None for posed, _, _ in done):
            metrics["gain"] = [posed.gain for posed, _, _ in done]
        scores = [] if truth is None else truth.scores(done)
        if scores:
            metrics["psnr_restored"] = sum(scores) / len(scores)
        metrics["seconds"] = time.perf_counter() - start
        _write(results, measured, done)
        posed, shown, result = done[len(done) // 2]
        seen = _magnitude(result)
        compare(
            truth.page(len(done) // 2, posed, seen) if truth else None,
            _magnitude(shown),
            seen,
            results.aside / "comparison.png",
            picture_title(posed.physics),
        )
        results.add_progress(told[len(done) // 2])
        results.publish(metrics)
    score = f"{metrics['psnr_restored']:6.2f} dB  " if scores else ""
    print(f"restored     {score}({metrics['seconds']:.1f} s)")
    print(results.written())
    return metrics


def _said_once(physics: PhysicsConfig) -> list[str]:
    """What was found in the operator's files."""
    if "blur" in physics.name:
        kernel = [_kernel(physics)]
        outside = "repeats beyond its border" if physics.boundary == "circular" else "is open"
        return [*kernel, f"the picture {outside} (physics.boundary)"]
    if physics.name == "super_resolution":
        return [f"{physics.factor} times smaller on each side (physics.factor)"]
    return []


def _kernel(physics: PhysicsConfig) -> str:
    """What a blur is taken for."""
    if physics.kernel is not None:
        return read_kernel(physics.kernel)[1]
    width = f"{physics.width:g} pixels (physics.width)"
    if physics.name == "space_varying_blur":
        return f"a Gaussian blur of {width} at the left, {physics.growth:g} times that at the right"
    return f"no physics.kernel: taken for a Gaussian blur of {width}"


def _shared(
    config: DictConfig, measured: Measurement, physics: PhysicsConfig, given: Any, device: Any
) -> PhysicsConfig:
    """The median level of all pages for each of them, with pages=shared and sigma=auto."""
    if config.pages != "shared" or str(physics.noise.sigma) != "auto" or len(measured) == 1:
        return physics
    posed = [problem(measured, i, physics, given, None, device)[0] for i in range(len(measured))]
    counted = [page for page in posed if page.gain is not None]
    alike = counted if 2 * len(counted) > len(posed) else [p for p in posed if p.gain is None]
    noise = replace(physics.noise, sigma=float(np.median([page.sigma for page in alike])))
    said = f"noise {noise.sigma:.4g}"
    if alike is counted:
        name = noise.name if noise.name.startswith("poisson") else "poisson_gaussian"
        noise = replace(noise, name=name, gain=float(np.median([page.gain for page in alike])))
        said += f", gain {noise.gain:.4g}"
    say(f"pages=shared: {said} on every page")
    return replace(physics, noise=noise)


def _suffix(measured: Measurement) -> str:
    suffix = choose.suffix_of(measured.path)
    if measured.kind == "image":
        if suffix in (".h5", ".hdf5", ".he5", ".npz"):
            return ".npy"
        return choose.suffix_for(measured.path)
    return ".tif" if suffix in (".tif", ".tiff") and measured.kind == "sinogram" else ".npy"


def _write(
    results: Results, measured: Measurement, done: list[tuple[Problem, Tensor, Tensor]]
) -> None:
    pages = [result for _, _, result in done]
    if measured.picture is not None:
        results.add(measured.picture, pages)
        return
    physical = [(p.low + p.width * x[0].cpu().double().numpy()) for p, _, x in done]
    name = results.aside / f"restored{results.suffix}"
    if measured.kind == "sinogram":
        values = np.stack(physical).astype(np.float32)
        picture = Picture(values, "npy", plain(values.shape))
        choose.write(picture, name)
    else:
        parts = np.stack(physical).astype(np.float32)
        array = parts if measured.two_channels else (parts[:, 0] + 1j * parts[:, 1])
        np.save(name, array[0] if len(array) == 1 else array)
    results.add_preview([_magnitude(page) for page in pages])


def _magnitude(x: Tensor) -> Tensor:
    """Real and imaginary part as one channel."""
    return x.square().sum(1, keepdim=True).sqrt() if x.shape[1] == 2 else x


class _Truth:
    """The file `truth`, in units of a problem."""

    def __init__(self, config: DictConfig, measured: Measurement) -> None:
        self.path = Path(config.truth)
        self.picture, self.array = None, None
        self.scaled = measured.kind == "kspace"  # the scale of a Fourier transform is not known
        if measured.picture is not None:
            self.picture = choose.read(
                self.path, data_range=measured.picture.range, axis=config.axis
            )
        elif choose.kind_of(self.path) == "npy":
            self.array = np.abs(npy.load(self.path)).astype(np.float64)
        else:
            picture = choose.read(self.path)
            self.array = picture.physical(picture.values)[:, 0].squeeze()

    @property
    def side(self) -> int | None:
        """The side of a square array."""
        return None if self.array is None else self.array.shape[-1]

    def page(self, index: int, posed: Problem, result: Tensor) -> Tensor:
        """Give one page like a result.

        Raises:
            ValueError: its shape is another; both are named.
        """
        if self.picture is not None:
            page = self.picture.page(min(index, self.picture.pages - 1))
        else:
            array = self.array if self.array.ndim == 2 else self.array[index]
            if self.scaled and array.shape == result.shape[2:]:
                found = posed.width * result[0, 0].cpu().double().numpy()
                array = array * (array * found).sum() / (array * array).sum()
            page = torch.from_numpy((array - posed.low) / posed.width).float()[None, None]
        if page.shape != result.shape:
            raise ValueError(
                f"truth={self.path} is {sides(page.shape[1:])} (channels x rows x columns) and the "
                f"restored picture {sides(result.shape[1:])}: they must agree"
            )
        return page.to(result.device)

    def scores(self, done: list[tuple[Problem, Tensor, Tensor]]) -> list[float]:
        """PSNR of every page."""
        return [
            psnr(_magnitude(x), self.page(i, posed, _magnitude(x)))
            for i, (posed, _, x) in enumerate(done)
        ]
