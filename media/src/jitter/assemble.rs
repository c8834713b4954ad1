//! Frames from fragments and parity: a table of frames with bounds on frames and bytes.
