//! Which frame refers to which, read from the slices that the encoder wrote.
