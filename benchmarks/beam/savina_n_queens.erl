-module(savina_n_queens).
-behaviour(gen_server).
-export([run/3, init/1, handle_call/3, handle_cast/2]).

-define(SOLUTIONS, {1, 1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200, 73712}).

init(Arguments) -> {ok, Arguments}.
handle_call(_, _, State) -> {noreply, State}.
handle_cast({search, Board}, {Master, Size, Threshold} = State) ->
    case length(Board) < Threshold of
        true -> [Master ! {work, Larger} || Larger <- with_one_more(Board, Size)];
        false -> search_alone(Board, Size, Master)
    end,
    Master ! done,
    {noreply, State}.

%% A board: the columns of the queens, the last row first.
with_one_more(Board, Size) ->
    [[Column | Board] || Column <- lists:seq(0, Size - 1), free(Column, Board, 1)].

free(_, [], _) -> true;
free(Column, [Other | Board], Rows) ->
    Other =/= Column andalso abs(Other - Column) =/= Rows andalso free(Column, Board, Rows + 1).

search_alone(Board, Size, Master) when length(Board) =:= Size -> Master ! solution;
search_alone(Board, Size, Master) -> [search_alone(Larger, Size, Master) || Larger <- with_one_more(Board, Size)].

run(Size, Threshold, Actors) ->
    Workers = list_to_tuple(
        [element(2, gen_server:start_link(?MODULE, {self(), Size, Threshold}, [])) || _ <- lists:seq(1, Actors)]),
    gen_server:cast(element(1, Workers), {search, []}),
    Expected = element(Size + 1, ?SOLUTIONS),
    Expected = master(Workers, 1, 0, 0),
    [gen_server:stop(Worker) || Worker <- tuple_to_list(Workers)].

master(_, Sent, Sent, Solutions) -> Solutions;
master(Workers, Sent, Done, Solutions) ->
    receive
        {work, Board} ->
            gen_server:cast(element(Sent rem tuple_size(Workers) + 1, Workers), {search, Board}),
            master(Workers, Sent + 1, Done, Solutions);
        solution -> master(Workers, Sent, Done, Solutions + 1);
        done -> master(Workers, Sent, Done + 1, Solutions)
    end.
