%% The BEAM's side of `parallel-actors bench`.
%%
%%   erl ... -run bench main TEST [NUMBER ...]
%%
%% First it says its release. Then each line of its input runs the test once and is answered by one line: the figures
%% (seconds, bytes, per second) in the order of the rows in catalog.py. So its runs can stand between ours, on a machine
%% that is warm. The end of the input ends it; a test that fails ends it with exit code 1.
-module(bench).
-behaviour(gen_server).
-compile([export_all, nowarn_export_all]).

main([Test | Numbers]) -> serve(fun() -> apply(?MODULE, list_to_atom(Test), ints(Numbers)) end).

%% Likewise for another module: run/N, by the number of its arguments, is timed.
timed([Module | Numbers]) ->
    serve(fun() -> From = now_ns(), apply(list_to_atom(Module), run, ints(Numbers)), [seconds(From, now_ns())] end).

ints(Numbers) -> [list_to_integer(N) || N <- Numbers].

serve(Test) ->
    io:format("~s~n", [erlang:system_info(otp_release)]),
    serve(Test, erlang:system_info(process_count)).

serve(Test, Base) ->
    case io:get_line("") of
        eof -> halt(0);
        _ ->
            settle(Base),
            io:format("~s~n", [lists:join(" ", [io_lib:format("~w", [V]) || V <- once(Test)])]),
            serve(Test, Base)
    end.

%% Each run in a process of its own, with a heap of its own.
once(Test) ->
    Me = self(),
    {Pid, Ref} = spawn_monitor(fun() -> Me ! {result, self(), Test()} end),
    receive
        {result, Pid, Result} -> receive {'DOWN', Ref, _, _, _} -> Result end;
        {'DOWN', Ref, _, _, Why} -> io:format(standard_error, "the test failed: ~p~n", [Why]), halt(1)
    end.

settle(Base) ->
    case erlang:system_info(process_count) =< Base of
        true -> erlang:garbage_collect();
        false -> timer:sleep(2), settle(Base)
    end.

now_ns() -> erlang:monotonic_time(nanosecond).
seconds(From, To) -> (To - From) / 1.0e9.
kill(Pids) -> lists:foreach(fun(P) -> exit(P, kill) end, Pids).
on(F, 0) -> spawn(F);
on(F, Scheduler) -> spawn_opt(F, [{scheduler, Scheduler}]).
percentile(Sorted, Q) -> lists:nth(max(1, min(length(Sorted), ceil(Q * length(Sorted)))), Sorted).
answer() -> receive {answer, X} -> X end.

