//! How ranks talk: communicators over process groups, and the engine that runs ranks as threads.
