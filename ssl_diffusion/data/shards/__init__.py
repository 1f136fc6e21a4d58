"""Pools in shards, Parquet files or tar files, on a disk or in a bucket: images are read when they are asked for."""
