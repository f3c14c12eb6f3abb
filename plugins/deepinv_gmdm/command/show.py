"""What `restore --list` and `restore NAME --show` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from deepinv_gmdm.command.config import load_config, shipped
from deepinv_gmdm.operator_config import MEANINGS, NOISES, USES
from deepinv_gmdm.solver_config import SOLVERS

KEYS = {
    "measurement": "your own file: a picture, k-space or a sinogram",
    "truth": "the picture as it should be, for PSNR",
    "image": "a picture that is measured by simulation, where no measurement is given",
    "data_range": "low,high or auto: the values of black and white; null: what the type says",
    "axis": "of a volume, which axis counts the slices",
    "key": "which array of a .npz or HDF5 file",
    "pages": "each: every page its own noise; shared: one level for all",
    "out": "folder of the results",
    "overwrite": "true: other files in it may be replaced; inputs never are",
    "device": "cpu or cuda",
    "prior": "a name (`gmdm plugins` lists them), or name, lambda, sigma and its options",
    "prior.lambda": "weight of the prior",
    "prior.weights": "of gmdm: a bundled name or a .safetensors file",
    "priors": "options of each prior, taken with prior=NAME",
    "physics.noise.name": ", ".join(NOISES),
    "physics.noise.sigma": "standard deviation; auto: read off the measurement",
    "physics.noise.kernel": "of correlated noise: a name or rows of numbers",
    "physics.noise.gain": "value of one photon, of counted ones",
    "solver.name": ", ".join(SOLVERS),
    "solver.max_iter": "iterations",
    "solver.stepsize": "of all but hqs",
    "solver.start": "hqs: first noise level",
    "solver.stop": "hqs: last noise level; null: derived",
    "solver.step": "hqs: mean or prox",
    "solver.betas": "hqs: EPLL's penalties in place of start and stop",
    "solver.stride": "hqs: distance between patches",
    "solver.noise_sigma": "weight of the data term; null: the noise level",
    "solver.early_stop": "stop where the change is below thres_conv",
    "solver.thres_conv": "see early_stop",
    "solver.anderson": "pgd, gd: Anderson acceleration",
    "solver.backtracking": "pgd, gd: shorten the step until the cost falls",
}


def list_configs() -> None:
    """Print the name of every config of the package, with its first line, and every operator."""
    print("configs (gmdm restore NAME --show prints the keys of one):")
    for file in sorted(shipped("configs").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        print(f"  {file.stem:21} {first.removeprefix('# ')}")
    print("physics, and the keys that each looks at:")
    for name, keys in USES.items():
        print(f"  {name:21} {', '.join(keys) or 'none'}")


def show_config(source: str, words: Sequence[str]) -> None:
    """Print every key of a config with its value and meaning."""
    config: Any = OmegaConf.to_container(load_config(source, words), resolve=True)
    used = {"name", "seed", "noise", *USES.get(config["physics"]["name"], ())}
    for key, value in _flat(config):
        top, _, rest = key.partition(".")
        if top == "physics" and rest.partition(".")[0] not in used:
            continue
        meaning = KEYS.get(key) or (MEANINGS.get(rest, "") if top == "physics" else "")
        shown = "null" if value is None else str(value).lower() if value in (True, False) else value
        print(f"{key}={shown}".ljust(36), f" # {meaning}" if meaning else "", sep="")


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and key != "priors":
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "priors":
            yield f"{prefix}{key}", ", ".join(value)
        else:
            yield f"{prefix}{key}", value
