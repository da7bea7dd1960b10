-module(savina_concurrent_sorted_list).
-behaviour(gen_server).
-export([run/5, init/1, handle_call/3, handle_cast/2]).

init(Items) -> {ok, Items}.
handle_call({add, Value}, _, Items) -> {reply, ok, add(Value, Items)};
handle_call({contains, Value}, _, Items) -> {reply, contains(Value, Items), Items};
handle_call(size, _, Items) -> {reply, length(Items), Items};
handle_call(everything, _, Items) -> {reply, Items, Items}.
handle_cast(_, Items) -> {noreply, Items}.

add(Value, [First | Rest]) when First < Value -> [First | add(Value, Rest)];
add(Value, Items) -> [Value | Items].

contains(Value, [First | Rest]) when First < Value -> contains(Value, Rest);
contains(Value, [Value | _]) -> true;
contains(_, _) -> false.

%% What a client asks for, one by one.
plan(0, _, _, _, _, _, Result) -> Result;
plan(Requests, Writes, Sizes, Values, Random, Do, Result) ->
    {Percent, Random1} = rand:uniform_s(100, Random),
    {Value, Next} = rand:uniform_s(Values, Random1),
    What = if
        Percent =< Writes -> add;
        Percent =< Writes + Sizes -> size;
        true -> contains
    end,
    plan(Requests - 1, Writes, Sizes, Values, Next, Do, Do(What, Value, Result)).

%% The values that were there when it asked, and its own.
client(Server, Requests, Writes, Sizes, Values, Random) ->
    Do = fun
        (add, Value, {Found, Added}) ->
            ok = gen_server:call(Server, {add, Value}, infinity),
            {Found, [Value | Added]};
        (size, _, {_, Added} = Result) ->
            true = gen_server:call(Server, size, infinity) >= length(Added),
            Result;
        (contains, Value, {Found, Added} = Result) ->
            case gen_server:call(Server, {contains, Value}, infinity) of
                true -> {[Value | Found], Added};
                false -> false = lists:member(Value, Added), Result
            end
    end,
    {Found, _} = plan(Requests, Writes, Sizes, Values, Random, Do, {[], []}),
    Found.

run(Clients, Requests, Writes, Sizes, Values) ->
    {ok, Server} = gen_server:start_link(?MODULE, [], []),
    Me = self(),
    Randoms = [rand:seed_s(exsss, Seed) || Seed <- lists:seq(1, Clients)],
    [spawn_link(fun() -> Me ! {found, client(Server, Requests, Writes, Sizes, Values, Random)} end)
     || Random <- Randoms],
    Found = lists:append([receive {found, One} -> One end || _ <- Randoms]),
    Everything = gen_server:call(Server, everything),
    gen_server:stop(Server),
    Do = fun(add, Value, Added) -> [Value | Added]; (_, _, Added) -> Added end,
    Everything = lists:sort(lists:append([plan(Requests, Writes, Sizes, Values, Random, Do, []) || Random <- Randoms])),
    [] = ordsets:subtract(ordsets:from_list(Found), ordsets:from_list(Everything)).
