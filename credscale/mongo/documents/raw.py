"""Documents as the server's own bytes."""

from __future__ import annotations

from typing import Any

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

# Embedded documents stay raw: decoding and encoding a value must give the same bytes, field order included. Dates
# outside datetime's years would raise with the default conversion.
RAW: CodecOptions[Any] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
