//! Buffers that adapt to measured jitter.
