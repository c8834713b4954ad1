//! The libraries that encode, each behind a safe face of ours.

mod deep;
pub(super) mod openh264;
pub(super) mod opus;
