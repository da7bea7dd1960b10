-module(savina_dining_philosophers).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

%% A fork is a number, how often it has been used, and taken while somebody has it. Whoever gets it gives it back one
%% greater: two that had it at the same time would lose a use.
init(Forks) -> {ok, maps:from_list([{Place, 0} || Place <- lists:seq(0, Forks - 1)])}.

handle_call({hungry, Left}, _, Forks) ->
    Right = (Left + 1) rem map_size(Forks),
    case Forks of
        #{Left := taken} -> {reply, denied, Forks};
        #{Right := taken} -> {reply, denied, Forks};
        #{Left := LeftUses, Right := RightUses} ->
            {reply, {LeftUses, RightUses}, Forks#{Left := taken, Right := taken}}
    end;
handle_call(forks, _, Forks) -> {reply, maps:values(Forks), Forks}.

handle_cast({done, Left, LeftUses, RightUses}, Forks) ->
    {noreply, Forks#{Left := LeftUses, (Left + 1) rem map_size(Forks) := RightUses}}.

philosopher(_, _, 0) -> ok;
philosopher(Arbiter, Place, Meals) ->
    case gen_server:call(Arbiter, {hungry, Place}, infinity) of
        denied -> philosopher(Arbiter, Place, Meals);
        {Left, Right} ->
            gen_server:cast(Arbiter, {done, Place, Left + 1, Right + 1}),
            philosopher(Arbiter, Place, Meals - 1)
    end.

run(Philosophers, Meals) ->
    {ok, Arbiter} = gen_server:start_link(?MODULE, Philosophers, []),
    Me = self(),
    Places = lists:seq(0, Philosophers - 1),
    [spawn_link(fun() -> Me ! {full, philosopher(Arbiter, Place, Meals)} end) || Place <- Places],
    [receive {full, ok} -> ok end || _ <- Places],
    Used = [2 * Meals || _ <- Places],
    Used = gen_server:call(Arbiter, forks),
    gen_server:stop(Arbiter).
