"""The steps of a run, as the terminal and metrics.csv see them."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from gmdm_prior.training.fit import StepRecord
from gmdm_prior.training.run.config import TrainConfig, to_yaml
from gmdm_prior.training.run.folder import RunFolder


def follow(
    records: Iterator[StepRecord], folder: RunFolder, config: TrainConfig, start: int
) -> StepRecord:
    """Show and write down every step; returns the last one."""
    shown, record = {"held-out loss": "", "PSNR": ""}, None
    with tqdm(desc=config.method, unit="step", initial=start, dynamic_ncols=True) as bar:
        for record in records:
            if bar.total is None:
                folder.write_config(to_yaml(config))
                folder.start_metrics(start)
                bar.total = record.steps
            if record.step > start:
                folder.add(record)
            if record.held_out_loss is not None:
                shown["held-out loss"] = f"{record.held_out_loss:.4g}"
            if record.psnr is not None:
                shown["PSNR"] = f"{record.psnr:.2f} dB"
            parts = [f"{name} {value}" for name, value in shown.items() if value]
            bar.set_postfix_str(
                ", ".join([record.stage, f"loss {record.loss:.4g}", *parts]), refresh=False
            )
            bar.update(record.step - bar.n)
    return record
