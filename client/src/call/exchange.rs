//! What happens to a [`Line`](super::Line) and what it asks for: the words between it and the engine.

use p2p_net::PeerId;
use uuid::Uuid;

use super::{Cause, End};
use crate::Problem;
use crate::wire::{CallFrame, Quality, Sources, StreamEntry};

/// What happens to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Our person calls somebody. Nothing happens unless the line is idle.
    Call {
        /// Whom.
        peer: PeerId,
        /// A fresh random id.
        call: Uuid,
        /// What we may send.
        streams: Vec<StreamEntry>,
        /// What we send at first.
        sources: Sources,
    },
    /// Our person is being asked about the incoming call.
    Ring,
    /// Our person takes the incoming call.
    Answer {
        /// What we may send.
        streams: Vec<StreamEntry>,
        /// What we send at first.
        sources: Sources,
    },
    /// Our side ends whatever call there is, rung or running.
    End(End),
    /// Our sources are others now.
    Sources(Sources),
    /// How the other side's media arrive, for its information.
    Quality(Quality),
    /// A new connection to a peer is usable; the other side knows calls, or not.
    Linked(PeerId, bool),
    /// The connection to a peer ended, and there is no other.
    Unlinked(PeerId),
    /// What [`Output::Dial`] started came to nothing.
    DialFailed(PeerId, Problem),
    /// A peer said something.
    Frame(PeerId, CallFrame),
    /// Media of the running call came.
    Heard,
    /// The deadline of [`Line::poll_timeout`](super::Line::poll_timeout) passed.
    Timeout,
}

/// What a line asks for, and what it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// See that there is a connection; ends in [`Input::Linked`] or [`Input::DialFailed`].
    Dial(PeerId),
    /// Find out whether the connection lives, and close it if not.
    Check(PeerId),
    /// Send this.
    Send(PeerId, CallFrame),
    /// It rings at the other side.
    Ringing,
    /// Somebody calls: [`Input::Ring`] and ask, [`Input::Answer`], or [`Input::End`].
    Incoming {
        /// Who.
        peer: PeerId,
        /// What the other side sends at first.
        sources: Sources,
    },
    /// Media begin.
    Begin {
        /// With whom.
        peer: PeerId,
        /// The call's id.
        call: Uuid,
        /// The version of the media packets.
        version: u8,
        /// What the other side may send.
        streams: Vec<StreamEntry>,
        /// What it sends at first.
        sources: Sources,
    },
    /// Sources of either side changed; media rest while either side holds.
    Sources {
        /// Ours.
        ours: Sources,
        /// Theirs.
        theirs: Sources,
    },
    /// How our media arrive at the other side.
    Quality(Quality),
    /// Nothing is heard of the other side (true), or something again (false).
    Silent(bool),
    /// The call is over; media end.
    Ended {
        /// With whom it was.
        peer: PeerId,
        /// Media had begun.
        answered: bool,
        /// Why.
        end: End,
    },
    /// Somebody called and was turned away by the line itself.
    Refused {
        /// Who.
        peer: PeerId,
        /// Why.
        cause: Cause,
    },
}
