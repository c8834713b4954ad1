//! Counters and figures of a call, named as in the W3C's webrtc-stats where they exist there.
