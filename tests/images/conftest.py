import pytest

from gmdm_prior.fast.kernels import llvm, mixture_code, tables


@pytest.fixture(params=["compiled", "torch alone"])
def kernels(request, monkeypatch):
    """Runs a test with the compiled kernels and without, as where there is no llvmlite."""
    made = mixture_code.compiled, tables.compiled
    if request.param == "compiled" and not llvm.installed():
        pytest.skip("needs llvmlite >= 0.45")
    if request.param == "torch alone":
        monkeypatch.setattr(llvm, "installed", lambda: False)
    for compiled in made:
        compiled.cache_clear()
    yield request.param
    for compiled in made:
        compiled.cache_clear()
