"""Run by Alembic, on the connection that :func:`ssl_diffusion.annotation.store.upgrades.upgrade` hands over."""

from alembic import context

from ssl_diffusion.annotation.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
