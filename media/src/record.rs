//! Recordings: fragmented MP4 that survives a crash.
