-module(savina_sieve).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

-record(filter, {room, primes, following = none}).

%% The primes: least first, so that most numbers are known soon; `room` is how many more there may be.
init({Room, Prime}) -> {ok, #filter{room = Room - 1, primes = [Prime]}}.

handle_cast({number, Number} = Message, #filter{room = Room, primes = Primes, following = Following} = Filter) ->
    case lists:any(fun(Prime) -> Number rem Prime =:= 0 end, Primes) of
        true -> {noreply, Filter};
        false when Room > 0 -> {noreply, Filter#filter{room = Room - 1, primes = Primes ++ [Number]}};
        false when Following =:= none ->
            {noreply, Filter#filter{following = started(length(Primes), Number)}};
        false -> gen_server:cast(Following, Message), {noreply, Filter}
    end.

handle_call(finish, _, #filter{primes = Primes, following = none} = Filter) -> {reply, Primes, Filter};
handle_call(finish, _, #filter{primes = Primes, following = Following} = Filter) ->
    Later = gen_server:call(Following, finish, infinity),
    gen_server:stop(Following),
    {reply, Primes ++ Later, Filter}.

started(Room, Prime) ->
    {ok, Pid} = gen_server:start_link(?MODULE, {Room, Prime}, []),
    Pid.

run(Limit, PrimesEach) ->
    First = started(PrimesEach, 2),
    [gen_server:cast(First, {number, Number}) || Number <- lists:seq(3, Limit - 1, 2)],
    Found = gen_server:call(First, finish, infinity),
    gen_server:stop(First),
    Found = sieve(lists:seq(2, Limit - 1), Limit).

sieve([Prime | Rest], Limit) when Prime * Prime < Limit ->
    [Prime | sieve([Number || Number <- Rest, Number rem Prime =/= 0], Limit)];
sieve(Primes, _) -> Primes.
