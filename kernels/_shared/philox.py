"""Random numbers that depend on a key and a counter alone: the same on every device, batch split and restart.

Philox-4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011). The contract of this
package: key = seed[0], the run's seed; counter = (index // 4 + stream * 2^24, sample id low, sample id high,
seed[1], the step); the four words serve the indices 4i .. 4i+3. Streams 0 to 127 are the caller's, 128 to 255
belong to operators.
"""

import torch
from torch import Tensor

from .checks import refusal

ORDER, WRONG = 128, 129  # streams of sample_tokens
BLOCKS, NOISE = 130, 131  # streams of groups
WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(key: Tensor, counter: Tensor) -> Tensor:
    """Ten rounds of Philox on counters [4, ..] of 32-bit words held in int64; both halves of the int64 key count.

    >>> [f"{word:08x}" for word in philox(torch.tensor(0), torch.zeros(4, dtype=torch.int64)).tolist()]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    axes = (2,) + (1,) * (counter.dim() - 1)
    factor, step = (_pair(*words, counter).view(axes) for words in (MULTIPLIERS, KEY_STEPS))
    key = torch.stack([key, key >> 32]).view(axes) & WORD
    even, odd = counter[::2] & WORD, counter[1::2] & WORD
    for _ in range(10):
        high, low = _multiply(factor, even)
        even, odd = high.flip(0) ^ odd ^ key, low.flip(0)
        key = (key + step) & WORD
    return torch.stack([even, odd], 1).flatten(0, 1)


def _pair(first: int, second: int, like: Tensor) -> Tensor:
    """Made on the device, so that nothing is copied to it."""
    return torch.stack([like.new_full((), first), like.new_full((), second)])


def _multiply(factor: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of a 64-bit product, by 16-bit halves of the word so that int64 does not overflow."""
    low = (word & 0xFFFF) * factor
    high = (word >> 16) * factor
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & WORD


def bits(seed: Tensor, sample_ids: Tensor, *wanted: tuple[int, int]) -> list[Tensor]:
    """24 random bits for each sample and index: int64 [B, count] for each (count, stream) that is wanted."""
    device = sample_ids.device
    lengths = [(count + 3) // 4 for count, _ in wanted]
    groups = torch.cat(
        [torch.arange(n, device=device) + (stream << 24) for n, (_, stream) in zip(lengths, wanted, strict=True)]
    )
    ids = sample_ids[:, None]
    counter = torch.stack(torch.broadcast_tensors(groups, ids, ids >> 32, seed[1]))
    drawn = (philox(seed[0], counter) >> 8).movedim(0, -1).contiguous()  # [B, groups, 4]
    parts = zip(drawn.split(lengths, 1), wanted, strict=True)
    return [part.flatten(1)[:, :count] for part, (count, _) in parts]


def uniform(seed: Tensor, sample_ids: Tensor, count: int, stream: int = 0) -> Tensor:
    """u[b, i] = Philox(run seed; i, stream, sample id, step) / 2^32, in [0, 1): the top 24 bits, as float32.

    seed int64 [2] holds the run's seed and the step, sample_ids int64 [B] on the same device; the result is
    float32 [B, count], a function of (seed, step, sample id, stream, index) alone: neither batch split, world
    size nor restart changes it, and nothing waits for the device. Distinct streams (0 to 127) are
    independent. ValueError where an argument is of another type or shape.

    >>> uniform(torch.tensor([7, 0]), torch.tensor([3, 4]), count=2).mul(1000).int().tolist()
    [[542, 2], [474, 957]]
    """
    check_seed(seed, sample_ids)
    if not 0 <= count <= 1 << 26:
        raise refusal("count", count, "from 0 to 2^26")
    if not 0 <= stream < 128:
        raise refusal("stream", stream, "from 0 to 127")
    return fraction(bits(seed, sample_ids, (count, stream))[0])


def fraction(random_bits: Tensor) -> Tensor:
    return random_bits.to(torch.float32) * 2.0**-24


def check_seed(seed: Tensor, sample_ids: Tensor) -> None:
    if seed.dtype != torch.int64 or seed.shape != (2,):
        raise refusal("seed", seed, "int64 [2]: the run's seed and the step")
    if sample_ids.dtype != torch.int64 or sample_ids.dim() != 1:
        raise refusal("sample_ids", sample_ids, "int64 [B]")
    if seed.device != sample_ids.device:
        raise refusal("seed", seed, f"on {sample_ids.device}, as sample_ids is")
