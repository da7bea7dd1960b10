-module(savina_concurrent_dictionary).
-behaviour(gen_server).
-export([run/4, init/1, handle_call/3, handle_cast/2]).

init(Keys) -> {ok, maps:from_list([{Key, Key} || Key <- lists:seq(0, Keys - 1)])}.
handle_call({read, Key}, _, Values) -> {reply, map_get(Key, Values), Values};
handle_call({write, Key, Value}, _, Values) -> {reply, ok, Values#{Key => Value}};
handle_call(everything, _, Values) -> {reply, Values, Values}.
handle_cast(_, Values) -> {noreply, Values}.

%% A client's requests: a key, and what to write there or none. What is written tells by its remainder where.
plan(Seed, Requests, Percent, Keys, Do, Result) ->
    plan(1, Seed, Requests, Percent, Keys, rand:seed_s(exsss, Seed), Do, Result).

plan(Number, _, Requests, _, _, _, _, Result) when Number > Requests -> Result;
plan(Number, Seed, Requests, Percent, Keys, Random, Do, Result) ->
    {Chance, Random1} = rand:uniform_s(100, Random),
    {Place, Next} = rand:uniform_s(Keys, Random1),
    Key = Place - 1,
    Value = case Chance =< Percent of
        true -> (Seed * Requests + Number) * Keys + Key;
        false -> none
    end,
    plan(Number + 1, Seed, Requests, Percent, Keys, Next, Do, Do(Key, Value, Result)).

client(Dictionary, Seed, Requests, Percent, Keys) ->
    Do = fun
        (Key, none, Read) ->
            Key = gen_server:call(Dictionary, {read, Key}, infinity) rem Keys,
            Read + 1;
        (Key, Value, Read) ->
            ok = gen_server:call(Dictionary, {write, Key, Value}, infinity),
            Read
    end,
    plan(Seed, Requests, Percent, Keys, Do, 0).

run(Clients, Requests, Percent, Keys) ->
    {ok, Dictionary} = gen_server:start_link(?MODULE, Keys, []),
    Me = self(),
    Seeds = lists:seq(0, Clients - 1),
    [spawn_link(fun() -> Me ! {read, client(Dictionary, Seed, Requests, Percent, Keys)} end) || Seed <- Seeds],
    Read = lists:sum([receive {read, Count} -> Count end || _ <- Seeds]),
    Everything = gen_server:call(Dictionary, everything),
    gen_server:stop(Dictionary),

    %% What is there for a key is the last that one of the clients has written, whichever was the last of them.
    Lasts = [plan(Seed, Requests, Percent, Keys, fun last/3, {0, #{}}) || Seed <- Seeds],
    Read = Clients * Requests - lists:sum([Writes || {Writes, _} <- Lasts]),
    Possible = lists:foldl(
        fun({_, Last}, All) -> maps:fold(fun(Key, Value, Acc) -> add(Key, Value, Acc) end, All, Last) end, #{}, Lasts),
    Keys = map_size(Everything),
    [true = lists:member(map_get(Key, Everything), maps:get(Key, Possible, [Key])) || Key <- lists:seq(0, Keys - 1)].

last(_, none, Result) -> Result;
last(Key, Value, {Writes, Last}) -> {Writes + 1, Last#{Key => Value}}.

add(Key, Value, All) -> All#{Key => [Value | maps:get(Key, All, [])]}.
