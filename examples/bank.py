"""Let it crash: a withdrawal of more than there is ends the account's process, and its supervisor starts it again.

    parallel-actors run examples/bank.py            (the reports of the crash are on standard error)

The account checks nothing but its rule. What breaks it raises, the caller gets the traceback, and the account is back
with the balance that the bank's book has: the book is a process of its own, so it outlives the crash.
"""

from __future__ import annotations

import parallel_actors as pa


class Book(pa.Actor):
    """Keeps the balances, and is asked by nobody but the accounts."""

    def __init__(self, balances: dict[str, int]) -> None:
        self.balances = balances

    @pa.call
    def balance(self, owner: str) -> int:
        return self.balances[owner]

    @pa.call
    def enter(self, owner: str, balance: int) -> None:
        self.balances[owner] = balance


class Account(pa.Actor):
    """One account. Begins with what the book says."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.book = pa.ref(Book, "book")
        self.funds = self.book.balance(owner)

    @pa.call
    def balance(self) -> int:
        return self.funds

    @pa.call
    def deposit(self, amount: int) -> int:
        return self._change(amount)

    @pa.call
    def withdraw(self, amount: int) -> int:
        if amount > self.funds:
            raise ValueError(f"{self.owner} has {self.funds}, and wanted {amount}")
        return self._change(-amount)

    def _change(self, amount: int) -> int:
        self.book.enter(self.owner, self.funds + amount)
        self.funds += amount
        return self.funds


def main() -> None:
    pa.Supervisor.start_link(
        [
            pa.child(Book, {"alice": 100, "bob": 50}, name="book"),
            pa.child(Account, "alice", name="alice"),
            pa.child(Account, "bob", name="bob"),
        ],
        strategy="rest_for_one",  # without its book no account is right
    )
    alice, bob = pa.ref(Account, "alice"), pa.ref(Account, "bob")  # by name: a restart changes the pid
    print(f"alice deposits 20: {alice.deposit(20)}")
    print(f"bob withdraws 30: {bob.withdraw(30)}")
    first = pa.whereis("bob")
    try:
        bob.withdraw(1_000_000)
    except pa.RemoteError as error:
        print(f"bob withdraws 1000000: {type(error.__cause__).__name__}: {error.__cause__}")
    while pa.whereis("bob") in (None, first):
        pa.sleep(0.001)
    print(f"bob is back: {bob.balance()}")
    print(f"alice saw nothing of it: {alice.balance()}")
