//! Sound and picture aligned by the sender's clock.
