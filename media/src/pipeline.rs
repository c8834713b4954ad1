//! Named threads and bounded channels from source to sink.
