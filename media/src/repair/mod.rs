//! What to resend, protect or copy after loss.
