"""Classes that can be renamed, merged and removed; comments; verdicts on counterfactuals; samples to review."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns and tables."""
    for column in (sa.Column("key", sa.String()), sa.Column("state", sa.String()), sa.Column("into", sa.Integer())):
        op.add_column("classes", column)
    op.add_column("events", sa.Column("text", sa.String()))
    op.create_table(
        "class_events",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("class", sa.Integer(), nullable=False),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("after", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["class"], ["classes.number"], name=op.f("fk_class_events_class")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_class_events")),
    )
    op.create_table(
        "verdicts",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("picture", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_verdicts_position")),
        sa.ForeignKeyConstraint(["source"], ["classes.number"], name=op.f("fk_verdicts_source")),
        sa.ForeignKeyConstraint(["target"], ["classes.number"], name=op.f("fk_verdicts_target")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_verdicts")),
        sa.UniqueConstraint("token", name=op.f("uq_verdicts_token")),
    )
    op.create_index("ix_verdicts_position", "verdicts", ["position"], unique=False)
    op.create_table(
        "review",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("suggested", sa.Integer(), nullable=True),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("decided", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["decided"], ["events.number"], name=op.f("fk_review_decided")),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_review_position")),
        sa.ForeignKeyConstraint(["suggested"], ["classes.number"], name=op.f("fk_review_suggested")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_review")),
    )
    op.create_index("ix_review_position", "review", ["position"], unique=False)
