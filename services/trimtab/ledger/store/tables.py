"""The tables. Times are microseconds since 1970 UTC; session, uuid and digest columns hold raw bytes.

`value` is a record as it stood in the log and `schema` its schema header: what the columns beside it leave out is read
from there. Nothing here is the only copy: all but `leases` is rebuilt from the log.
"""

import sqlalchemy as sa

from trimtab.core import ledger
from trimtab.ledger.store import dialects

METADATA = sa.MetaData()
# Rises with every change of a table that is here already: a database of another version is emptied of all that the log
# gives again, and rebuilt. Leases stay, so their table never changes.
VERSION = 4

# Where the next record of each partition is read: saved with what the records before it did.
OFFSETS = sa.Table(
    "offsets",
    METADATA,
    sa.Column("topic", dialects.NAME, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)

# Facts about the ledger itself, e.g. that it is being rebuilt.
MARKS = sa.Table(
    "marks",
    METADATA,
    sa.Column("name", dialects.NAME, primary_key=True),
    sa.Column("value", dialects.NAME, nullable=False),
)

COMPLETIONS = sa.Table(
    "completions",
    METADATA,
    sa.Column("uuid", sa.LargeBinary, primary_key=True),
    sa.Column("tenant", dialects.NAME, primary_key=True),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("session", sa.LargeBinary, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
    sa.Index("completions_by_line", "tenant", "line"),
)

# A distinct event. (tenant, uuid of the completion it is filed under, feedback id) is its identity, `digest` its body;
# of several bodies under one identity the first counts and the others are conflicts. `scope`: the session, or what
# stands for it until it is known. `received_us`: when the log took it.
FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("pk", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("scope", sa.LargeBinary, nullable=False),
    sa.Column("uuid", sa.LargeBinary, nullable=False),
    sa.Column("feedback_id", dialects.NAME, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("verified", sa.Boolean, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("received_us", sa.BigInteger, nullable=False),
    sa.Column("copies", sa.Integer, nullable=False),
    sa.Column("status", dialects.NAME, nullable=False),
    sa.Column("reason", dialects.NAME, nullable=False),
    sa.Column("example_id", dialects.NAME, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
    sa.Index("feedback_by_identity", "uuid", "tenant", "feedback_id", "digest", unique=True),
    sa.Index("feedback_by_scope", "scope", "tenant"),
    sa.Index("feedback_by_id", "feedback_id", "tenant"),
    sa.Index("feedback_by_status", "tenant", "line", "status", "reason", "copies", "received_us"),
)

# Whatever still waits is looked over every few seconds, and is little of it all.
WAITS = FEEDBACK.c.status == sa.literal_column(f"'{ledger.FeedbackStatus.WAITING.value}'")
sa.Index(
    "feedback_waiting",
    FEEDBACK.c.received_us,
    FEEDBACK.c.tenant,
    FEEDBACK.c.line,
    sqlite_where=WAITS,
    postgresql_where=WAITS,
)

# Of events about several answers, the UUIDs beside the one they are filed under.
FEEDBACK_TARGETS = sa.Table(
    "feedback_targets",
    METADATA,
    sa.Column("uuid", sa.LargeBinary, primary_key=True),
    sa.Column("feedback_pk", sa.BigInteger, primary_key=True, autoincrement=False),
)

# The newest revision of each example. `state` names what it was made from; absent after a rebuild, until made again.
# Of a vote that stands: outcome, in [0, 1], when, and by whom (keyed hashes, empty when nobody said); the policy that
# answered, if it is known; release and arm when the answer was part of one.
EXAMPLES = sa.Table(
    "examples",
    METADATA,
    sa.Column("example_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("session", sa.LargeBinary, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=True),
    sa.Column("outcome", sa.Float, nullable=True),
    sa.Column("occurred_us", sa.BigInteger, nullable=True),
    sa.Column("rater", dialects.NAME, nullable=True),
    sa.Column("network", dialects.NAME, nullable=True),
    sa.Column("policy_id", dialects.NAME, nullable=True),
    sa.Column("release_id", dialects.NAME, nullable=True),
    sa.Column("arm", dialects.NAME, nullable=True),
    sa.Index("examples_by_session", "session", "tenant", "release_id", "occurred_us", "outcome", "rater", "network"),
    sa.Index("examples_by_line", "tenant", "line", "withdrawn", "policy_id", "outcome"),
)
sa.Index(
    "examples_by_release",
    EXAMPLES.c.release_id,
    EXAMPLES.c.tenant,
    EXAMPLES.c.arm,
    EXAMPLES.c.outcome,
    sqlite_where=EXAMPLES.c.release_id.is_not(None),
    postgresql_where=EXAMPLES.c.release_id.is_not(None),
)

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
    sa.Column("published", sa.Boolean, nullable=False),
)
sa.Index(
    "outbox_unpublished",
    OUTBOX.c.partition,
    OUTBOX.c.sequence,
    sqlite_where=OUTBOX.c.published == sa.false(),
    postgresql_where=OUTBOX.c.published == sa.false(),
)

SEQUENCES = sa.Table(
    "sequences",
    METADATA,
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
)

# A session's first randomised exposure to a release, in whatever stage. scorable: the answer's text may be read and is
# in the clear. What follows is what the policy measured of the answer, if it did.
EXPOSURES = sa.Table(
    "exposures",
    METADATA,
    sa.Column("release_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, primary_key=True),
    sa.Column("session", sa.LargeBinary, primary_key=True),
    sa.Column("exposed_us", sa.BigInteger, nullable=False),
    sa.Column("completion_id", dialects.NAME, nullable=False),
    sa.Column("arm", dialects.NAME, nullable=False),
    sa.Column("propensity", sa.Float, nullable=False),
    sa.Column("stage", dialects.NAME, nullable=False),
    sa.Column("segment", dialects.NAME, nullable=False),
    sa.Column("scorable", sa.Boolean, nullable=False),
    sa.Column("latency_s", sa.Float, nullable=True),
    sa.Column("tokens", sa.Float, nullable=True),
    sa.Column("refused", sa.Float, nullable=True),
    sa.Column("repeats", sa.Float, nullable=True),
    sa.Column("failed", sa.Boolean, nullable=True),
)

# Rewards of first answers, in the reward model's own units; absent with the reason where there is none.
SCORES = sa.Table(
    "scores",
    METADATA,
    sa.Column("completion_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, primary_key=True),
    sa.Column("reward", sa.Float, nullable=True),
    sa.Column("reason", dialects.NAME, nullable=False),
)

ARM_TOTALS = sa.Table(
    "arm_totals",
    METADATA,
    sa.Column("release_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, primary_key=True),
    sa.Column("arm", dialects.NAME, primary_key=True),
    sa.Column("completions", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("latency_s", sa.Float, nullable=False),
)

MODELS = sa.Table(
    "models",
    METADATA,
    sa.Column("id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("kind", dialects.NAME, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False, index=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
)

# What a model was made from: parents and data sets alike.
MODEL_SOURCES = sa.Table(
    "model_sources",
    METADATA,
    sa.Column("model_id", dialects.NAME, primary_key=True),
    sa.Column("source_id", dialects.NAME, primary_key=True),
    sa.Column("dataset", sa.Boolean, nullable=False),
    sa.Index("model_sources_by_source", "source_id"),
)

MEMBERSHIPS = sa.Table(
    "memberships",
    METADATA,
    sa.Column("dataset_id", dialects.NAME, primary_key=True),
    sa.Column("example_id", dialects.NAME, primary_key=True),
    sa.Column("disposition", dialects.NAME, nullable=False),
    sa.Column("reason", dialects.NAME, nullable=False),
    sa.Index("memberships_by_example", "example_id"),
)

# Where each example was used last.
USES = sa.Table(
    "uses",
    METADATA,
    sa.Column("example_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("disposition", dialects.NAME, nullable=False),
    sa.Index("uses_by_line", "tenant", "line", "disposition"),
)

RELEASES = sa.Table(
    "releases",
    METADATA,
    sa.Column("id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("candidate_id", dialects.NAME, nullable=False, index=True),
    sa.Column("generation", sa.BigInteger, nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
)

# Of releases that ended "worse". in_force: no operator has released it, and there is something to release.
QUARANTINES = sa.Table(
    "quarantines",
    METADATA,
    sa.Column("release_id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("dataset_id", dialects.NAME, nullable=False),
    sa.Column("previous_dataset_id", dialects.NAME, nullable=False),
    sa.Column("in_force", sa.Boolean, nullable=False),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", dialects.NAME, primary_key=True),
    sa.Column("tenant", dialects.NAME, nullable=False),
    sa.Column("line", dialects.NAME, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("schema", sa.LargeBinary, nullable=False),
    sa.Index("audit_by_time", "tenant", "at_us"),
)

# The lease of the ledger that leads (`ledger.leading`).
LEAD = "ledger"
LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", dialects.NAME, primary_key=True),
    sa.Column("holder", dialects.NAME, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
)
