"""Croissant 1.0: the description of a data set for machines (https://docs.mlcommons.org/croissant)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medidiff.case import MARK
from medidiff.export.layout import Layout
from medidiff.io.files.atomic import sha256

__all__ = ["croissant"]

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(layout: Layout, numbers: Sequence[int]) -> dict[str, Any]:
    """The description of a data set whose table is written.

    Args:
        layout: of the data set.
        numbers: of its cases.
    """
    about = layout.about
    table = layout.root / layout.table
    media = "text/csv" if table.suffix == ".csv" else "text/tab-separated-values"
    columns = (*layout.columns(numbers[0]), "age", "sex", "contrast", "synthetic")
    return {
        "Synthetic": True,
        "@context": _CONTEXT | {"Synthetic": {"@id": "cr:isSynthetic", "@type": "@json"}},
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": re.sub(r"[^A-Za-z0-9]+", "-", about.title).strip("-") or "synthetic",
        "description": f"{MARK}. {len(numbers)} invented scans, {about.anatomy}, {about.contrast}. {about.method}",
        "license": about.licence,
        "version": "1.0.0",
        "keywords": ["synthetic", about.anatomy, about.contrast],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "table",
                "name": "table",
                "contentUrl": layout.table,
                "encodingFormat": media,
                "sha256": sha256(table),
                "contentSize": f"{table.stat().st_size} B",
            },
            *(
                {
                    "@type": "cr:FileSet",
                    "@id": group.name,
                    "name": group.name,
                    "description": f"{MARK}; {group.text}",
                    "encodingFormat": group.media_type,
                    "includes": group.pattern,
                }
                for group in layout.groups()
            ),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "cases",
                "name": "cases",
                "description": f"{MARK}; one row for each case",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"cases/{column}",
                        "name": column,
                        "dataType": "sc:Text",
                        "source": {"fileObject": {"@id": "table"}, "extract": {"column": column}},
                    }
                    for column in columns
                ],
            }
        ],
    }
