//! The sender half and the receiver half of a call behind three verbs: everything that decides, put together.
