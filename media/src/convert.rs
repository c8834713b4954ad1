//! Colour and scale.
