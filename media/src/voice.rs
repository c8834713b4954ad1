//! Echo cancellation, noise suppression, gain, levels and voice activity.
