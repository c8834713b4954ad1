//! NAL units and parameter sets of H.264 (Annex B): parse, never trust.
