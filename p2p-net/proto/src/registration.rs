//! A peer's life at its relay: connect, stay, lose it, come back. Decides when to dial, when to ask whether
//! the relay is still there, and when to give up; pure, behind the same verbs as [`crate::Peer`].

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// An attempt that takes longer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between questions while all is well.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Between questions while an answer is missing.
const PING_RETRY: Duration = Duration::from_secs(1);
/// Without an answer for this long, the relay is gone.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// The same where there is reason to doubt that the relay knows us.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// First pause after a loss; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A login that lasted this long makes the next loss the first one again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// Trying again may help, but not before `after`, where the relay named a time.
    Retry {
        /// The relay's own words on when.
        after: Option<Duration>,
    },
    /// Trying again will not help before somebody acts.
    Final,
}

/// What happens to a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginInput {
    /// The deadline of [`Registration::poll_timeout`] passed.
    Timeout,
    /// The relay welcomed us, for the first time or in the place of the login that stood.
    Welcomed,
    /// The attempt failed or the login ended.
    Lost(Setback),
    /// The relay answered a question.
    Pong(u64),
    /// Something, which may be forged, says that the relay does not know us.
    Doubt,
    /// Our addresses changed.
    NetworkChanged,
}

/// What a login asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutput {
    /// Dial the relay.
    Connect,
    /// Give up the attempt or the login; it counts as lost already.
    Abandon,
    /// Ask the relay whether it is there.
    Ping(u64),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Connecting {
        deadline: Instant,
    },
    Online {
        since: Instant,
        next_ping: Instant,
        unanswered: Option<Unanswered>,
    },
    Waiting {
        until: Instant,
    },
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Unanswered {
    /// Numbers up to this one were asked before: their answers come too late to count.
    first: u64,
    dead_at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Registration {
    state: State,
    losses: u32,
    next_nonce: u64,
    random: StdRng,
    outputs: std::collections::VecDeque<LoginOutput>,
}

impl Registration {
    /// A login that starts at once. `seed` feeds the jitter of pauses.
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        let mut registration = Self {
            state: State::Over,
            losses: 0,
            next_nonce: 1,
            random: StdRng::from_seed(seed),
            outputs: std::collections::VecDeque::new(),
        };
        registration.connect(now);
        registration
    }

    /// Takes one input; drain [`Registration::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Instant, input: LoginInput) {
        match input {
            LoginInput::Timeout => self.on_timeout(now),
            LoginInput::Welcomed => self.on_welcome(now),
            LoginInput::Lost(setback) => self.on_lost(now, setback),
            LoginInput::Pong(nonce) => self.on_pong(nonce),
            LoginInput::Doubt => self.ask(now, DOUBT_AFTER),
            LoginInput::NetworkChanged => match self.state {
                State::Waiting { .. } => {
                    self.losses = 0;
                    self.connect(now);
                }
                State::Online { .. } => self.ask(now, DOUBT_AFTER),
                State::Connecting { .. } | State::Over => {}
            },
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<LoginOutput> {
        self.outputs.pop_front()
    }

    /// When to call back with [`LoginInput::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { deadline } => Some(deadline),
            State::Online {
                next_ping,
                unanswered,
                ..
            } => Some(unanswered.map_or(next_ping, |unanswered| next_ping.min(unanswered.dead_at))),
            State::Waiting { until } => Some(until),
            State::Over => None,
        }
    }

    fn connect(&mut self, now: Instant) {
        self.state = State::Connecting {
            deadline: now + CONNECT_TIMEOUT,
        };
        self.outputs.push_back(LoginOutput::Connect);
    }

    fn on_timeout(&mut self, now: Instant) {
        match self.state {
            State::Connecting { deadline } if now >= deadline => self.abandon(now),
            State::Waiting { until } if now >= until => self.connect(now),
            State::Online {
                unanswered: Some(unanswered),
                ..
            } if now >= unanswered.dead_at => {
                self.abandon(now);
            }
            State::Online { next_ping, .. } if now >= next_ping => self.ask(now, DEAD_AFTER),
            _ => {}
        }
    }

    fn on_welcome(&mut self, now: Instant) {
        // A login that took the place of another, as UDP takes that of TCP, has been asked nothing yet.
        if matches!(self.state, State::Connecting { .. } | State::Online { .. }) {
            let next_ping = now + PING_INTERVAL;
            self.state = State::Online {
                since: now,
                next_ping,
                unanswered: None,
            };
        }
    }

    /// Asks now; the relay has `patience` to answer, or less if it was asked before.
    fn ask(&mut self, now: Instant, patience: Duration) {
        let State::Online {
            next_ping,
            unanswered,
            ..
        } = &mut self.state
        else {
            return;
        };
        let nonce = self.next_nonce;
        let dead_at = now + patience;
        match unanswered {
            Some(unanswered) => unanswered.dead_at = unanswered.dead_at.min(dead_at),
            None => {
                *unanswered = Some(Unanswered {
                    first: nonce,
                    dead_at,
                })
            }
        }
        *next_ping = now + PING_RETRY;
        self.next_nonce += 1;
        self.outputs.push_back(LoginOutput::Ping(nonce));
    }

    fn on_pong(&mut self, nonce: u64) {
        let State::Online {
            next_ping,
            unanswered,
            ..
        } = &mut self.state
        else {
            return;
        };
        let answered = unanswered
            .is_some_and(|unanswered| (unanswered.first..self.next_nonce).contains(&nonce));
        if answered {
            *unanswered = None;
            *next_ping += PING_INTERVAL - PING_RETRY;
        }
    }

    fn abandon(&mut self, now: Instant) {
        self.outputs.push_back(LoginOutput::Abandon);
        self.on_lost(now, Setback::Retry { after: None });
    }

    fn on_lost(&mut self, now: Instant, setback: Setback) {
        if let State::Online { since, .. } = self.state
            && now.saturating_duration_since(since) >= STABLE_AFTER
        {
            self.losses = 0;
        }
        self.state = match (self.state, setback) {
            (State::Over | State::Waiting { .. }, _) => return,
            (_, Setback::Final) => State::Over,
            (_, Setback::Retry { after }) => {
                let pause = self.pause().max(after.unwrap_or(Duration::ZERO));
                State::Waiting { until: now + pause }
            }
        };
    }

    /// Doubles with each loss; half of it is random, so that a restarted relay is not met by all at once.
    fn pause(&mut self) -> Duration {
        let full = BACKOFF_MIN
            .saturating_mul(1 << self.losses.min(16))
            .min(BACKOFF_MAX);
        self.losses = self.losses.saturating_add(1);
        full.mul_f64(self.random.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as a beginning"
)]
mod tests {
    use super::*;

