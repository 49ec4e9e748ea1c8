"""SQL macros for vectors: inner product, cosine, distance, centroid, PCA; each with a comment."""

from __future__ import annotations

from dataclasses import dataclass

# Python functions: SQL has no eigenvalues, and looks for a sample in all files. `storage.sql.vectors` and
# `storage.sql.sample_lookup` register them.
FIT = "fit_principal_components"
FIND = "find_states_of_sample"


@dataclass(frozen=True, kw_only=True)
class Macro:
    """One macro: its signature, its comment, and its SQL after AS."""

    call: str
    comment: str
    body: str

    @property
    def name(self) -> str:
        return self.call.partition("(")[0]

    @property
    def is_table(self) -> bool:
        return self.body.lstrip().startswith("TABLE")


# Each dimension is averaged by itself, in double precision. Measured in docs/decisions/sql.md.
_CENTROID = """
CASE WHEN min(len(vector)) < max(len(vector)) THEN error(
    'centroid: vectors have ' || min(len(vector)) || ' and ' || max(len(vector)) || ' numbers, so they are of several '
    'models; add WHERE model = … or GROUP BY model')
ELSE list_transform(
    range(1, max(len(vector)) + 1), lambda i: list_avg(list_transform(list(vector), lambda one: one[i])))
END
"""
# Unlike an aggregate, this streams the numbers, so that no group is in memory as a whole.
_DISTANCE_TO_CENTROID = """TABLE
WITH centroids AS (
    SELECT model, block, position, list(mean ORDER BY place) AS centre
    FROM (
        SELECT model, block, position, place, avg(number::DOUBLE) AS mean
        FROM (
            SELECT model, block, position, unnest(vector) AS number, generate_subscripts(vector, 1) AS place
            FROM hidden_states AS h
            WHERE h.condition = of_condition AND h.intervention = ''
        )
        GROUP BY model, block, position, place
    )
    GROUP BY model, block, position
)
SELECT h.key, model, h.dataset, h.sample_id, h.condition, block, position, h.intervention, h.alpha,
    l2(h.vector, centre) AS distance
FROM hidden_states AS h JOIN centroids USING (model, block, position)
"""

# DuckDB adds lists of FLOAT up in single precision, in their order: a language model's one component of 1,500 swallows
# the others, and the result depends on its place. So every sum over a vector is of DOUBLE[], about a third slower.
_COSINE = "list_cosine_similarity(a::DOUBLE[], b::DOUBLE[])"

MACROS = (
    Macro(
        call="dot(a, b)",
        comment="inner product of two vectors",
        body="list_dot_product(a::DOUBLE[], b::DOUBLE[])",
    ),
    Macro(
        call="norm(a)",
        comment="Euclidean length of a vector",
        body="sqrt(list_dot_product(a::DOUBLE[], a::DOUBLE[]))",
    ),
    Macro(
        call="cosine(a, b)",
        comment="cosine of the angle between two vectors; null where one has length 0",
        # NaN sorts before every neighbour. Lengths are computed for the few rows with NaN alone, where a vector that
        # holds NaN itself keeps it.
        body=f"CASE WHEN isnan({_COSINE}) THEN nullif(norm(a) * norm(b), 0) + 'nan'::DOUBLE ELSE {_COSINE} END",
    ),
    Macro(
        call="l2(a, b)",
        comment="Euclidean distance between two vectors",
        body="list_distance(a::DOUBLE[], b::DOUBLE[])",
    ),
    Macro(
        call="projection(vector, shift)",
        comment="signed length of a vector along a shift's direction; null for a shift of length 0",
        body="dot(vector, shift) / nullif(norm(shift), 0)",
    ),
    Macro(
        call="centroid(vector)",
        comment="aggregate: mean of a group's vectors, number by number; nulls are passed over",
        body=_CENTROID,
    ),
    Macro(
        call="distance_to_centroid(of_condition := 'query')",
        comment="table: each state's distance to the centroid of a condition's unsteered states, same model and block",
        body=_DISTANCE_TO_CENTROID,
    ),
    Macro(
        call="states_of_sample(sample)",
        comment="table: the rows of hidden_states of the sample with this id, found by an index; many times faster",
        body=f"TABLE SELECT unnest({FIND}(sample), max_depth := 2)",
    ),
    Macro(
        call="pca(vector, components := 2)",
        comment="aggregate: principal components of a group's vectors: {mean, components, explained}",
        body=f"{FIT}(list(vector) FILTER (vector IS NOT NULL), components::INTEGER)",
    ),
    Macro(
        call="coordinates(vector, fitted)",
        comment="coordinates of a vector along the principal components that pca() has fitted",
        body=("list_transform(fitted.components, lambda one: dot(vector, one) - dot(fitted.mean, one))"),
    ),
)


def create_macros() -> str:
    """Make the SQL that creates and comments all macros; the views must exist."""
    lines = []
    for macro in MACROS:
        kind = "MACRO TABLE" if macro.is_table else "MACRO"
        comment = macro.comment.replace("'", "''")
        lines += [
            f"CREATE MACRO {macro.call} AS {macro.body}",
            f"COMMENT ON {kind} {macro.name} IS '{comment}'",
        ]
    return ";\n".join(lines)
