"""Payments: accounts, charges and refunds, exact to a thousandth of a pound.

Next: payments.accounts
"""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import func, select

from eventplat import Context, Rejected, Route, Service
from services.kernel.money import AMOUNT_MAX, text
from services.kernel.names import repeated
from services.payments.accounts import NAMED_MAX, book, known, locked, open_all, taken_for
from services.payments.messages import (
    Account,
    Charge,
    ChargePayment,
    Deposit,
    GetAccount,
    ImportAccounts,
    ImportedAccounts,
    Ledger,
    OpenAccount,
    ReadLedger,
    Refund,
    RefundCharge,
    RefundPayment,
)
from services.payments.tables import account, entry, metadata

payments: Service[None] = Service("payments", tables=metadata)


@payments.handles(OpenAccount, http=Route("POST /accounts", status=201), requires="payments:write")
async def open_account(command: OpenAccount, ctx: Context[None]) -> Account:
    """Open an account, with what is paid in at once."""
    if await known(ctx, [command.account_id]):
        raise Rejected("account_exists", account_id=command.account_id)
    await open_all(ctx, [command])
    return Account(**command.model_dump())


@payments.handles(ImportAccounts, http=Route("POST /account-imports", status=201), requires="payments:write")
async def import_accounts(command: ImportAccounts, ctx: Context[None]) -> ImportedAccounts:
    """Open many accounts: all of them, or none."""
    ids = [each.account_id for each in command.accounts]
    if twice := repeated(ids):
        raise Rejected("account_twice", status=422, account_ids=twice[:NAMED_MAX], count=len(twice))
    if exist := await known(ctx, ids):
        raise Rejected("accounts_exist", account_ids=exist[:NAMED_MAX], count=len(exist))
    await open_all(ctx, command.accounts)
    return ImportedAccounts(accounts=len(ids))


@payments.handles(GetAccount, http="GET /accounts/{account_id}", requires="payments:read")
async def get_account(query: GetAccount, ctx: Context[None]) -> Account:
    """Read an account and its balance."""
    found = (await ctx.db.execute(select(account).where(account.c.account_id == query.account_id))).one_or_none()
    if found is None:
        raise Rejected("unknown_account", status=404, account_id=query.account_id)
    return Account.model_validate(found, from_attributes=True)


@payments.handles(Deposit, http=Route("POST /accounts/{account_id}/deposits", status=201), requires="payments:write")
async def deposit(command: Deposit, ctx: Context[None]) -> Account:
    """Pay into an account."""
    found = await locked(ctx, command.account_id, unknown=404)
    after = found.balance + command.amount
    if after > AMOUNT_MAX:
        raise Rejected("balance_too_large", account_id=command.account_id, largest=text(AMOUNT_MAX))
    await book(ctx, found, command.amount, kind="deposit")
    return Account(account_id=found.account_id, holder=found.holder, is_guest=found.is_guest, balance=after)


@payments.handles(ChargePayment, requires="payments:charge")
async def charge(command: ChargePayment, ctx: Context[None]) -> Charge:
    """Take the price of an order, or refuse it."""
    found = await locked(ctx, command.account_id)
    entry_id = await book(ctx, found, -command.amount, kind="charge", order_id=command.order_id)
    return Charge(charge_id=entry_id, order_id=command.order_id, amount=command.amount)


@payments.handles(RefundCharge, requires="payments:charge")
async def refund_charge(command: RefundCharge, ctx: Context[None]) -> None:
    """Give back whatever was taken for the order."""
    found = await locked(ctx, command.account_id)
    taken = await taken_for(ctx, command.account_id, command.order_id)
    if taken:
        await book(ctx, found, taken, kind="refund", order_id=command.order_id)


@payments.handles(RefundPayment, requires="payments:charge")
async def refund_payment(command: RefundPayment, ctx: Context[None]) -> Refund:
    """Give back a part of what was taken for an order, never more."""
    found = await locked(ctx, command.account_id)
    taken = await taken_for(ctx, command.account_id, command.order_id)
    if command.amount > taken:
        raise Rejected("more_than_taken", order_id=command.order_id, taken=text(taken), wanted=text(command.amount))
    await book(ctx, found, command.amount, kind="refund", order_id=command.order_id, refund_id=command.refund_id)
    return Refund(refund_id=command.refund_id, amount=command.amount)


@payments.handles(ReadLedger, http="GET /ledger", requires="payments:read")
async def read_ledger(query: ReadLedger, ctx: Context[None]) -> Ledger:
    """Compare every account with the sum of its entries."""
    by_kind = select(entry.c.kind, func.sum(entry.c.amount).label("amount")).group_by(entry.c.kind)
    sums = {row.kind: row.amount for row in await ctx.db.execute(by_kind)}
    accounts, balances = (await ctx.db.execute(select(func.count(), func.sum(account.c.balance)).select_from(account))).one()
    booked = func.coalesce(func.sum(entry.c.amount), Decimal(0))
    wrong = (
        select(account.c.account_id)
        .outerjoin(entry, entry.c.account_id == account.c.account_id)
        .group_by(account.c.account_id, account.c.balance)
        .having(booked != account.c.balance)
        .order_by(account.c.account_id)
        .limit(20)
    )
    zero = Decimal(0)
    return Ledger(
        accounts=accounts, balances=balances or zero, deposited=sums.get("deposit", zero), charged=-sums.get("charge", zero),
        refunded=sums.get("refund", zero), disagreeing=tuple((await ctx.db.execute(wrong)).scalars()),
    )  # fmt: skip
