-module(savina_fibonacci).
-export([run/1]).

run(N) ->
    Me = self(),
    spawn_link(fun() -> fibonacci(N, Me) end),
    Expected = plain(N, 0, 1),
    Expected = receive Value when is_integer(Value) -> Value end.

fibonacci(N, Parent) when N =< 2 -> Parent ! 1;
fibonacci(N, Parent) ->
    Me = self(),
    [spawn_link(fun() -> fibonacci(N - Less, Me) end) || Less <- [1, 2]],
    A = receive First when is_integer(First) -> First end,
    B = receive Second when is_integer(Second) -> Second end,
    Parent ! A + B.

plain(0, A, _) -> A;
plain(N, A, B) -> plain(N - 1, B, A + B).
