"""Scheduled requests as rows and chunks of a pass."""

from deployments.model.engine.flight import Flight
from deployments.model.engine.scheduler import ScheduledRequest
from deployments.model.forward.batch import Chunk, Row
from deployments.model.sequence import Choice, Sequence


def row_of(sequence: Sequence, choice: Choice, flight: Flight | None) -> Row:
    """An answer's newest token, which may be one of `flight`: the host does not know it then."""
    assert choice.table is not None
    length, offsets = sequence.length(choice), sequence.position_offsets
    if choice.num_pending:
        assert flight is not None
        return Row(0, length, offsets, choice.table, flight.source(choice))
    return Row(choice.token_ids[-1], length, offsets, choice.table)


def chunk_of(request: ScheduledRequest, end: int) -> Chunk:
    """A prompt's next tokens, up to the place `end`."""
    sequence, media = request.sequence, request.media
    start, positions = sequence.num_prefilled, sequence.positions
    return Chunk(
        sequence.prompt_T[start:end],
        start,
        None if positions is None else positions[:, start:end],
        request.first_table,
        None if media.blocks_T is None else media.blocks_T[:end],
    )
