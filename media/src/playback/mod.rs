//! Sinks of pictures and sound.