    const RETRY: LoginInput = LoginInput::Lost(Setback::Retry { after: None });

    fn outputs(registration: &mut Registration) -> Vec<LoginOutput> {
        std::iter::from_fn(|| registration.poll_output()).collect()
    }

    fn start() -> (Instant, Registration) {
        let now = Instant::now();
        let mut registration = Registration::new(now, [7; 32]);
        assert_eq!(outputs(&mut registration), [LoginOutput::Connect]);
        (now, registration)
    }

    fn online() -> (Instant, Registration) {
        let (now, mut registration) = start();
        registration.handle_input(now, LoginInput::Welcomed);
        (now, registration)
    }

    /// Fires the next deadline and says when that was.
    fn fire(registration: &mut Registration) -> Instant {
        let at = registration.poll_timeout().expect("a deadline");
        registration.handle_input(at, LoginInput::Timeout);
        at
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_with_jitter() {
        let (mut now, mut registration) = start();
        let mut expected = BACKOFF_MIN;
        for _ in 0..12 {
            registration.handle_input(now, RETRY);
            let until = registration.poll_timeout().expect("a pause");
            let pause = until - now;
            assert!(
                pause >= expected / 2 && pause <= expected,
                "{pause:?} against {expected:?}"
            );
            registration.handle_input(until, LoginInput::Timeout);
            assert_eq!(outputs(&mut registration), [LoginOutput::Connect]);
            now = until;
            expected = (expected * 2).min(BACKOFF_MAX);
        }
    }

    #[test]
    fn a_stable_login_forgets_former_losses() {
        let (now, mut registration) = start();
        for _ in 0..8 {
            registration.handle_input(now, RETRY);
            fire(&mut registration);
        }
        registration.handle_input(now, LoginInput::Welcomed);
        let later = now + STABLE_AFTER;
        registration.handle_input(later, RETRY);
        assert!(registration.poll_timeout().expect("a pause") <= later + BACKOFF_MIN);
    }

    #[test]
    fn the_relay_names_the_time() {
        let (now, mut registration) = start();
        let after = Some(Duration::from_secs(60));
        registration.handle_input(now, LoginInput::Lost(Setback::Retry { after }));
        assert_eq!(
            registration.poll_timeout(),
            Some(now + Duration::from_secs(60))
        );
    }

    #[test]
    fn a_final_refusal_ends_it() {
        let (now, mut registration) = online();
        registration.handle_input(now, LoginInput::Lost(Setback::Final));
        assert_eq!(registration.poll_timeout(), None);
        registration.handle_input(now, LoginInput::NetworkChanged);
        registration.handle_input(now, RETRY);
        assert_eq!(registration.poll_timeout(), None);
        assert_eq!(outputs(&mut registration), []);
    }

    #[test]
    fn an_attempt_without_end_is_abandoned() {
        let (now, mut registration) = start();
        assert_eq!(fire(&mut registration), now + CONNECT_TIMEOUT);
        assert_eq!(outputs(&mut registration), [LoginOutput::Abandon]);
        fire(&mut registration);
        assert_eq!(outputs(&mut registration), [LoginOutput::Connect]);
    }

    #[test]
    fn answered_questions_come_every_five_seconds() {
        let (now, mut registration) = online();
        for round in 1..=20u32 {
            let at = fire(&mut registration);
            assert_eq!(at, now + PING_INTERVAL * round);
            let asked = outputs(&mut registration);
            let [LoginOutput::Ping(nonce)] = asked[..] else {
                panic!("{asked:?}")
            };
            registration.handle_input(at, LoginInput::Pong(nonce));
        }
    }

    #[test]
    fn ten_seconds_of_silence_are_the_end() {
        let (now, mut registration) = online();
        let mut pings = 0;
        loop {
            let at = fire(&mut registration);
            match outputs(&mut registration)[..] {
                [LoginOutput::Ping(_)] => pings += 1,
                [LoginOutput::Abandon] => {
                    assert_eq!(at, now + PING_INTERVAL + DEAD_AFTER);
                    break;
                }
                ref other => panic!("{other:?}"),
            }
        }
        assert_eq!(pings, 10);
    }

    #[test]
    fn answers_to_nothing_do_not_count() {
        let (_, mut registration) = online();
        let at = fire(&mut registration);
        outputs(&mut registration);
        registration.handle_input(at, LoginInput::Pong(99));
        registration.handle_input(at, LoginInput::Pong(0));
        assert_eq!(registration.poll_timeout(), Some(at + PING_RETRY));
    }

    #[test]
    fn another_login_in_its_place_owes_no_answer() {
        let (now, mut registration) = online();
        registration.handle_input(now, LoginInput::Doubt);
        outputs(&mut registration);
        registration.handle_input(now, LoginInput::Welcomed);
        assert_eq!(fire(&mut registration), now + PING_INTERVAL);
        assert!(matches!(
            outputs(&mut registration)[..],
            [LoginOutput::Ping(_)]
        ));
    }

    #[test]
    fn doubt_asks_at_once_and_waits_less() {
        let (now, mut registration) = online();
        registration.handle_input(now, LoginInput::Doubt);
        assert_eq!(outputs(&mut registration), [LoginOutput::Ping(1)]);
        fire(&mut registration);
        let dead = fire(&mut registration);
        assert_eq!(dead, now + DOUBT_AFTER);
        assert!(outputs(&mut registration).contains(&LoginOutput::Abandon));
    }

    #[test]
    fn a_new_network_is_tried_at_once() {
        let (now, mut registration) = start();
        registration.handle_input(now, RETRY);
        registration.handle_input(now, LoginInput::NetworkChanged);
        assert_eq!(outputs(&mut registration), [LoginOutput::Connect]);
    }
}
