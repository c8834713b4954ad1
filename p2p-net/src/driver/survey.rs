//! Asks the relay, on both of its ports, as whom it sees our socket: what kind of NAT we are behind.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_net_proto::Survey;
use tracing::debug;

use super::Driver;
use super::timers::Timer;
use crate::socket::{canonical, now};

/// Where the relay answers besides port 443 unless told otherwise (`wire.md` §1).
const STUN_PORT: u16 = 3_478;

/// Between a login, or a new address, and the questions.
const QUIET: Duration = Duration::from_secs(10);

/// The relay's second port by the rule of `wire.md` §1.
fn second_port(first: u16) -> u16 {
    match first {
        443 => STUN_PORT,
        u16::MAX => u16::MAX - 1,
        port => port + 1,
    }
}

impl Driver {
    /// Begins anew after a while: whoever logs in to connect at once has something better to do first.
    pub(super) fn plan_survey(&mut self) {
        self.survey = None;
        self.timers.set(Timer::Survey, now() + QUIET);
    }

    fn start_survey(&mut self) {
        let Some(session) = &self.session else {
            return;
        };
        let relay = canonical(session.address);
        let second = SocketAddr::new(relay.ip(), second_port(relay.port()));
        let own = self.interfaces.iter().map(|(ip, _)| *ip).collect();
        let port = self.parts.socket.port();
        let seed = rand::random();
        self.survey = Some(Survey::start(now(), &[relay, second], own, port, seed));
        self.go_on_with_survey();
    }

    pub(super) fn on_survey_timeout(&mut self) {
        match &mut self.survey {
            Some(survey) => {
                survey.handle_timeout(now());
                self.go_on_with_survey();
            }
            None => self.start_survey(),
        }
    }

    pub(super) fn on_stun(&mut self, from: SocketAddr, packet: &[u8]) {
        let asked = self.survey.as_mut();
        if asked.is_some_and(|survey| survey.handle_packet(canonical(from), packet)) {
            self.go_on_with_survey();
        }
    }

    fn go_on_with_survey(&mut self) {
        let Some(survey) = &mut self.survey else {
            return;
        };
        while let Some((to, request)) = survey.poll_transmit() {
            self.parts.socket.send_raw(to, &request);
        }
        if let Some(report) = survey.report(now()) {
            debug!(mapping = ?report.mapping, allocation = ?report.allocation, "network surveyed");
            self.timers.stop(Timer::Survey);
            self.survey = None;
            self.parts.nat.send_replace(Some(report));
        } else if let Some(at) = survey.poll_timeout() {
            self.timers.set(Timer::Survey, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_port_is_that_of_the_relay() {
        assert_eq!(second_port(443), 3_478);
        assert_eq!(second_port(3_478), 3_479);
        assert_eq!(second_port(u16::MAX), u16::MAX - 1);
    }
}
