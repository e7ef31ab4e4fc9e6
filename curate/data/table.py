"""Tables as the bytes of parquet files whose pages carry checksums."""

import io
from typing import Any


def table_bytes(table: Any) -> bytes:
    """A pyarrow table, compressed; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()
