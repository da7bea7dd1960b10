-module(savina_logistic_map).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

-define(RATE, 3.46).
-define(INCREMENT, 0.0025).

init(State) -> {ok, State}.

handle_cast(next_term, {Computer, Term}) ->
    {noreply, {Computer, gen_server:call(Computer, {next_of, Term})}}.

handle_call({next_of, Term}, _, Rate) -> {reply, Rate * Term * (1 - Term), Rate};
handle_call(term, _, {_, Term} = State) -> {reply, Term, State}.

started(State) ->
    {ok, Pid} = gen_server:start_link(?MODULE, State, []),
    Pid.

run(Terms, Series) ->
    Numbers = lists:seq(0, Series - 1),
    Rates = [?RATE + Number * ?INCREMENT || Number <- Numbers],
    Firsts = [Number * ?INCREMENT || Number <- Numbers],
    Computers = [started(Rate) || Rate <- Rates],
    All = [started(State) || State <- lists:zip(Computers, Firsts)],
    [gen_server:cast(One, next_term) || _ <- lists:seq(1, Terms), One <- All],
    Got = [gen_server:call(One, term, infinity) || One <- All],
    [gen_server:stop(Pid) || Pid <- All ++ Computers],
    Got = [last(Terms, Rate, First) || {Rate, First} <- lists:zip(Rates, Firsts)].

last(0, _, Term) -> Term;
last(Left, Rate, Term) -> last(Left - 1, Rate, Rate * Term * (1 - Term)).
