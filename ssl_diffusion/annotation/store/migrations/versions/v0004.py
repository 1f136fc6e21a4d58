"""Labels that are sets of classes, for jobs whose images may have several."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns."""
    for table in ("events", "votes", "current"):
        op.add_column(table, sa.Column("classes", sa.String()))
