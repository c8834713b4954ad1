//! How much the path carries, and who gets it.
