"""Label Studio: its REST interface, the exchange with a project, and a model server for it."""
