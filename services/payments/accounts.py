"""Accounts: every change of a balance goes through `book`, which writes the account and its entry together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from eventplat import Context, Rejected
from services.kernel.money import text
from services.payments.messages import OpenAccount
from services.payments.tables import account, entry

NAMED_MAX = 20  # accounts that a refusal lists


async def known(ctx: Context[None], account_ids: Collection[str]) -> list[str]:
    """Those of `account_ids` that are open."""
    ids = account.c.account_id
    return list((await ctx.db.execute(select(ids).where(ids.in_(sorted(account_ids))).order_by(ids))).scalars())


async def open_all(ctx: Context[None], accounts: Sequence[OpenAccount]) -> None:
    """Open new accounts, each with what is paid in at once."""
    in_order = sorted(accounts, key=lambda each: each.account_id)
    await ctx.db.execute(insert(account), [each.model_dump() for each in in_order])
    paid_in = [each for each in in_order if each.balance]
    if deposits := [{"account_id": each.account_id, "amount": each.balance, "kind": "deposit", "at": ctx.now} for each in paid_in]:
        await ctx.db.execute(insert(entry), deposits)


async def locked(ctx: Context[None], account_id: str, *, unknown: int = 422) -> Row[Any]:
    """The account's row, locked until the transaction ends.

    Raises:
        Rejected: "unknown_account", with the status `unknown`: 404 where the account is what the URL names.
    """
    found = (await ctx.db.execute(select(account).where(account.c.account_id == account_id).with_for_update())).one_or_none()
    if found is None:
        raise Rejected("unknown_account", status=unknown, account_id=account_id)
    return found


async def book(
    ctx: Context[None], of: Row[Any], change: Decimal, *, kind: str, order_id: str | None = None, refund_id: str | None = None
) -> int:
    """Add `change` pounds (signed) to a locked account; returns the number of the entry.

    Raises:
        Rejected: "insufficient_funds". Nothing stops money from coming in: an undo must always succeed.
    """
    after = of.balance + change
    if after < 0:
        raise Rejected("insufficient_funds", account_id=of.account_id, balance=text(of.balance), wanted=text(-change))
    await ctx.db.execute(update(account).where(account.c.account_id == of.account_id).values(balance=after))
    written = insert(entry).values(
        account_id=of.account_id, amount=change, kind=kind, order_id=order_id, refund_id=refund_id, at=ctx.now
    )
    return int((await ctx.db.execute(written.returning(entry.c.entry_id))).scalar_one())


async def taken_for(ctx: Context[None], account_id: str, order_id: str) -> Decimal:
    """What the account paid for the order and did not get back, in pounds."""
    query = select(func.sum(entry.c.amount)).where(entry.c.order_id == order_id, entry.c.account_id == account_id)
    booked: Decimal | None = (await ctx.db.execute(query)).scalar_one()
    return Decimal(0) if booked is None else -booked
