-module(savina_radix_sort).
-export([run/2]).

%% Hands on those without the bit at once, the others when all have come.
sorter(_, 0, Following, Later) -> [Following ! Number || Number <- lists:reverse(Later)];
sorter(Bit, Left, Following, Later) ->
    receive
        Number when is_integer(Number), (Number bsr Bit) band 1 =:= 1 ->
            sorter(Bit, Left - 1, Following, [Number | Later]);
        Number when is_integer(Number) ->
            Following ! Number,
            sorter(Bit, Left - 1, Following, Later)
    end.

run(Numbers, Bits) ->
    _ = rand:seed(exsss, 1),
    Values = [rand:uniform(1 bsl Bits) - 1 || _ <- lists:seq(1, Numbers)],
    First = lists:foldl(
        fun(Bit, Following) -> spawn_link(fun() -> sorter(Bit, Numbers, Following, []) end) end,
        self(), lists:seq(Bits - 1, 0, -1)),
    [First ! Value || Value <- Values],
    Sorted = lists:sort(Values),
    Sorted = [receive Number when is_integer(Number) -> Number end || _ <- Values].
