-module(savina_counting).
-behaviour(gen_server).
-export([run/1, init/1, handle_call/3, handle_cast/2]).

init(N) -> {ok, N}.
handle_cast(increment, N) -> {noreply, N + 1}.
handle_call(value, _, N) -> {reply, N, N}.

run(Messages) ->
    {ok, Counter} = gen_server:start_link(?MODULE, 0, []),
    [gen_server:cast(Counter, increment) || _ <- lists:seq(1, Messages)],
    Messages = gen_server:call(Counter, value, infinity),
    gen_server:stop(Counter).
