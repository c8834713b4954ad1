//! openh264's encoder through its raw interface.
