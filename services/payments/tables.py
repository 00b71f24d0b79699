"""Tables of payments: an account says how much, its entries say why.

Invariant: `account.balance` is the sum of the account's entries, and never below zero.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, String, Table

from services.kernel.columns import SERIAL, Moment, Thousandths, new_metadata

metadata = new_metadata()

account = Table(
    "account",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("holder", String(120), nullable=False),
    Column("is_guest", Boolean, nullable=False),
    Column("balance", Thousandths, CheckConstraint("balance >= 0", name="never_overdrawn"), nullable=False),
)

entry = Table(
    "entry",
    metadata,
    Column("entry_id", SERIAL, primary_key=True),
    Column("account_id", String(64), ForeignKey(account.c.account_id), nullable=False, index=True),
    Column("amount", Thousandths, nullable=False),        # signed: what was added to the balance
    Column("kind", String(12), nullable=False),           # deposit, charge, refund
    Column("order_id", String(64), index=True),
    Column("refund_id", String(64)),
    Column("at", Moment, nullable=False),
)
