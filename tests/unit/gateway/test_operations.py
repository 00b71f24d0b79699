"""Operation ids: only what this gateway wrote is read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.errors import UnknownOperation
from eventplat.gateway.operations import Operation, OperationIds
from eventplat.security.tokens import SUBJECT_CHARS_MAX

IDS = OperationIds(b"k" * 32)
OPERATION = Operation("shop", "018f3c2a-9d00-8d0b-a8f2-9bb9ed0c0c30", "ann")


def test_every_replica_under_the_same_key_reads_what_one_wrote() -> None:
    assert OperationIds(b"k" * 32).read(IDS.write(OPERATION)) == OPERATION


@pytest.mark.parametrize("subject", ["ann", "ünïcode", '"', "\\", "x" * SUBJECT_CHARS_MAX, "😀" * SUBJECT_CHARS_MAX])
def test_any_subject_that_a_token_may_have_fits_into_an_id(subject: str) -> None:
    operation = Operation("a-service-with-a-long-name", OPERATION.command_id, subject)
    text = IDS.write(operation)

    assert IDS.read(text) == operation
    assert text.isascii()
    assert not set(text) & set("/+=?#% ")


def test_an_id_of_another_key_is_unknown() -> None:
    with pytest.raises(UnknownOperation):
        IDS.read(OperationIds(b"other" * 8).write(OPERATION))


def test_no_bit_of_an_id_can_be_changed() -> None:
    whole = base64.urlsafe_b64decode(IDS.write(OPERATION) + "==")

    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(UnknownOperation):
            IDS.read(base64.urlsafe_b64encode(changed).decode().rstrip("="))


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(UnknownOperation):
        IDS.read(text)


def test_a_very_long_id_is_refused_unread() -> None:
    with pytest.raises(UnknownOperation):
        IDS.read("A" * 100_000)
