"""Accounts add up, whatever is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compressor.accounting.account import Account, Claim, Found, Portion, What, account, tiled

PLACES = st.integers(-5, 40)
CLAIMS = st.lists(st.builds(Claim, st.just("f"), PLACES, PLACES, st.sampled_from(What), st.sampled_from("ab")))


@given(CLAIMS, st.integers(0, 30))
@example([Claim("f", 1, 5, What.WEIGHTS, "a"), Claim("f", 1, 5, What.WEIGHTS, "b")], 6)
def test_every_byte_is_told_once(claims: list[Claim], nbytes: int) -> None:
    """A reference that paints byte by byte: of claims on a byte the one that begins last, of equal runs the first."""
    painted: list[Claim | None] = [None] * nbytes
    order = sorted(range(len(claims)), key=lambda place: (claims[place].start, -claims[place].end, -place))
    for claim in (claims[place] for place in order):
        for at in range(max(claim.start, 0), min(claim.end, nbytes)):
            painted[at] = claim
    told = [true for start, end, true in tiled(claims, nbytes) for _ in range(start, end)]
    whats = [(one and one.what, one and one.name) for one in told]
    assert len(told) == nbytes
    assert whats == [(one and one.what, one and one.name) for one in painted]


@pytest.mark.parametrize("nbytes", [9, 11])
def test_an_account_that_does_not_add_up_is_a_defect(nbytes: int) -> None:
    with pytest.raises(AssertionError, match=f"f: {nbytes} of 10 bytes"):
        Account({"f": 10}, [Portion("f", What.WEIGHTS, "w", nbytes)])


def test_portions_of_one_thing_are_one_and_the_largest_is_first() -> None:
    names = [Claim("f", 0, 3, What.NAMES, "a"), Claim("f", 11, 12, What.NAMES, "a")]
    found = Found(Path(), {"f": 12, "empty": 0}, [*names, Claim("f", 5, 11, What.WEIGHTS, "w")])
    made = account(found, lambda file, *run: Claim(file, *run, What.PADDING, "gap"))
    assert made.portions == (
        Portion("f", What.WEIGHTS, "w", 6),
        Portion("f", What.NAMES, "a", 4),
        Portion("f", What.PADDING, "gap", 2),
    )
    assert (made.nbytes, made.by_what()) == (12, {What.WEIGHTS: 6, What.NAMES: 4, What.PADDING: 2})
