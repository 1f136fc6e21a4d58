"""Seeds of rounds of 64 bits: a job allows any of 32 bits, and the number of the round is added."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Widen the column; in SQLite every integer has 64 bits."""
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("rounds", "seed", existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=False)
