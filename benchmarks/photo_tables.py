"""Lay the accuracy of flare beside COLMAP's on the same photo subsets.

usage: python benchmarks/photo_tables.py FLARE.tsv COLMAP.tsv [COLMAP.tsv ...]

The tables come from the runners of the benchmark photos: one row per subset (and, for COLMAP, per mapper). COLMAP's
mappers are shown apart and as the better of the two for every subset, which is the line to beat.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

SIZES = ("2", "4", "8", "all")
Row = dict[str, str]


def read(paths: list[str]) -> dict[str, dict[tuple[str, str], Row]]:
    """Rows per method and (scene, subset)."""
    out: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    for path in paths:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                out[row["mapper"]][row["scene"], row["subset"]] = row
    return out


def size_of(row: Row) -> str:
    return "all" if row["kind"] == "all" else row["n"]


def line(name: str, rows: list[Row]) -> str:
    def mean(column: str) -> float:
        values = [float(row[column]) for row in rows if row[column] not in ("nan", "")]
        return fmean(values) if values else float("nan")

    registered = fmean(float(row["registered"]) / float(row["n"]) for row in rows)
    return (
        f"| {name} | {len(rows)} | {100 * registered:.0f} | {mean('AUC@5'):.1f} | {mean('AUC@30'):.1f} "
        f"| {mean('focal_err'):.1f} | {mean('wall_s'):.1f} |"
    )


def main(flare_path: str, colmap_paths: list[str]) -> None:
    flare = next(iter(read([flare_path]).values()))
    colmap = read(colmap_paths)
    common = set(flare).intersection(*colmap.values())
    best = {key: max((rows[key] for rows in colmap.values()), key=lambda row: float(row["AUC@30"])) for key in common}
    methods = {"flare": flare, **{f"COLMAP {name}": rows for name, rows in colmap.items()}, "COLMAP, better": best}
    print("| photos | method | subsets | cameras % | AUC@5 | AUC@30 | focal error % | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        for name, rows in methods.items():
            chosen = [rows[key] for key in sorted(common) if size_of(rows[key]) == size]
            if chosen:
                print(f"| {size} {line(name, chosen)}")
    print("\n| scene | " + " | ".join(f"{size}: flare / COLMAP AUC@30" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for scene in sorted({key[0] for key in common}):
        cells = []
        for size in SIZES:
            keys = [key for key in common if key[0] == scene and size_of(flare[key]) == size]
            pair = [fmean(float(rows[key]["AUC@30"]) for key in keys) for rows in (flare, best)] if keys else []
            cells.append(" / ".join(f"{value:.0f}" for value in pair) or "-")
        print(f"| {scene} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
