-module(savina_producer_consumer).
-behaviour(gen_server).
-export([run/5, init/1, handle_call/3, handle_cast/2]).

%% items: in the buffer; producers wait for room, consumers for an item.
-record(buffer, {room, count = 0, most = 0, closed = false,
                 items = queue:new(), producers = queue:new(), consumers = queue:new()}).

init(Room) -> {ok, #buffer{room = Room}}.

handle_call({put, Item}, From, Buffer) ->
    {noreply, go_on(Buffer#buffer{producers = queue:in({From, Item}, Buffer#buffer.producers)})};
handle_call(get, From, Buffer) ->
    {noreply, go_on(Buffer#buffer{consumers = queue:in(From, Buffer#buffer.consumers)})};
handle_call(close, _, Buffer) ->
    Closed = go_on(Buffer#buffer{closed = true}),
    {reply, Closed#buffer.most, Closed}.

handle_cast(_, Buffer) -> {noreply, Buffer}.

go_on(#buffer{count = Count} = Buffer) ->
    Producer = Count < Buffer#buffer.room andalso queue:out(Buffer#buffer.producers),
    Consumer = (Count > 0 orelse Buffer#buffer.closed) andalso queue:out(Buffer#buffer.consumers),
    case {Producer, Consumer} of
        {{{value, {From, Item}}, Left}, _} ->
            gen_server:reply(From, ok),
            go_on(Buffer#buffer{producers = Left, items = queue:in(Item, Buffer#buffer.items),
                                count = Count + 1, most = max(Buffer#buffer.most, Count + 1)});
        {_, {{value, From}, Left}} when Count > 0 ->
            {{value, Item}, Items} = queue:out(Buffer#buffer.items),
            gen_server:reply(From, Item),
            go_on(Buffer#buffer{consumers = Left, items = Items, count = Count - 1});
        {_, {{value, From}, Left}} ->
            gen_server:reply(From, none),
            go_on(Buffer#buffer{consumers = Left});
        _ -> Buffer
    end.

compute(Random, Steps) -> compute(Random, Steps, 0.0).

compute(Random, 0, Sum) -> {trunc(Sum * 1000), Random};
compute(Random, Steps, Sum) ->
    {Value, Next} = rand:uniform_s(Random),
    compute(Next, Steps - 1, Sum - math:log(Value + 0.01)).

produce(_, _, Items, Items, _, _, Total) -> Total;
produce(Buffer, Place, Number, Items, Steps, Random, Total) ->
    {Computed, Next} = compute(Random, Steps),
    ok = gen_server:call(Buffer, {put, {Place, Number, Computed}}, infinity),
    produce(Buffer, Place, Number + 1, Items, Steps, Next, Total + Computed).

consume(Buffer, Steps, Random, Got) ->
    case gen_server:call(Buffer, get, infinity) of
        none -> lists:reverse(Got);
        Item ->
            {_, Next} = compute(Random, Steps),
            consume(Buffer, Steps, Next, [Item | Got])
    end.

run(Room, Producers, Consumers, Items, Steps) ->
    {ok, Buffer} = gen_server:start_link(?MODULE, Room, []),
    Me = self(),
    Places = lists:seq(1, Producers),
    [spawn_link(fun() -> Me ! {got, consume(Buffer, Steps, rand:seed_s(exsss, -Place), [])} end)
     || Place <- lists:seq(1, Consumers)],
    [spawn_link(fun() -> Me ! {total, produce(Buffer, Place, 0, Items, Steps, rand:seed_s(exsss, Place), 0)} end)
     || Place <- Places],
    Total = lists:sum([receive {total, One} -> One end || _ <- Places]),
    Most = gen_server:call(Buffer, close, infinity),
    true = 0 < Most andalso Most =< Room,
    Got = [receive {got, Taken} -> Taken end || _ <- lists:seq(1, Consumers)],
    gen_server:stop(Buffer),

    Total = lists:sum([Computed || Taken <- Got, {_, _, Computed} <- Taken]),
    EachOnce = [{Place, Number} || Place <- Places, Number <- lists:seq(0, Items - 1)],
    EachOnce = lists:sort([{Place, Number} || Taken <- Got, {Place, Number, _} <- Taken]),
    [in_order(Taken, #{}) || Taken <- Got].

in_order([], _) -> ok;
in_order([{Place, Number, _} | Taken], Last) ->
    true = Number > maps:get(Place, Last, -1),
    in_order(Taken, Last#{Place => Number}).
