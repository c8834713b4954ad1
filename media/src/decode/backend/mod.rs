//! The libraries that decode, each behind a safe face of ours.

pub(super) mod openh264;
pub(super) mod opus;
