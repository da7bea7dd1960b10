-module(savina_chameneos).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

%% The mall's state: {mall, Meetings, Waiting}; a creature's: {creature, Mall, Colour, Home, Met}.
init({mall, Meetings}) -> {ok, {mall, Meetings, none}};
init({creature, Mall, Colour, Home}) ->
    gen_server:cast(Mall, {enter, self(), Colour}),
    {ok, {creature, Mall, Colour, Home, 0}}.

handle_call(_, _, State) -> {reply, unknown, State}.

handle_cast({enter, Creature, _}, {mall, 0, _} = State) ->
    gen_server:cast(Creature, leave),
    {noreply, State};
handle_cast({enter, Creature, _}, {mall, Meetings, none}) -> {noreply, {mall, Meetings, Creature}};
handle_cast({enter, Creature, Colour}, {mall, Meetings, Waiting}) ->
    gen_server:cast(Waiting, {meet, Creature, Colour}),
    {noreply, {mall, Meetings - 1, none}};
handle_cast({meet, Other, Theirs}, {creature, _, Mine, _, _} = State) ->
    Colour = colour_after(Mine, Theirs),
    gen_server:cast(Other, {change, Colour}),
    {noreply, change(Colour, State)};
handle_cast({change, Colour}, State) -> {noreply, change(Colour, State)};
handle_cast(leave, {creature, _, Colour, Home, Met} = State) ->
    Home ! {left, Met, Colour},
    {stop, normal, State}.

change(Colour, {creature, Mall, _, Home, Met}) ->
    gen_server:cast(Mall, {enter, self(), Colour}),
    {creature, Mall, Colour, Home, Met + 1}.

colour_after(Same, Same) -> Same;
colour_after(One, Other) -> 3 - One - Other.

run(Creatures, Meetings) ->
    {ok, Mall} = gen_server:start_link(?MODULE, {mall, Meetings}, []),
    Colours = [Number rem 3 || Number <- lists:seq(1, Creatures)],
    [{ok, _} = gen_server:start_link(?MODULE, {creature, Mall, Colour, self()}, []) || Colour <- Colours],
    Left = [receive {left, Met, Colour} -> {Met, Colour} end || _ <- Colours],
    Twice = 2 * Meetings,
    Twice = lists:sum([Met || {Met, _} <- Left]),
    %% No meeting changes this: both of (a, b) become -(a + b), and -2 is 1 modulo 3.
    Sum = lists:sum(Colours) rem 3,
    Sum = lists:sum([Colour || {_, Colour} <- Left]) rem 3,
    gen_server:stop(Mall).
