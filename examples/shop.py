"""A shop as two applications: the warehouse, and the shop itself, which needs it.

    parallel-actors run examples/shop.py:App
    parallel-actors run --env customers=20 --env shop:Warehouse.apples=100 examples/shop.py:App
    parallel-actors run --reload examples/shop.py:App

The warehouse starts before the shop and stops after it. Each customer is a task, on whatever core has time; at the end
of the day the shop stops itself, and with it the program. With `customers=0` it stays open until Ctrl-C: run it so by
`--reload`, change what the till says in `greet` and save: the till goes on with the new words, and with its money.
"""

from __future__ import annotations

import parallel_actors as pa

PRICE = 3


class Stock(pa.Actor):
    """What the warehouse has."""

    def __init__(self, apples: int) -> None:
        self.apples = apples

    @pa.call
    def take(self) -> bool:
        """Whether there was one more."""
        if self.apples == 0:
            return False
        self.apples -= 1
        return True

    def terminate(self, reason: object) -> None:
        print(f"the warehouse closes: {self.apples} apples are left")


class Till(pa.Actor):
    """Sells what the warehouse has."""

    def __init__(self) -> None:
        self.takings = 0
        pa.send_interval(1.0, pa.self_(), "greet")

    @pa.call
    def sell(self) -> bool:
        """Sell an apple; False: there is none left."""
        sold = pa.ref(Stock, "stock").take()
        self.takings += PRICE if sold else 0
        return sold

    @pa.call
    def count(self) -> int:
        return self.takings

    @pa.info("greet")
    def greet(self, message: object) -> None:
        print(f"the shop is open: {self.takings} taken so far")

    def terminate(self, reason: object) -> None:
        print(f"the shop closes: {self.takings} taken")


class Warehouse(pa.Application):
    env = {"apples": 12}  # noqa: RUF012 (declared by the base class)

    def start(self, args: list[str]) -> pa.Pid:
        apples = pa.application.get_env(Warehouse, "apples")
        return pa.Supervisor.start_link([pa.child(Stock, apples, name="stock")])


class App(pa.Application):
    applications = (Warehouse,)
    env = {"customers": 5}  # noqa: RUF012 (declared by the base class)

    def start(self, args: list[str]) -> pa.Pid:
        customers = pa.application.get_env(App, "customers")
        children = [pa.child(Till, name="till")]
        if customers:
            children.append(pa.child(day, customers, restart="transient"))
        return pa.Supervisor.start_link(children)


def customer() -> int:
    """Buys apples as long as there are any; how many it has got."""
    bought = 0
    while pa.ref(Till, "till").sell():
        bought += 1
    return bought


def day(customers: int) -> None:
    """One day: the shop closes when all customers have gone."""
    bought = [task.await_(timeout=None) for task in [pa.Task.async_(customer) for _ in range(customers)]]
    print(f"{customers} customers bought {sum(bought)} apples for {pa.ref(Till, 'till').count()}")
    pa.application.stop(App)
