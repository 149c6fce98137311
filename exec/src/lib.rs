//! Doing it: one rank, one loop, one match.
