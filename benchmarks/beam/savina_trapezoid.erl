-module(savina_trapezoid).
-export([run/2]).

-define(LEFT, 1.0).
-define(RIGHT, 5.0).

f(X) ->
    math:sin(X * X * X - 1) / (X + 1) * math:sqrt(1 + math:exp(math:sqrt(2 * X))).

run(Pieces, Actors) ->
    Me = self(),
    Width = (?RIGHT - ?LEFT) / Pieces,
    [spawn_link(fun() -> Me ! area(N * Pieces div Actors, (N + 1) * Pieces div Actors, Width, 0.0) end)
     || N <- lists:seq(0, Actors - 1)],
    Area = lists:sum([receive Part when is_float(Part) -> Part end || _ <- lists:seq(1, Actors)]),
    true = abs(Area - simpson(4000)) < 1.0e-8 + 50 / (Pieces * Pieces).

area(After, After, _, Area) -> Area;
area(Piece, After, Width, Area) ->
    X = ?LEFT + Piece * Width,
    area(Piece + 1, After, Width, Area + (f(X) + f(X + Width)) / 2 * Width).

simpson(Parts) ->
    Width = (?RIGHT - ?LEFT) / Parts,
    Inner = lists:sum([(2 + 2 * (Part rem 2)) * f(?LEFT + Part * Width) || Part <- lists:seq(1, Parts - 1)]),
    (f(?LEFT) + Inner + f(?RIGHT)) * Width / 3.
