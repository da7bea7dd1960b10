-module(savina_sleeping_barber).
-behaviour(gen_server).
-export([run/4, init/1, handle_call/3, handle_cast/2]).

-define(LEAST, 10).

%% Draws numbers, as many as one says.
busy(Random, Most) ->
    {Number, Next} = rand:uniform_s(Most, Random),
    Rounds = ?LEAST + Number - 1,
    {Rounds, drawn(Rounds, Next)}.

drawn(0, Random) -> Random;
drawn(Left, Random) ->
    {_, Next} = rand:uniform_s(Random),
    drawn(Left - 1, Next).

seed() -> rand:seed_s(exsss, 1).

customer(Room, Shop) ->
    receive
        full -> gen_server:cast(Shop, {returned, self()}), customer(Room, Shop);
        done -> gen_server:cast(Shop, served);
        wait -> customer(Room, Shop);
        start -> customer(Room, Shop)
    end.

-record(room, {chairs, barber, waiting = queue:new(), count = 0, most = 0, asleep = true, turned_away = 0}).
-record(barber, {haircut, random, served = [], strokes = 0}).
-record(shop, {room, customers = [], away = 0, left = 0, asker}).

init({room, Chairs, Barber}) -> {ok, #room{chairs = Chairs, barber = Barber}};
init({barber, Haircut}) -> {ok, #barber{haircut = Haircut, random = seed()}};
init({shop, Room}) -> {ok, #shop{room = Room}}.

handle_cast({enter, Customer}, #room{count = Chairs, chairs = Chairs, turned_away = Away} = Room) ->
    Customer ! full,
    {noreply, Room#room{turned_away = Away + 1}};
handle_cast({enter, Customer}, #room{waiting = Waiting, count = Count, most = Most} = Room) ->
    More = Room#room{waiting = queue:in(Customer, Waiting), count = Count + 1, most = max(Most, Count + 1)},
    case Room#room.asleep of
        true -> {noreply, next(More#room{asleep = false})};
        false -> Customer ! wait, {noreply, More}
    end;
handle_cast(next, #room{} = Room) -> {noreply, next(Room)};

handle_cast({cut, Customer, Room}, #barber{haircut = Haircut, served = Served, strokes = Strokes} = Barber) ->
    Customer ! start,
    {Rounds, Random} = busy(Barber#barber.random, Haircut),
    Customer ! done,
    gen_server:cast(Room, next),
    {noreply, Barber#barber{random = Random, served = [Customer | Served], strokes = Strokes + Rounds}};

handle_cast({returned, Customer}, #shop{room = Room, away = Away} = Shop) ->
    gen_server:cast(Room, {enter, Customer}),
    {noreply, Shop#shop{away = Away + 1}};
handle_cast(served, #shop{left = 1, asker = Asker} = Shop) ->
    gen_server:reply(Asker, {Shop#shop.customers, Shop#shop.away}),
    {noreply, Shop#shop{left = 0}};
handle_cast(served, #shop{left = Left} = Shop) -> {noreply, Shop#shop{left = Left - 1}}.

next(#room{count = 0} = Room) -> Room#room{asleep = true};
next(#room{count = Count, waiting = Waiting} = Room) ->
    {{value, Customer}, Rest} = queue:out(Waiting),
    gen_server:cast(Room#room.barber, {cut, Customer, self()}),
    Room#room{waiting = Rest, count = Count - 1}.

handle_call(counts, _, #room{turned_away = Away, most = Most} = Room) -> {reply, {Away, Most}, Room};
handle_call(work, _, #barber{served = Served, strokes = Strokes} = Barber) -> {reply, {Served, Strokes}, Barber};
handle_call({open, Customers, Pause}, Asker, #shop{room = Room} = Shop) ->
    {noreply, Shop#shop{customers = come(Customers, Pause, Room, seed()), left = Customers, asker = Asker}}.

come(0, _, _, _) -> [];
come(Left, Pause, Room, Random) ->
    Shop = self(),
    Customer = spawn_link(fun() -> customer(Room, Shop) end),
    gen_server:cast(Room, {enter, Customer}),
    {_, Next} = busy(Random, Pause),
    [Customer | come(Left - 1, Pause, Room, Next)].

started(What) ->
    {ok, Pid} = gen_server:start_link(?MODULE, What, []),
    Pid.

strokes(0, _, _) -> 0;
strokes(Left, Haircut, Random) ->
    {Rounds, Next} = busy(Random, Haircut),
    Rounds + strokes(Left - 1, Haircut, Next).

run(Customers, Chairs, Pause, Haircut) ->
    Barber = started({barber, Haircut}),
    Room = started({room, Chairs, Barber}),
    Shop = started({shop, Room}),
    {Came, Away} = gen_server:call(Shop, {open, Customers, Pause}, infinity),
    {Served, Strokes} = gen_server:call(Barber, work),
    {Away, Most} = gen_server:call(Room, counts),
    [gen_server:stop(Pid) || Pid <- [Shop, Room, Barber]],
    Sorted = lists:usort(Came),
    Customers = length(Sorted),
    Sorted = lists:sort(Served),
    Strokes = strokes(Customers, Haircut, seed()),
    true = Most =< Chairs.
