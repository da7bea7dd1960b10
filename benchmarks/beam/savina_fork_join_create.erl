-module(savina_fork_join_create).
-export([run/1]).

compute(Number) -> Sine = math:sin(Number), trunc(Sine * Sine * 1000000).

once() -> receive {Sender, Number} -> Sender ! compute(Number) end.

run(Processes) ->
    Numbers = lists:seq(0, Processes - 1),
    [spawn_link(fun once/0) ! {self(), Number} || Number <- Numbers],
    Total = lists:sum([receive Result when is_integer(Result) -> Result end || _ <- Numbers]),
    Total = lists:sum([compute(Number) || Number <- Numbers]).
