"""Numbers of labels that are wanted of each class, and images that show what it looks like."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("classes", sa.Column("target", sa.Integer(), nullable=True))
    op.create_table(
        "examples",
        sa.Column("class", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["class"], ["classes.number"], name=op.f("fk_examples_class")),
        sa.ForeignKeyConstraint(["position"], ["samples.position"], name=op.f("fk_examples_position")),
        sa.PrimaryKeyConstraint("class", "position", name=op.f("pk_examples")),
    )
