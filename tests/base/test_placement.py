"""What depends on the device of a tensor."""

import torch

from implicit_em.base.placement import full_precision
from implicit_em.losses import lse
from implicit_em.models import TopK


def test_a_device_without_autocast_computes_as_it_is():
    """``meta`` has none, as some accelerators have none; torch raises if it is asked about it."""
    model = TopK(4, 6, k=2).to("meta")
    x = torch.empty(3, 5, 4, device="meta")
    assert lse(model.encode(x)).shape == (3,)
    with full_precision(x):
        assert (x @ x.mT).dtype == x.dtype


def test_full_precision_holds_within_autocast():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
