"""What only a GPU can show; without one these are skipped, and `test_gpu_check` runs the same functions on the CPU."""

from collections.abc import Callable

import gpuchecks
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]


@pytest.mark.parametrize("check", gpuchecks.CHECKS, ids=lambda check: check.__name__)
def test_on_the_gpu(check: Callable[[torch.device], None]) -> None:
    try:
        check(torch.device("cuda"))
    except gpuchecks.NotHere as reason:
        pytest.skip(str(reason))
