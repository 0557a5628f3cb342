"""The random numbers of a Triton kernel are those of PyTorch, to the bit."""

import torch
import triton
import triton.language as tl

from vitkiln.kernels._shared.philox import philox


@triton.jit
def draw(key_ptr, counter_ptr, out_ptr):
    c0, c1, c2, c3 = (
        tl.load(counter_ptr).to(tl.uint32),
        tl.load(counter_ptr + 1).to(tl.uint32),
        tl.load(counter_ptr + 2).to(tl.uint32),
        tl.load(counter_ptr + 3).to(tl.uint32),
    )
    w0, w1, w2, w3 = tl.philox(tl.load(key_ptr), c0, c1, c2, c3)
    tl.store(out_ptr, w0.to(tl.int64))
    tl.store(out_ptr + 1, w1.to(tl.int64))
    tl.store(out_ptr + 2, w2.to(tl.int64))
    tl.store(out_ptr + 3, w3.to(tl.int64))


def test_both_draw_the_same_words():
    for _ in range(10):
        key = torch.randint(-(2**63), 2**63 - 1, ())
        counter = torch.randint(0, 2**32, (4,))
        out = torch.empty(4, dtype=torch.int64)
        draw[(1,)](key, counter, out)
        assert torch.equal(out & 0xFFFFFFFF, philox(key, counter))
