-module(savina_big).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

-record(player, {random, left, home, pinged = 0, players, asked}).

init({Seed, Pings, Home}) -> {ok, #player{random = rand:seed_s(exsss, Seed), left = Pings, home = Home}}.

handle_call(times_pinged, _, Player) -> {reply, Player#player.pinged, Player}.

handle_cast({'begin', Players}, Player) -> {noreply, go_on(Player#player{players = Players})};
handle_cast({ping, Sender}, Player) ->
    gen_server:cast(Sender, {pong, self()}),
    {noreply, Player#player{pinged = Player#player.pinged + 1}};
handle_cast({pong, Sender}, #player{asked = Sender} = Player) -> {noreply, go_on(Player)}.

go_on(#player{left = 0, home = Home} = Player) -> Home ! done, Player;
go_on(#player{random = Random, left = Left, players = Players} = Player) ->
    {Number, Next} = rand:uniform_s(tuple_size(Players), Random),
    Asked = element(Number, Players),
    gen_server:cast(Asked, {ping, self()}),
    Player#player{random = Next, left = Left - 1, asked = Asked}.

run(Actors, Pings) ->
    Numbers = lists:seq(1, Actors),
    Players = [
        begin {ok, Player} = gen_server:start_link(?MODULE, {Seed, Pings, self()}, []), Player end
        || Seed <- Numbers
    ],
    [gen_server:cast(Player, {'begin', list_to_tuple(Players)}) || Player <- Players],
    [receive done -> ok end || _ <- Players],
    Choose = fun(Seed, Counts) -> chosen(Actors, Pings, rand:seed_s(exsss, Seed), Counts) end,
    Chosen = lists:foldl(Choose, #{}, Numbers),
    [begin Times = maps:get(Number, Chosen, 0), Times = gen_server:call(Player, times_pinged) end
     || {Number, Player} <- lists:zip(Numbers, Players)],
    [gen_server:stop(Player) || Player <- Players].

chosen(_, 0, _, Counts) -> Counts;
chosen(Actors, Pings, Random, Counts) ->
    {Number, Next} = rand:uniform_s(Actors, Random),
    chosen(Actors, Pings - 1, Next, maps:update_with(Number, fun(Count) -> Count + 1 end, 1, Counts)).