%% --- a gen_server that counts ---
init(supervisor) ->
    {ok, {#{intensity => 1000000000, period => 5},
          [#{id => child, start => {gen_server, start_link, [{local, bench_child}, ?MODULE, 0, []]}}]}};
init(crowd) ->
    {ok, {#{strategy => simple_one_for_one},
          [#{id => child, restart => permanent, start => {gen_server, start_link, [?MODULE, 0, []]}}]}};
init(map) -> {ok, init_map()};
init(N) -> {ok, N}.
handle_call(ping, _, N) -> {reply, pong, N};
handle_call(get, _, N) -> {reply, N, N};
handle_call({get, K}, _, M) -> {reply, map_get(K, M), M};
handle_call({put, K, V}, _, M) -> {reply, ok, M#{K => {K, V}}}.
handle_cast(inc, N) -> {noreply, N + 1}.
handle_info(_, N) -> {noreply, N}.
server(0) -> {ok, G} = gen_server:start(?MODULE, 0, []), G;
server(Scheduler) -> {ok, G} = gen_server:start(?MODULE, 0, [{spawn_opt, [{scheduler, Scheduler}]}]), G.

start_link(N) ->
    T0 = now_ns(), Pids = started(N, []), T1 = now_ns(),
    lists:foreach(fun(P) -> unlink(P), exit(P, kill) end, Pids),
    [seconds(T0, T1) / N].
started(0, Pids) -> Pids;
started(N, Pids) -> {ok, P} = gen_server:start_link(?MODULE, 0, []), started(N - 1, [P | Pids]).

%% A kill until the successor answers; the supervisor's reports are switched off.
restart(N) ->
    logger:set_primary_config(level, none),
    {ok, S} = supervisor:start_link(?MODULE, supervisor),
    L = lists:sort(restarts(N, [])),
    unlink(S), exit(S, shutdown),
    [percentile(L, 0.5)].
restarts(0, L) -> L;
restarts(N, L) ->
    P = whereis(bench_child), T0 = now_ns(),
    exit(P, kill), successor(P), pong = gen_server:call(bench_child, ping, infinity), T1 = now_ns(),
    restarts(N - 1, [seconds(T0, T1) | L]).
successor(P) -> case whereis(bench_child) of P -> erlang:yield(), successor(P); undefined -> erlang:yield(), successor(P); _ -> ok end.

%% --- shared state, beside a gen_server that holds a map ---
init_map() -> maps:from_list([{K, {K, 0}} || K <- lists:seq(0, 999)]).
table() -> T = ets:new(bench, []), ets:insert(T, [{K, 0} || K <- lists:seq(0, 999)]), T.
ets_lookup(N) ->
    T = table(), T0 = now_ns(), ets_lookups(N, T), T1 = now_ns(),
    ets:delete(T),
    [seconds(T0, T1) / N].
ets_lookups(0, _) -> ok;
ets_lookups(N, T) -> [_] = ets:lookup(T, N rem 1000), ets_lookups(N - 1, T).
ets_insert(N) ->
    T = table(), T0 = now_ns(), ets_inserts(N, T), T1 = now_ns(),
    ets:delete(T),
    [seconds(T0, T1) / N].
ets_inserts(0, _) -> ok;
ets_inserts(N, T) -> ets:insert(T, {N rem 1000, N}), ets_inserts(N - 1, T).
server_map(N) -> server_map(N, []).
server_map_across(N) -> across(fun() -> server_map(N, [{spawn_opt, [{scheduler, 2}]}]) end).
server_map(N, Options) ->
    {ok, G} = gen_server:start(?MODULE, map, Options),
    T0 = now_ns(), map_gets(N, G), T1 = now_ns(), map_puts(N, G), T2 = now_ns(),
    kill([G]),
    [seconds(T0, T1) / N, seconds(T1, T2) / N].
map_gets(0, _) -> ok;
map_gets(N, G) -> {_, _} = gen_server:call(G, {get, N rem 1000}), map_gets(N - 1, G).
map_puts(0, _) -> ok;
map_puts(N, G) -> ok = gen_server:call(G, {put, N rem 1000, N}), map_puts(N - 1, G).
counters_add(N) ->
    C = counters:new(1, []), T0 = now_ns(), adds(N, C), T1 = now_ns(),
    [seconds(T0, T1) / N].
adds(0, _) -> ok;
adds(N, C) -> counters:add(C, 1, 1), adds(N - 1, C).
counters_add_contended(N, Many) ->
    C = counters:new(1, case Many of 1 -> [write_concurrency]; 0 -> [] end), Me = self(),
    L = [on(fun() -> receive go -> ok end, T0 = now_ns(), adds(N, C), Me ! {answer, now_ns() - T0} end, S) || S <- [1, 2]],
    [P ! go || P <- L],
    Ns = lists:sum([answer() || _ <- L]),
    N2 = 2 * N, N2 = counters:get(C, 1),
    [Ns / 1.0e9 / 2 / N].
persistent_term_get(N) ->
    persistent_term:put(bench, {a, 1}), T0 = now_ns(), terms(N), T1 = now_ns(),
    persistent_term:erase(bench),
    [seconds(T0, T1) / N].
terms(0) -> ok;
terms(N) -> {a, 1} = persistent_term:get(bench), terms(N - 1).

%% --- processes ---
idle() -> receive stop -> ok end.
spawn_idle(0, Last) -> Last;
spawn_idle(N, _) -> spawn_idle(N - 1, spawn(?MODULE, idle, [])).
idle_list(N) -> [spawn(?MODULE, idle, []) || _ <- lists:seq(1, N)].
wait_idle(P) ->
    case process_info(P, status) of {status, waiting} -> ok; _ -> erlang:yield(), wait_idle(P) end.
resident() ->
    {ok, B} = file:read_file("/proc/self/status"),
    {match, [K]} = re:run(B, "VmRSS:\\s+(\\d+)", [{capture, [1], list}]),
    list_to_integer(K) * 1024.

memory_process(N) -> memory(N, fun() -> wait_idle(spawn_idle(N, none)) end).
memory_server(N) -> memory(N, fun() -> lists:foreach(fun(_) -> server(0) end, lists:seq(1, N)) end).
memory_supervised(N) ->
    {ok, S} = supervisor:start_link(?MODULE, crowd),
    memory(N, fun() -> lists:foreach(fun(_) -> {ok, P} = supervisor:start_child(S, []), pong = gen_server:call(P, ping) end, lists:seq(1, N)) end).
%% The only run of its machine: what it made stays.
memory(N, Make) ->
    Before = resident(),
    Make(),
    erlang:garbage_collect(),
    [(resident() - Before) / N].

spawn_all(N) ->
    T0 = now_ns(), L = idle_list(N), wait_idle(lists:last(L)), T1 = now_ns(),
    kill(L),
    [seconds(T0, T1) / N].
spawn_and_end(N) ->
    T0 = now_ns(), spawn_and_end_(N), T1 = now_ns(),
    [seconds(T0, T1) / N].
spawn_and_end_(0) -> ok;
spawn_and_end_(N) ->
    {_, M} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', M, _, _, _} -> spawn_and_end_(N - 1) end.

monitors(N) ->
    Me = self(), Counts = atomics:new(2, []),
    Target = spawn(?MODULE, idle, []),
    [spawn(fun() -> watch(Target, N, Counts, Me) end) || _ <- lists:seq(1, N)],
    receive ready -> ok end,
    T0 = now_ns(), exit(Target, kill), receive fired -> ok end, T1 = now_ns(),
    [seconds(T0, T1)].
watch(Target, N, Counts, Me) ->
    monitor(process, Target),
    case atomics:add_get(Counts, 1, 1) of N -> Me ! ready; _ -> ok end,
    receive {'DOWN', _, _, _, _} -> ok end,
    case atomics:add_get(Counts, 2, 1) of N -> Me ! fired; _ -> ok end.

names(N) ->
    Me = self(), All = [list_to_atom("bench_" ++ integer_to_list(I)) || I <- lists:seq(1, 1000)],
    Rounds = N div 1000,
    T0 = now_ns(),
    [[begin register(A, Me), unregister(A) end || A <- All] || _ <- lists:seq(1, Rounds)],
    T1 = now_ns(),
    register(bench_name, Me),
    T2 = now_ns(), [[whereis(bench_name) || _ <- All] || _ <- lists:seq(1, Rounds)], T3 = now_ns(),
    unregister(bench_name),
    [seconds(T0, T1) / (Rounds * 1000), seconds(T2, T3) / (Rounds * 1000)].

skynet(Size) ->
    T0 = now_ns(), spawn(?MODULE, sky, [self(), 0, Size]), Sum = receive {sky, X} -> X end, T1 = now_ns(),
    Sum = Size * (Size - 1) div 2,
    [seconds(T0, T1)].
sky(Parent, Number, 1) -> Parent ! {sky, Number};
sky(Parent, Number, Size) -> sky_spawn(10, Number, Size div 10), Parent ! {sky, sky_sum(10, 0)}.
sky_spawn(0, _, _) -> ok;
sky_spawn(K, Number, Part) -> spawn(?MODULE, sky, [self(), Number, Part]), sky_spawn(K - 1, Number + Part, Part).
sky_sum(0, Sum) -> Sum;
sky_sum(K, Sum) -> receive {sky, X} -> sky_sum(K - 1, Sum + X) end.

%% --- messages ---
ping_pong(N) ->
    Q = spawn(fun pong/0),
    T0 = now_ns(), ping(N, Q), T1 = now_ns(),
    exit(Q, kill),
    [N / seconds(T0, T1)].
pong() -> receive {ping, P} -> P ! pong, pong() end.
ping(0, _) -> ok;
ping(N, Q) -> Q ! {ping, self()}, receive pong -> ping(N - 1, Q) end.

ring(Size, Hops) ->
    Me = self(),
    First = spawn(fun() -> receive {next, Q} -> hop(Q, Me) end end),
    Others = lists:foldl(fun(_, [Next | _] = L) -> [spawn(?MODULE, hop, [Next, Me]) | L] end, [First], lists:seq(2, Size)),
    First ! {next, hd(Others)},
    T0 = now_ns(), First ! Hops, receive done -> ok end, T1 = now_ns(),
    kill(Others),
    [seconds(T0, T1) / Hops].
hop(Next, Me) -> receive 0 -> Me ! done, hop(Next, Me); K -> Next ! K - 1, hop(Next, Me) end.

fan_in(Senders, Each) ->
    Me = self(),
    R = spawn(fun() -> take(Senders * Each), Me ! done end),
    L = [spawn(fun() -> receive go -> give(Each, R) end end) || _ <- lists:seq(1, Senders)],
    T0 = now_ns(), [P ! go || P <- L], receive done -> ok end, T1 = now_ns(),
    [Senders * Each / seconds(T0, T1)].
take(0) -> ok;
take(N) -> receive {msg, _} -> take(N - 1) end.
give(0, _) -> ok;
give(N, R) -> R ! {msg, N}, give(N - 1, R).

call(N) ->
    G = server(0),
    T0 = now_ns(), calls(N, G), T1 = now_ns(),
    exit(G, kill),
    [N / seconds(T0, T1)].
calls(0, _) -> ok;
calls(N, G) -> pong = gen_server:call(G, ping), calls(N - 1, G).
cast(N) -> cast(N, 0).
cross_cast(N) -> across(fun() -> cast(N, 2) end).
cast(N, Scheduler) ->
    G = server(Scheduler),
    T0 = now_ns(), casts(N, G), N = gen_server:call(G, get, infinity), T1 = now_ns(),
    exit(G, kill),
    [N / seconds(T0, T1)].
casts(0, _) -> ok;
casts(N, G) -> gen_server:cast(G, inc), casts(N - 1, G).

across(F) -> Me = self(), on(fun() -> Me ! {answer, F()} end, 1), answer().
cross_call(N) -> across(fun() ->
    G = server(2), calls(1000, G),
    T0 = now_ns(), L = lists:sort(latencies(N, G, 0, [])), T1 = now_ns(),
    exit(G, kill),
    [N / seconds(T0, T1), percentile(L, 0.5), percentile(L, 0.99)] end).
cross_call_asleep(N, PauseMs) -> across(fun() ->
    G = server(2), L = lists:sort(latencies(N, G, PauseMs, [])),
    exit(G, kill),
    [percentile(L, 0.5)] end).
latencies(0, _, _, L) -> L;
latencies(N, G, PauseMs, L) ->
    if PauseMs > 0 -> timer:sleep(PauseMs); true -> ok end,
    T0 = now_ns(), pong = gen_server:call(G, ping, infinity), T1 = now_ns(),
    latencies(N - 1, G, PauseMs, [seconds(T0, T1) | L]).

payload_fresh(Size, N) -> across(fun() ->
    Q = on(fun sizes/0, 2), D = binary:copy(<<7>>, Size), fresh(1 + N div 10, Q, D),
    T0 = now_ns(), fresh(N, Q, D), T1 = now_ns(), exit(Q, kill),
    [seconds(T0, T1) / N] end).
payload_shared(Size, N) -> across(fun() ->
    Q = on(fun sizes/0, 2), D = binary:copy(<<7>>, Size), same(1 + N div 10, Q, D),
    T0 = now_ns(), same(N, Q, D), T1 = now_ns(), exit(Q, kill),
    [seconds(T0, T1) / N] end).
sizes() -> receive {D, P} -> P ! byte_size(D), sizes() end.
same(0, _, _) -> ok;
same(N, Q, D) -> Q ! {D, self()}, receive _ -> same(N - 1, Q, D) end.
fresh(0, _, _) -> ok;
fresh(N, Q, D) -> Q ! {binary:copy(D), self()}, receive _ -> fresh(N - 1, Q, D) end.

receive_scan(Waiting, N) ->
    junk(Waiting), want(1),
    T0 = now_ns(), want(N), T1 = now_ns(),
    [seconds(T0, T1) / N / Waiting].
receive_ref(Waiting, N) ->
    junk(Waiting), want_ref(1),
    T0 = now_ns(), want_ref(N), T1 = now_ns(),
    [seconds(T0, T1) / N].
junk(N) -> [self() ! {junk, I} || I <- lists:seq(1, N)].
want(0) -> ok;
want(N) -> self() ! {want, N}, receive {want, _} -> want(N - 1) end.
want_ref(0) -> ok;
want_ref(N) -> R = make_ref(), self() ! {R, N}, receive {R, _} -> want_ref(N - 1) end.

%% Messages by shape: here (two processes of one scheduler) or across.
isolation(Shape, N) -> [sends(spawn(fun sink/0), fresh_shape(Shape), N)].
transport(Shape, N) -> across(fun() -> [sends(on(fun sink/0, 2), fresh_shape(Shape), N)] end).
%% Made at run time: a literal of the module would never be copied.
fresh_shape(Shape) -> binary_to_term(term_to_binary(shape(Shape))).
sends(Q, M, N) ->
    T0 = now_ns(), sends_(N, Q, M), Q ! {ack, self()}, receive done -> ok end, T1 = now_ns(),
    exit(Q, kill),
    seconds(T0, T1) / N.
sends_(0, _, _) -> ok;
sends_(N, Q, M) -> Q ! M, sends_(N - 1, Q, M).
sink() -> receive {ack, P} -> P ! done; _ -> sink() end.
shape(0) -> 12345;
shape(1) -> binary:copy(<<"x">>, 100);
shape(2) -> {<<"set">>, 17, 2.5, true};
shape(3) -> lists:seq(1, 10);
shape(4) -> maps:from_list([{<<"key_", (integer_to_binary(I))/binary>>, I} || I <- lists:seq(1, 10)]);
shape(5) -> #{<<"id">> => 7, <<"tags">> => [<<"a">>, <<"b">>], <<"at">> => {1.5, -2.5}, <<"more">> => #{<<"x">> => [1, 2, 3]}}.

%% --- beside endless loops ---
spin(X) -> spin((X * 75 + 74) band 16#ffff).
fairness(Loops, N) ->
    Spin = [spawn(fun() -> spin(1) end) || _ <- lists:seq(1, Loops)],
    G = server(0), timer:sleep(20), calls(100, G),
    L = lists:sort(latencies(N, G, 0, [])), kill([G | Spin]),
    [percentile(L, 0.5), percentile(L, 0.999)].
