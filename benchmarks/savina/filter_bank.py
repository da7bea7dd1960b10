"""Filter Bank: a signal goes through channels of delays and filters, and is summed up. Streams that branch and join."""

from __future__ import annotations

from collections.abc import Callable
from operator import mul
from typing import Any

import parallel_actors as pa
from benchmarks.savina import expect

PARAMETERS = {"simulations": 3_000, "columns": 64, "channels": 8}
QUICK = {"simulations": 60, "columns": 4, "channels": 3}

HIGHEST = 1_000  # the source counts to it, again and again
END = "end"


def delay(length: int, following: pa.Pid) -> None:
    state = [0] * length
    place = 0
    while (value := pa.receive()) != END:
        pa.send(following, state[place])
        state[place] = value
        place = (place + 1) % length
    pa.send(following, END)


def fir_filter(coefficients: list[int], following: pa.Pid) -> None:
    """From when on its ring is full: the sum of what is in it, weighted by the places there."""
    weights = coefficients[::-1]
    data = [0] * len(weights)
    count = 0
    while (value := pa.receive()) != END:
        data[count % len(data)] = value
        count += 1
        if count >= len(data):
            pa.send(following, sum(map(mul, data, weights)))
    pa.send(following, END)


def sample_filter(rate: int, following: pa.Pid) -> None:
    count = 0
    while (value := pa.receive()) != END:
        pa.send(following, value if count % rate == 0 else 0)
        count += 1
    pa.send(following, END)


def tagged_forward(channel: int, following: pa.Pid) -> None:
    while (value := pa.receive()) != END:
        pa.send(following, (channel, value))
    pa.send(following, END)


def integrator(channels: int, following: pa.Pid) -> None:
    """Hand on a value of each channel together, in the order in which they came."""
    waiting: list[dict[int, int]] = []
    ended = 0
    while ended < channels:
        match pa.receive():
            case (channel, value):
                for values in waiting:
                    if channel not in values:
                        values[channel] = value
                        break
                else:
                    waiting.append({channel: value})
                if len(waiting[0]) == channels:
                    pa.send(following, list(waiting.pop(0).values()))
            case _:
                ended += 1
    pa.send(following, END)


def combine(following: pa.Pid) -> None:
    while (values := pa.receive()) != END:
        pa.send(following, sum(values))
    pa.send(following, END)


def sink(to: pa.Pid) -> None:
    results = []
    while (value := pa.receive()) != END:
        results.append(value)
    pa.send(to, ("results", results))


def branches(banks: list[pa.Pid]) -> None:
    while True:
        value = pa.receive()
        for bank in banks:
            pa.send(bank, value)
        if value == END:
            return


def source(following: pa.Pid) -> None:
    current = 0
    while (producer := pa.receive()) != END:
        pa.send(following, current)
        current = (current + 1) % HIGHEST
        pa.send(producer, "next")
    pa.send(following, END)


def weights(columns: int, channels: int, channel: int) -> tuple[list[int], list[int]]:
    """The coefficients of a channel's two filters."""
    first = [i * columns + channel * channels + 2 * channel + i + 1 for i in range(columns)]
    second = [i * channel + channel * channel + channel + i + 1 for i in range(columns)]
    return first, second


def run(simulations: int, columns: int, channels: int) -> None:
    me = pa.self_()
    results = pa.spawn_link(sink, me)
    join = pa.spawn_link(integrator, channels, pa.spawn_link(combine, results))
    banks = []
    for channel in range(channels):
        first, second = weights(columns, channels, channel)
        stages: list[tuple[Callable[..., None], Any]] = [
            (delay, columns - 1),
            (fir_filter, first),
            (sample_filter, columns),
            (delay, columns - 1),
            (fir_filter, second),
            (tagged_forward, channel),
        ]
        following = join
        for stage, setting in reversed(stages):
            following = pa.options(worker=channel % pa.worker_count()).spawn_link(stage, setting, following)
        banks.append(following)
    entry = pa.spawn_link(source, pa.spawn_link(branches, banks))
    for _ in range(simulations):
        pa.send(entry, me)
        pa.receive("next")
    pa.send(entry, END)
    _, got = pa.receive(("results", list))
    expect("what comes out", plain(simulations, columns, channels), got)


def plain(simulations: int, columns: int, channels: int) -> list[int]:
    """The same by sums over the whole signal."""

    def filtered(signal: list[int], coefficients: list[int]) -> list[int]:
        weights = coefficients[::-1]
        return [
            sum(signal[at] * weights[at % columns] for at in range(end - columns, end))
            for end in range(columns, len(signal) + 1)
        ]

    delayed = ([0] * (columns - 1) + [number % HIGHEST for number in range(simulations)])[:simulations]
    outputs = []
    for channel in range(channels):
        first, second = weights(columns, channels, channel)
        # Of what the first filter gives, each value that isn't sampled is 0: only the sampled ones are computed.
        sampled = [0] * max(0, simulations - columns + 1)
        for at in range(0, len(sampled), columns):
            sampled[at] = filtered(delayed[at : at + columns], first)[0]
        late = ([0] * (columns - 1) + sampled)[: len(sampled)]
        outputs.append(filtered(late, second))
    return [sum(values) for values in zip(*outputs, strict=True)]
