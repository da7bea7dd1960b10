-module(savina_fork_join_throughput).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

init(Total) -> {ok, Total}.
handle_cast({add, Number}, Total) -> {noreply, Total + square(Number)}.
handle_call(sum, _, Total) -> {reply, Total, Total}.

square(Number) -> Sine = math:sin(Number), Sine * Sine.

run(Actors, Messages) ->
    Adders = [begin {ok, Adder} = gen_server:start_link(?MODULE, 0.0, []), Adder end || _ <- lists:seq(1, Actors)],
    Numbers = lists:seq(0, Messages - 1),
    [gen_server:cast(Adder, {add, Number}) || Number <- Numbers, Adder <- Adders],
    Total = lists:foldl(fun(Number, Sum) -> Sum + square(Number) end, 0.0, Numbers),
    [Total = gen_server:call(Adder, sum, infinity) || Adder <- Adders],
    [gen_server:stop(Adder) || Adder <- Adders].
