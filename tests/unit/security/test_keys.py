"""Keys: given, or made once for everybody; never half."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from eventplat.errors import SettingsError
from eventplat.security.grant import GrantSigner, GrantVerifier
from eventplat.security.keys import FILE, Keys, ensure_keys, new_grant_key
from eventplat.security.principal import ANONYMOUS
from eventplat.settings import load

PRODUCTION: dict[str, Any] = {"profile": "production", "broker_url": "amqp://broker/", "database_url": "postgresql://database/"}


def test_keys_are_made_once_and_kept_for_the_owner_alone(tmp_path: Path) -> None:
    first = ensure_keys(load(data_dir=tmp_path / "new"))
    second = ensure_keys(load(data_dir=tmp_path / "new"))

    assert first == second
    assert stat.S_IMODE((tmp_path / "new" / FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]
    assert first.grant_private_pem is not None
    assert first.grant_public_pem is not None
    assert GrantVerifier(first.grant_public_pem).verify(GrantSigner(first.grant_private_pem).sign(ANONYMOUS, "x", 1)) == ANONYMOUS


def _made(folder: str) -> Keys:
    return ensure_keys(load(data_dir=Path(folder)))


def test_processes_that_start_together_agree_on_one_set_of_keys(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_made, [str(tmp_path)] * 8, chunksize=1)

    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_process_that_was_first_decides_also_when_the_other_one_had_not_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, first = os.link, []

    def comes_between(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        first.append(ensure_keys(load(data_dir=tmp_path)))
        link(source, target)

    monkeypatch.setattr(os, "link", comes_between)

    assert [ensure_keys(load(data_dir=tmp_path))] == first
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_two_folders_have_different_keys(tmp_path: Path) -> None:
    assert ensure_keys(load(data_dir=tmp_path / "a")) != ensure_keys(load(data_dir=tmp_path / "b"))


def test_production_makes_no_keys_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="EVENTPLAT_GRANT_PUBLIC_KEY"):
        ensure_keys(load(**PRODUCTION, data_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_service_in_production_needs_only_the_public_half(tmp_path: Path) -> None:
    public = ensure_keys(load(data_dir=tmp_path)).grant_public_pem

    keys = ensure_keys(load(**PRODUCTION, grant_public_key=public))

    assert keys == Keys(None, None, public)


def test_the_public_half_follows_from_the_private_one() -> None:
    private = new_grant_key()

    keys = ensure_keys(load(**PRODUCTION, grant_key=private, operation_key="o" * 32))

    assert keys.grant_public_pem is not None
    assert keys.grant_public_pem.startswith("-----BEGIN PUBLIC KEY-----")
    assert keys.operation_key == b"o" * 32


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"grant_key": "nonsense"}, "EVENTPLAT_GRANT_KEY"),
        ({"grant_public_key": "nonsense"}, "EVENTPLAT_GRANT_PUBLIC_KEY"),
        ({"grant_public_key": new_grant_key()}, "EVENTPLAT_GRANT_PUBLIC_KEY"),
    ],
    ids=["private", "public", "private as public"],
)
def test_a_key_that_is_none_stops_the_process_without_being_shown(wrong: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        ensure_keys(load(**PRODUCTION, **wrong))
    assert next(iter(wrong.values())) not in str(raised.value)


def test_halves_that_do_not_belong_together_stop_the_process(tmp_path: Path) -> None:
    other = ensure_keys(load(data_dir=tmp_path)).grant_public_pem

    with pytest.raises(SettingsError, match="not the public half"):
        ensure_keys(load(**PRODUCTION, grant_key=new_grant_key(), grant_public_key=other))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"operation_key": "x"}'])
def test_a_damaged_file_of_keys_says_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)

    with pytest.raises(SettingsError, match="Delete it"):
        ensure_keys(load(data_dir=tmp_path))


def test_keys_do_not_show_themselves(tmp_path: Path) -> None:
    keys = ensure_keys(load(data_dir=tmp_path))

    assert keys.operation_key is not None
    assert keys.operation_key.decode() not in repr(keys)
