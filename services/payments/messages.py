"""Messages of payments: accounts, charges, refunds. Amounts are decimal text (`kernel.money`).

Next: payments.service
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from eventplat import Command, Key, Query
from services.kernel.money import Amount, Payment, Total
from services.kernel.names import IMPORT_MAX, AccountId, OrderId, RefundId

Holder = Annotated[str, Field(min_length=1, max_length=120)]


class Account(BaseModel):
    """An account as it stands."""

    account_id: AccountId
    holder: Holder
    is_guest: bool
    balance: Total


class ImportedAccounts(BaseModel):
    """How many accounts were opened."""

    accounts: int


class Charge(BaseModel):
    """What was taken for an order."""

    charge_id: int
    order_id: OrderId
    amount: Amount


class Refund(BaseModel):
    """What was given back."""

    refund_id: RefundId
    amount: Amount


class Ledger(BaseModel):
    """Whether the accounts agree with the entries: no money is made, none is lost."""

    accounts: int
    balances: Total
    deposited: Total
    charged: Total
    refunded: Total
    disagreeing: tuple[AccountId, ...]  # the first twenty


class OpenAccount(Command[Account], name="payments.open-account"):
    """Open an account; a guest's lives for one order."""

    account_id: Key[AccountId]
    holder: Holder
    is_guest: bool = False
    balance: Amount = Decimal(0)


class ImportAccounts(Command[ImportedAccounts], name="payments.import-accounts"):
    """Open many accounts, all or none."""

    accounts: Annotated[tuple[OpenAccount, ...], Field(min_length=1, max_length=IMPORT_MAX)]


class Deposit(Command[Account], name="payments.deposit"):
    """Pay into an account."""

    account_id: Key[AccountId]
    amount: Payment


class ChargePayment(Command[Charge], name="payments.charge-payment"):
    """Take the price of an order, whole or not at all."""

    account_id: Key[AccountId]
    order_id: OrderId
    amount: Amount


class RefundCharge(Command[None], name="payments.refund-charge"):
    """Undoes ChargePayment: whatever was taken for the order and not given back."""

    account_id: Key[AccountId]
    order_id: OrderId


class RefundPayment(Command[Refund], name="payments.refund-payment"):
    """Give back a part of what was taken for an order, never more."""

    account_id: Key[AccountId]
    order_id: OrderId
    refund_id: RefundId
    amount: Amount


class GetAccount(Query[Account], name="payments.get-account"):
    """One account."""

    account_id: Key[AccountId]


class ReadLedger(Query[Ledger], name="payments.read-ledger"):
    """Compare every account with its entries."""
