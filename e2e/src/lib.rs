//! End-to-end tests of Longshore on real clusters.
