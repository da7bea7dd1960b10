-module(savina_bank_transaction).
-behaviour(gen_server).
-export([run/2, init/1, handle_call/3, handle_cast/2]).

-define(FUNDS, 1_000_000).

init(Funds) -> {ok, Funds}.

handle_cast({transfer, Amount, To, Teller}, Funds) ->
    ok = gen_server:call(To, {deposit, Amount}, infinity),
    Teller ! done,
    {noreply, Funds - Amount}.

handle_call({deposit, Amount}, _, Funds) -> {reply, ok, Funds + Amount};
handle_call(balance, _, Funds) -> {reply, Funds, Funds}.

started() ->
    {ok, Pid} = gen_server:start_link(?MODULE, ?FUNDS, []),
    Pid.

%% From whom, to whom and how much. Always to a later account: so nobody waits in a circle.
drawn(Accounts, Transactions) ->
    _ = rand:seed(exsss, 1),
    [begin
         Giver = rand:uniform(Accounts * 8 div 10),
         {Giver, Giver + rand:uniform(Accounts - Giver), rand:uniform(1000) - 1}
     end || _ <- lists:seq(1, Transactions)].

run(Accounts, Transactions) ->
    Pids = [started() || _ <- lists:seq(1, Accounts)],
    All = list_to_tuple(Pids),
    Drawn = drawn(Accounts, Transactions),
    [gen_server:cast(element(Giver, All), {transfer, Amount, element(Taker, All), self()})
     || {Giver, Taker, Amount} <- Drawn],
    [receive done -> ok end || _ <- Drawn],
    Balances = [gen_server:call(Pid, balance) || Pid <- Pids],
    [gen_server:stop(Pid) || Pid <- Pids],
    Before = maps:from_list([{Number, ?FUNDS} || Number <- lists:seq(1, Accounts)]),
    Add = fun(Number, Amount, Funds) -> maps:update_with(Number, fun(Old) -> Old + Amount end, Funds) end,
    After = lists:foldl(
        fun({Giver, Taker, Amount}, Funds) -> Add(Giver, -Amount, Add(Taker, Amount, Funds)) end, Before, Drawn),
    Balances = [maps:get(Number, After) || Number <- lists:seq(1, Accounts)].
