"""Create the tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "classes",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_classes")),
        sa.UniqueConstraint("name", name=op.f("uq_classes_name")),
    )
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("strategy", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("n_open", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_rounds")),
    )
    op.create_table(
        "samples",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_samples")),
        sa.UniqueConstraint("id", name=op.f("uq_samples_id")),
    )
    with op.batch_alter_table("samples", schema=None) as batch_op:
        batch_op.create_index("ix_samples_role", ["role"], unique=False)

    op.create_table(
        "batch",
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("draw", sa.Integer(), nullable=True),
        sa.Column("place", sa.Float(), nullable=False),
        sa.Column("utility", sa.Float(), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("predicted", sa.Integer(), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_batch_position")),
        sa.ForeignKeyConstraint(["predicted"], ["classes.number"], name=op.f("fk_batch_predicted")),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"], name=op.f("fk_batch_round")),
        sa.PrimaryKeyConstraint("round", "position", name=op.f("pk_batch")),
    )
    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.create_index("ix_batch_place", ["round", "place"], unique=False)

    op.create_table(
        "current",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("class", sa.Integer(), nullable=True),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["class"], ["classes.number"], name=op.f("fk_current_class")),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_current_position")),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_current")),
    )
    with op.batch_alter_table("current", schema=None) as batch_op:
        batch_op.create_index("ix_current_status", ["status"], unique=False)

    op.create_table(
        "events",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("class", sa.Integer(), nullable=True),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("utility", sa.Float(), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["class"], ["classes.number"], name=op.f("fk_events_class")),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_events_position")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
        sa.UniqueConstraint("token", name=op.f("uq_events_token")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_kind", ["kind"], unique=False)
        batch_op.create_index("ix_events_position", ["position"], unique=False)

    op.create_table(
        "leases",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_leases_position")),
        sa.PrimaryKeyConstraint("position", "holder", name=op.f("pk_leases")),
    )
    op.create_table(
        "votes",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("class", sa.Integer(), nullable=True),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("event", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["class"], ["classes.number"], name=op.f("fk_votes_class")),
        sa.ForeignKeyConstraint(["event"], ["events.number"], name=op.f("fk_votes_event")),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_votes_position")),
        sa.PrimaryKeyConstraint("position", "annotator", name=op.f("pk_votes")),
    )
