"""Text in, masked global batches out: the same ones whoever makes them, and wherever a run was left and taken up again.

    source ── pieces ──deal──▶ lane ── windows ──▶ documents ── chunks ──pack──▶ rows ──mix──▶ global batches
              (dealing.py)            (shuffle.py)              (pack.py)       (lanes.py)    (loader.py)

**Lanes.** A run reads its text in a fixed number of lanes (`stream.lanes`), side by side. Row number n of the run comes
from lane n mod lanes. Processes and loader workers are only assigned lanes, so their number is nothing that the
order could depend on: whoever has lane 3 makes the rows of lane 3.

**Pieces.** A source is cut into pieces: the shards of its dataset, parts of large files, row groups. Every epoch deals
them to the lanes like cards, in another order; where there are few, each lane takes its share of every one's rows. So
every document is in one lane once an epoch, whatever the number of files. A lane goes from one epoch to the next on its
own, without waiting for the others: where one begins its third, another may have a little of its second left.

**Windows.** What a lane reads is shuffled in windows of some megabytes, all lanes together `stream.shuffle_window`
bytes. To come back to a place, a window is read again, and not tokenised.

**Chunks and rows.** The documents of a window are tokenised and packed a chunk at a time: cut where they are longer
than a row, and put together by best fit where they are shorter. A chunk ends with its epoch and leaves nothing over
for the next, so it is a pure function of the place where it begins.

**State.** A lane's state is therefore the place where the chunk in hand begins, and how many of its rows are taken: a
few hundred bytes of JSON for each source. Every batch carries the state behind it, so readers may be far ahead: in
threads of their process, and in loader workers (`workers.py`), each with some of the lanes.

**Mixing.** Each source of a lane makes rows of its own, and the next row comes from the source that is furthest behind
its weight, in tokens.

**Masks** are drawn from (seed, row number) by the objective, so they change with every epoch, and with nothing else.

Prepared shards (`shards/`) are rows on disk: they take the place of pieces, windows, documents and chunks, and
everything after is the same.
"""
