//! When each packet leaves: sound first, then resends, pictures, probes.
