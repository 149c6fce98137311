//! Who holds what: mesh, groups, stages, buckets, shards, memory.
