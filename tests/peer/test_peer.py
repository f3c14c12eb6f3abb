"""deepinv's own tests, run on our classes as `table.py` says."""

import inspect
import itertools
import sys
import types

import pytest
from peer import ours, table
from peer.table import TABLE, Run


def upstream_tests(module):
    return {
        name
        for name, thing in vars(ours.upstream(module)).items()
        if name.startswith("test_") and inspect.isfunction(thing)
    }


def parameters(function, row):
    """Each combination of deepinv's parameters and of those that the row puts in their place."""
    axes = {}
    for mark in reversed(getattr(function, "pytestmark", [])):
        if mark.name == "parametrize":
            names, values = mark.args
            axes[names if isinstance(names, str) else ", ".join(names)] = values
    axes.update(row.arguments)
    for chosen in itertools.product(*axes.values()):
        arguments = {}
        for names, value in zip(axes, chosen, strict=True):
            keys = names.replace(" ", "").split(",")
            arguments.update(zip(keys, value if len(keys) > 1 else [value], strict=True))
        yield arguments


def runs():
    for module, rows in TABLE.items():
        for name, row in rows.items():
            if isinstance(row, Run):
                function = getattr(ours.upstream(module), name)
                for count, arguments in enumerate(parameters(function, row)):
                    yield pytest.param(module, name, row, arguments, id=f"{name[5:]}-{count}")


@pytest.mark.parametrize(("module", "name", "row", "arguments"), list(runs()))
def test_deepinv(module, name, row, arguments, request, monkeypatch):
    home = ours.upstream(module)
    function = getattr(home, name)
    fixtures = [n for n in inspect.signature(function).parameters if n not in arguments]
    found = {n: request.getfixturevalue(n) for n in fixtures}
    # `test_denoiser_perf` skips without it, for a denoiser that is not ours
    monkeypatch.setitem(sys.modules, "diffusers", types.ModuleType("diffusers"))
    for target, replacement in row.ours.items():
        place = (home, target) if "." not in target else (target,)
        monkeypatch.setattr(*place, replacement)
    with ours.watched() as calls:
        try:
            function(**found, **arguments)
        except pytest.skip.Exception as skipped:
            pytest.fail(f"skipped: {skipped}")
    distributed = "run_distributed_test" in row.ours  # there the workers look
    assert calls or distributed or not row.called, "nothing of ours was called"


@pytest.mark.parametrize("module", TABLE)
def test_table_is_complete(module):
    """A newer deepinv with other tests needs new rows."""
    assert set(TABLE[module]) == upstream_tests(module)
    passing = sum(isinstance(row, Run) for row in TABLE[module].values())
    counts = f"| {module} | {passing} | {len(TABLE[module]) - passing} |"
    assert counts in table.__doc__


def test_every_row_runs_or_says_why_not():
    ran = {(case.values[0], case.values[1]) for case in runs()}
    for module, rows in TABLE.items():
        for name, row in rows.items():
            if isinstance(row, Run):
                assert (module, name) in ran
            else:
                assert len(row.split()) > 2, f"{name} needs a reason"
