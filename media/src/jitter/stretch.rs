//! Makes sound shorter or longer by whole periods of its pitch (WSOLA), without a change of pitch. Pure.
