"""Random numbers: Philox-4x32-10 to the bit, a function of seed, step, sample id, stream and index alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitkiln.kernels import uniform
from vitkiln.kernels._shared.philox import philox

KNOWN = [  # the known-answer vectors of Random123: counter, key, words
    ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
MULTIPLIERS, STEPS, WORD = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 0xFFFFFFFF


def plain(key: int, counter: list[int]) -> list[int]:
    """The published rounds in Python's unbounded integers."""
    (k0, k1), (c0, c1, c2, c3) = (key & WORD, key >> 32 & WORD), counter
    for _ in range(10):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = product1 >> 32 ^ c1 ^ k0, product1 & WORD, product0 >> 32 ^ c3 ^ k1, product0 & WORD
        k0, k1 = k0 + STEPS[0] & WORD, k1 + STEPS[1] & WORD
    return [c0, c1, c2, c3]


def words(key: int, counter: list[int]) -> list[int]:
    return philox(torch.tensor(key), torch.tensor(counter)).tolist()


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert " ".join(f"{word:08x}" for word in words(key, counter)) == expected


@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, WORD), min_size=4, max_size=4))
def test_every_key_and_counter_gives_the_published_words(key, counter):
    assert words(key, counter) == plain(key, counter)


@settings(max_examples=30)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31),
    st.integers(0, 2**63 - 1),
    st.integers(1, 9),
    st.integers(0, 127),
)
def test_the_contract_of_key_and_counter(run, step, sample_id, count, stream):
    ours = uniform(torch.tensor([run, step]), torch.tensor([sample_id]), count, stream)[0]
    for index in range(count):
        counter = [index // 4 + (stream << 24), sample_id & WORD, sample_id >> 32, step]
        assert ours[index].item() == (plain(run, counter)[index % 4] >> 8) / 2**24


def test_neither_batch_nor_order_nor_count_matters():
    seed, ids = torch.tensor([3, 17]), torch.tensor([5, 2**40, 0, 9])
    whole = uniform(seed, ids, 10)
    parts = torch.cat([uniform(seed, ids[i : i + 1], 7) for i in (3, 2, 1, 0)]).flip(0)
    assert torch.equal(whole[:, :7], parts)


@pytest.mark.parametrize("change", ["run", "step", "sample", "stream"])
def test_any_part_of_the_counter_changes_the_numbers(change):
    seed, ids = torch.tensor([3, 17]), torch.tensor([5])
    other_seed = seed + torch.tensor({"run": [1, 0], "step": [0, 1]}.get(change, [0, 0]))
    other = uniform(other_seed, ids + (change == "sample"), 64, stream=int(change == "stream"))
    assert not torch.isclose(uniform(seed, ids, 64), other, atol=1e-6).any()


def test_numbers_fill_the_unit_interval_evenly():
    numbers = uniform(torch.tensor([0, 0]), torch.arange(200), 500)
    assert numbers.dtype == torch.float32
    assert 0 <= numbers.min() < numbers.max() < 1
    share = torch.histc(numbers, 10, 0, 1) / numbers.numel()
    assert (share - 0.1).abs().max() < 5 * (0.09 / numbers.numel()) ** 0.5


def test_no_samples_and_no_numbers_are_allowed():
    seed = torch.tensor([0, 0])
    assert uniform(seed, torch.empty(0, dtype=torch.int64), 3).shape == (0, 3)
    assert uniform(seed, torch.arange(2), 0).shape == (2, 0)


def test_compiles_without_a_break():
    seed, ids = torch.tensor([3, 17]), torch.arange(3)
    compiled = torch.compile(uniform, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(seed, ids, 9), uniform(seed, ids, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": torch.zeros(2)}, r"seed: float32 \[2\] on cpu; must be int64 \[2\]"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, r"seed: int64 \[3\]"),
        (
            {"seed": torch.zeros(2, dtype=torch.int64, device="meta")},
            "seed: .*must be on cpu, as sample_ids is",
        ),
        ({"sample_ids": torch.zeros(2, dtype=torch.int32)}, r"sample_ids: int32 \[2\]"),
        ({"count": -1}, r"count: -1; must be from 0 to 2\^26"),
        ({"stream": 128}, "stream: 128; must be from 0 to 127"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"seed": torch.tensor([0, 0]), "sample_ids": torch.arange(2), "count": 4, **changes}
    with pytest.raises(ValueError, match=message):
        uniform(**arguments)
