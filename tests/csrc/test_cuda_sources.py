import pytest

from benchmarks.kernels.native_resources import obstacle, resources

REGISTERS = 96  # of 256 to 65536 / threads; more would leave too few threads to hide latency


@pytest.mark.slow
@pytest.mark.skipif(obstacle() is not None, reason=f"{obstacle()}")
def test_the_cuda_sources_compile_for_both_architectures_without_spills():
    found = resources()
    assert {kernel.architecture for kernel in found} == {"sm_80", "sm_90"}
    assert [kernel for kernel in found if kernel.spilled or kernel.stack] == []
    assert [kernel for kernel in found if kernel.registers > REGISTERS] == []
