"""What does not fit into the report, as report/results/tables.md, from report.numbers."""

from report.files import RESULTS

PATH = RESULTS / "tables.md"
LAST, BEST = "last epoch", "best epoch"


def markdown(title, header, rows):
    """Lines of a section with a table of texts."""
    yield f"\n## {title}\n"
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def tables(n):
    """The lines of tables.md; `n` is what numbers() returns."""
    environment = ", ".join(f"{key} {value}" for key, value in n["environment"].items())
    yield "# Tables behind the report\n"
    yield "Made by `python -m report` from the results files beside this one; do not edit."
    yield "Errors are percent of the test pairs, mean ± standard deviation (n − 1) over rounds;"
    yield f"gains and differences are in points, with 95% intervals. {environment}."
    yield from markdown(
        "Every training",
        ("row", "parameters", "rounds", LAST, BEST, "training pairs, last", "s/round"),
        (
            [
                name,
                *(row[x] for x in ("parameters", "rounds", "last", "best", "training", "seconds")),
            ]
            for name, row in n["rows"].items()
        ),
    )
    header = "what", "without", "with", "gain", "95% interval", "for other images", "p (Holm)"
    yield from markdown(
        f"Gains, and p adjusted for all {len(n['gains'])} of them",
        ("part", *header),
        (row[:-1] for row in n["gains"].values()),
    )
    yield from markdown(
        "What report 1 leaves open, read otherwise: our accuracy less its own, in points",
        ("change", "epochs", *n["cells"], "mean size"),
        ([row[0], BEST if row[1] else LAST, *row[2:]] for row in n["protocols"]),
    )
    yield from markdown(
        "`sub_lenet5`'s largest batches at all rates: our accuracy less the reported, in points",
        ("batch size", "rate", "reported", LAST, BEST),
        n["other_rates"],
    )
    yield from markdown(
        "The best settings of report 1's grids",
        ("model", "grid", "its table", f"ours, {LAST}", f"ours, {BEST}"),
        n["best_settings"],
    )
    yield from markdown(
        "The mean test error’s lowest epoch, its rise since, and test less training error",
        (
            "row",
            "lowest at epoch",
            "rise since",
            "95% interval",
            "test less training",
            "95% interval",
        ),
        (
            [name, *n["rises"][name], *n["gaps"][name]]
            for name in n["rows"]
            if n["rises"][name][0] != "n/a"
        ),
    )
    yield from markdown(
        "How digits lie in the last layer: order along three axes, 1 if perfect",
        ("row", "head's axis", "principal", "t-SNE's", "two halves right", "nearest wrong %"),
        n["order"],
    )
    yield from markdown(
        "Comparisons of `siamese_al`'s frozen scores, and trained end to end",
        ("comparison", "error %", "ECE %", "cross-entropy", "error more than the closed form's"),
        n["heads"],
    )
    for name, points in n["learning"].items():
        yield from markdown(
            f"Learning curve of {name}",
            ("training pairs", "error %", "standard error"),
            points,
        )
    yield from markdown(
        "Calibration of `posterior`: bins of P(a ≤ b) with ten pairs or more",
        ("pairs", "mean P", "share with a ≤ b", "low", "high"),
        n["bins"],
    )
    seconds = n["variant_seconds"]
    yield from markdown(
        "The search: points of validation error more than the row's own",
        ("variant", "trainings", "validation error %", "more", "95% interval", "s"),
        (
            [name, n["trainings"][name], error, *n["paired"].get(name, ["", ""]), seconds[name]]
            for name, error in n["validation"].items()
        ),
    )
    yield from markdown(
        "Speed: seconds of a round, and operations as a share of what matrix products reach",
        ("row", "textbook s", "ours s", "ratio", "textbook %", "ours %"),
        n["speed"],
    )
    yield from markdown(
        "From the textbook's loop to ours, seconds of a round", ("step", *n["stepped"]), n["steps"]
    )


def text(n):
    """The bytes of tables.md."""
    return ("\n".join(tables(n)) + "\n").encode()
