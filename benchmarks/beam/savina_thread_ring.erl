-module(savina_thread_ring).
-export([run/2]).

member(Home, Place) -> receive {next, Next} -> pass(Home, Place, Next, 0) end.

pass(Home, Place, Next, Passed) ->
    receive
        0 -> Home ! {last, Place}, pass(Home, Place, Next, Passed);
        stop -> Home ! {Place, Passed};
        Left -> Next ! Left - 1, pass(Home, Place, Next, Passed + 1)
    end.

run(Processes, Hops) ->
    Me = self(),
    Ring = [First | Rest] = [spawn_link(fun() -> member(Me, Place) end) || Place <- lists:seq(0, Processes - 1)],
    lists:foreach(fun({Pid, Next}) -> Pid ! {next, Next} end, lists:zip(Ring, Rest ++ [First])),
    First ! Hops,
    Last = Hops rem Processes,
    receive {last, Place} -> Last = Place end,
    [Pid ! stop || Pid <- Ring],
    Counts = lists:sort([receive {Where, Passed} when is_integer(Where) -> {Where, Passed} end || _ <- Ring]),
    Counts = [{Where, (Hops + Processes - 1 - Where) div Processes} || Where <- lists:seq(0, Processes - 1)].
