-module(savina_ping_pong).
-export([run/1]).

run(Pings) ->
    Other = spawn_link(fun pong/0),
    Expected = Pings * (Pings - 1) div 2,
    Expected = ping(Other, 0, Pings, 0),
    unlink(Other),
    exit(Other, shutdown).

pong() ->
    receive {Sender, Number} -> Sender ! Number, pong() end.

ping(_, Pings, Pings, Total) -> Total;
ping(Other, Number, Pings, Total) ->
    Other ! {self(), Number},
    receive N when is_integer(N) -> ping(Other, Number + 1, Pings, Total + N) end.
