//! Sealed signals: numbers that rise for each envelope we make, and a window per sender against replay
//! (`wire.md` §4). Both live as long as the endpoint; an envelope of an earlier life of ours could be
//! replayed to a new one, where it starts a session that its replayer cannot complete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use p2p_net_proto::wire::{Answer, Guess, Hint, Offer, signal};
use p2p_net_proto::{Identity, PeerId, ReplayWindow, SignalBody, codec, open, seal};
use tracing::debug;

/// Senders whose numbers are remembered at most.
const MAX_SENDERS: usize = 4_096;

/// See the module.
pub(crate) struct Seals {
    identity: Arc<Identity>,
    last: u64,
    seen: HashMap<PeerId, ReplayWindow>,
}

impl Seals {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            last: 0,
            seen: HashMap::new(),
        }
    }

    /// Seals `body` to `peer`; `None` where its key is weak.
    pub(crate) fn seal(&mut self, peer: &PeerId, body: &SignalBody) -> Option<Vec<u8>> {
        let bytes = match body {
            SignalBody::Offer(offer) => codec::to_body(offer),
            SignalBody::Answer(answer) => codec::to_body(answer),
            SignalBody::Hint(hint) => codec::to_body(hint),
            SignalBody::Guess(guess) => codec::to_body(guess),
        }
        .ok()?;
        let clock = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let micros = u64::try_from(clock.as_micros()).unwrap_or(u64::MAX);
        self.last = micros.max(self.last.saturating_add(1));
        seal(
            &self.identity,
            peer,
            body.kind(),
            self.last,
            &bytes,
            rand::random(),
        )
        .ok()
    }

    /// Opens what `peer` sealed to us; `None` for anything forged, replayed, malformed or of another kind.
    pub(crate) fn open(&mut self, peer: &PeerId, kind: u16, sealed: &[u8]) -> Option<SignalBody> {
        let envelope = open(&self.identity, peer, kind, sealed)
            .inspect_err(|error| debug!(peer = %peer.short(), %error, "a signal is dropped"))
            .ok()?;
        if self.seen.len() >= MAX_SENDERS && !self.seen.contains_key(peer) {
            let oldest = self.seen.keys().next().copied();
            oldest.and_then(|oldest| self.seen.remove(&oldest));
        }
        if !self.seen.entry(*peer).or_default().accept(envelope.number) {
            debug!(peer = %peer.short(), "a signal was replayed");
            return None;
        }
        match kind {
            signal::OFFER => codec::from_body::<Offer>(&envelope.body)
                .ok()
                .map(SignalBody::Offer),
            signal::ANSWER => codec::from_body::<Answer>(&envelope.body)
                .ok()
                .map(SignalBody::Answer),
            signal::HINT => codec::from_body::<Hint>(&envelope.body)
                .ok()
                .map(SignalBody::Hint),
            signal::GUESS => codec::from_body::<Guess>(&envelope.body)
                .ok()
                .map(SignalBody::Guess),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(session: u8) -> SignalBody {
        SignalBody::Offer(Offer {
            session: [session; 16],
            nonce: [2; 16],
            candidates: Vec::new(),
            relay_rtt_micros: 0,
        })
    }

    fn pair() -> (Seals, PeerId, Seals, PeerId) {
        let (one, two) = (
            Identity::from_secret([1; 32]),
            Identity::from_secret([2; 32]),
        );
        let (one_id, two_id) = (one.id(), two.id());
        (
            Seals::new(Arc::new(one)),
            one_id,
            Seals::new(Arc::new(two)),
            two_id,
        )
    }

    #[test]
    fn a_signal_opens_once() {
        let (mut one, one_id, mut two, two_id) = pair();
        let sealed = one.seal(&two_id, &offer(1)).expect("sealed");
        assert_eq!(two.open(&one_id, signal::OFFER, &sealed), Some(offer(1)));
        assert_eq!(two.open(&one_id, signal::OFFER, &sealed), None, "replayed");
        let next = one.seal(&two_id, &offer(2)).expect("sealed");
        assert_eq!(two.open(&one_id, signal::OFFER, &next), Some(offer(2)));
    }

    #[test]
    fn a_signal_opens_only_as_what_it_is_from_whom_it_is() {
        let (mut one, one_id, mut two, two_id) = pair();
        let sealed = one.seal(&two_id, &offer(1)).expect("sealed");
        assert_eq!(two.open(&one_id, signal::ANSWER, &sealed), None);
        assert_eq!(two.open(&two_id, signal::OFFER, &sealed), None);
        assert_eq!(one.open(&one_id, signal::OFFER, &sealed), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(
                two.open(&one_id, signal::OFFER, &altered),
                None,
                "byte {at}"
            );
        }
        assert_eq!(two.open(&one_id, signal::OFFER, &sealed), Some(offer(1)));
    }

    #[test]
    fn the_memory_of_senders_is_bounded() {
        let (_, _, mut two, two_id) = pair();
        for byte in 0..3u8 {
            let one = Identity::from_secret([10 + byte; 32]);
            let id = one.id();
            let sealed = Seals::new(Arc::new(one))
                .seal(&two_id, &offer(1))
                .expect("sealed");
            assert!(two.open(&id, signal::OFFER, &sealed).is_some());
        }
        assert_eq!(two.seen.len(), 3);
    }
}
