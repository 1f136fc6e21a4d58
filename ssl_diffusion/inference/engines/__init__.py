"""Where a model reads many images: in this process (:mod:`~.local`) or, of a pool in shards, on Ray (:mod:`~.ray`)."""
