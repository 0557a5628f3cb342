"""use(): what is asked for is what runs, where it was asked for and nowhere else."""

import asyncio
import logging
import threading

import pytest
import torch

from vitkiln.kernels import info_nce, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels._shared.choice import choose, forced


def test_every_operator_is_forced_where_none_is_named():
    with use("reference"):
        assert {forced(room) for room in choice.rooms()} == {"reference"}


def test_only_the_named_operators_are_forced():
    with use("reference", "place_tokens", "contrastive"):
        assert [forced("place_tokens"), forced("contrastive"), forced("patch_embed")] == ["reference"] * 2 + [None]


def test_the_inner_wish_counts_and_the_outer_returns():
    with use("reference"):
        with use("triton", "place_tokens"):
            assert (forced("place_tokens"), forced("patch_embed")) == ("triton", "reference")
        assert forced("place_tokens") == "reference"
    assert forced("place_tokens") is None


def test_a_wish_ends_with_an_error():
    with pytest.raises(RuntimeError), use("reference"):
        raise RuntimeError
    assert forced("place_tokens") is None


def test_another_thread_does_not_see_the_wish():
    seen = []
    with use("reference"):
        thread = threading.Thread(target=lambda: seen.append(forced("place_tokens")))
        thread.start()
        thread.join()
    assert seen == [None]


def test_concurrent_tasks_keep_their_own_wishes():
    async def wish(name: str) -> str | None:
        with use(name):
            await asyncio.sleep(0)
            return forced("place_tokens")

    async def both() -> list[str | None]:
        return await asyncio.gather(wish("reference"), wish("torch"))

    assert asyncio.run(both()) == ["reference", "torch"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("tritn",),
            "implementation: 'tritn'; must be one of reference, torch, triton, cudnn, flash, flash3, flash4; "
            "did you mean 'triton'",
        ),
        (("triton", "place_token"), "operators: 'place_token'; .*did you mean 'place_tokens'"),
        (("reference", ""), "operators: ''; must be one of"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(names, message):
    with pytest.raises(ValueError, match=message), use(*names):
        pass


@pytest.mark.parametrize(
    ("wish", "obstacle", "chosen"),
    [
        (None, None, "triton"),
        (None, "reason", "torch"),
        ("triton", None, "triton"),
        ("triton", "reason", "torch"),
        ("torch", None, "torch"),
        ("reference", None, "reference"),
    ],
)
def test_the_best_that_can_run_is_chosen_unless_another_is_asked_for(wish, obstacle, chosen):
    if wish is None:
        assert choose("place_tokens", obstacle, expected=False) == chosen
        return
    with use(wish):
        assert choose("place_tokens", obstacle, expected=False) == chosen


@pytest.mark.parametrize(("expected", "wish"), [(True, None), (False, "triton")])
def test_a_fallback_is_logged_once_with_its_reason(expected, wish, caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            if wish:
                with use(wish):
                    choose("patch_embed", "the moon is full", expected)
            else:
                choose("patch_embed", "the moon is full", expected)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["patch_embed: runs in plain PyTorch, because the moon is full"]


def test_a_fallback_that_nobody_expected_otherwise_is_silent(caplog):
    choice._note_once.cache_clear()
    choose("patch_embed", "the moon is full", expected=False)
    assert not caplog.records


def test_the_backward_pass_does_what_its_forward_pass_did(called):
    query, key = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    with use("reference"):
        loss = info_nce(query, key, 0.2)
    with called() as names:
        loss.sum().backward()
    assert "info_nce_backward" not in names


@pytest.mark.parametrize(("name", "present"), [("reference", False), ("torch", True)])
def test_compiled_code_keeps_the_wish_under_which_it_was_traced(name, present):
    targets: list[str] = []

    def backend(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(lambda q, k: info_nce(q, k, 0.2), backend=backend, fullgraph=True)
    with use(name):
        compiled(torch.randn(3, 4), torch.randn(3, 4))
    assert any("info_nce" in target for target in targets) == present
