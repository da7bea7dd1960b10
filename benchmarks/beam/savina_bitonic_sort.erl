-module(savina_bitonic_sort).
-export([run/1]).

run(Values) ->
    Next = fun(_, State) -> rand:uniform_s(1 bsl 59, State) end,
    {Numbers, _} = lists:mapfoldl(Next, rand:seed_s(exsss, 2048), lists:seq(1, Values)),
    Me = self(),
    Whole = spawn_link(fun() -> network(Me, Values) end),
    Begin = receive {begins, Input} -> Input end,
    [pass(Begin, Number) || Number <- Numbers],
    Sorted = lists:sort(Numbers),
    Sorted = [receive {0, Number} -> Number end || _ <- Numbers],
    unlink(Whole),
    exit(Whole, shutdown).

%% An input: {process, port}.
pass({Pid, Port}, Value) -> Pid ! {Port, Value}.

%% The processes.

splitter(Outs, Length) ->
    [deal(Out, Length) || Out <- Outs],
    splitter(Outs, Length).

deal(_, 0) -> ok;
deal(Out, Length) ->
    receive {_, Value} -> pass(Out, Value) end,
    deal(Out, Length - 1).

joiner(Out, Ports, Length) -> joiner(Out, Ports, Length, 0, Length, #{}).

joiner(Out, Ports, Length, Port, 0, Waiting) ->
    joiner(Out, Ports, Length, (Port + 1) rem Ports, Length, Waiting);
joiner(Out, Ports, Length, Port, Left, Waiting) ->
    case Waiting of
        #{Port := Queue} ->
            {{value, Value}, Rest} = queue:out(Queue),
            pass(Out, Value),
            Others = case queue:is_empty(Rest) of
                true -> maps:remove(Port, Waiting);
                false -> Waiting#{Port := Rest}
            end,
            joiner(Out, Ports, Length, Port, Left - 1, Others);
        #{} ->
            receive
                {From, Value} ->
                    Queue = maps:get(From, Waiting, queue:new()),
                    joiner(Out, Ports, Length, Port, Left, Waiting#{From => queue:in(Value, Queue)})
            end
    end.

compare_exchange(Out, Up) ->
    receive {_, A} -> receive {_, B} ->
        {First, Second} = if (A =< B) =:= Up -> {A, B}; true -> {B, A} end,
        pass(Out, First),
        pass(Out, Second)
    end end,
    compare_exchange(Out, Up).

%% The network, from its end; it ends when this process does.

network(Sink, Values) ->
    Sink ! {begins, stages({Sink, 0}, Values, Values)},
    receive never -> ok end.

stages(Out, _, 1) -> Out;
stages(Out, Values, Length) -> stages(stage(Out, Values, Length), Values, Length div 2).

stage(Out, Values, Values) -> merge(Out, Values, true, 2);
stage(Out, _, Length) ->
    Both = spawn_link(fun() -> joiner(Out, 2, Length) end),
    Halves = [merge({Both, 0}, Length, true, 2), merge({Both, 1}, Length, false, 2)],
    {spawn_link(fun() -> splitter(Halves, Length) end), 0}.

merge(Out, Length, _, Part) when Part > Length -> Out;
merge(Out, Length, Up, Part) -> merge(partition(Out, Part, Up), Length, Up, 2 * Part).

partition(Out, Length, Up) ->
    Half = Length div 2,
    End = spawn_link(fun() -> joiner(Out, Half, 1) end),
    Pairs = [{spawn_link(fun() -> compare_exchange({End, Port}, Up) end), 0} || Port <- lists:seq(0, Half - 1)],
    {spawn_link(fun() -> splitter(Pairs, 1) end), 0}.
