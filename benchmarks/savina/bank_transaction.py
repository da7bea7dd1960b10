"""Bank Transaction: accounts send each other money; the sender waits for the receiver. Calls along chains of actors."""

from __future__ import annotations

import random
from collections.abc import Iterator

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"accounts": 1_000, "transactions": 30_000}
QUICK = {"accounts": 20, "transactions": 50}

FUNDS = 1_000_000
SEED = 1


class Account(pa.Actor):
    def __init__(self) -> None:
        self.funds = FUNDS

    @pa.cast
    def transfer(self, amount: int, to: Account, teller: pa.Pid) -> None:
        self.funds -= amount
        to.deposit.options(timeout=None)(amount)  # it may have many transfers of its own before this
        pa.send(teller, "done")

    @pa.call
    def deposit(self, amount: int) -> None:
        self.funds += amount

    @pa.call
    def balance(self) -> int:
        return self.funds


def drawn(accounts: int, transactions: int) -> Iterator[tuple[int, int, int]]:
    """From whom, to whom and how much. Always to a later account: so nobody waits in a circle."""
    numbers = random.Random(SEED)
    for _ in range(transactions):
        giver = numbers.randrange(accounts * 8 // 10)
        yield giver, numbers.randrange(giver + 1, accounts), numbers.randrange(1_000)


def run(accounts: int, transactions: int) -> None:
    me = pa.self_()
    all_accounts = [pa.options(worker=n % pa.worker_count()).start_link(Account) for n in range(accounts)]
    for giver, taker, amount in drawn(accounts, transactions):
        all_accounts[giver].transfer(amount, all_accounts[taker], me)
    for _ in range(transactions):
        pa.receive("done")
    balances = [account.balance() for account in all_accounts]
    for account in all_accounts:
        pa.stop(account)

    expected = [FUNDS] * accounts
    for giver, taker, amount in drawn(accounts, transactions):
        expected[giver] -= amount
        expected[taker] += amount
    expect("the money there is", accounts * FUNDS, sum(balances))
    expect("the balances", expected, balances)
