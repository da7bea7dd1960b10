-module(savina_quicksort).
-export([run/2]).

run(Values, Threshold) ->
    Next = fun(_, State) -> rand:uniform_s(1 bsl 59, State) end,
    {Numbers, _} = lists:mapfoldl(Next, rand:seed_s(exsss, 1024), lists:seq(1, Values)),
    start(self(), whole, Threshold, Numbers),
    Sorted = lists:sort(Numbers),
    Sorted = receive {whole, Result} -> Result end.

start(Parent, Side, Threshold, Numbers) ->
    spawn_link(fun() -> sorter(Parent, Side, Threshold) end) ! Numbers.

sorter(Parent, Side, Threshold) ->
    receive
        Numbers when length(Numbers) < Threshold ->
            Parent ! {Side, quicksort(Numbers)};
        Numbers ->
            {Less, Equal, Greater} = split(Numbers),
            start(self(), left, Threshold, Less),
            start(self(), right, Threshold, Greater),
            Left = receive {left, L} -> L end,
            Right = receive {right, R} -> R end,
            Parent ! {Side, Left ++ Equal ++ Right}
    end.

split(Numbers) ->
    Pivot = lists:nth(length(Numbers) div 2 + 1, Numbers),
    {[N || N <- Numbers, N < Pivot], [N || N <- Numbers, N =:= Pivot], [N || N <- Numbers, N > Pivot]}.

quicksort([]) -> [];
quicksort([Number]) -> [Number];
quicksort(Numbers) ->
    {Less, Equal, Greater} = split(Numbers),
    quicksort(Less) ++ Equal ++ quicksort(Greater).
