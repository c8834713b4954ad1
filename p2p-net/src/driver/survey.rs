//! Asks the relay, on both of its ports, as whom it sees our socket: what kind of NAT we are behind.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_net_proto::{NetworkReport, Survey};
use tokio::sync::oneshot;
use tracing::debug;

use super::timers::Timer;
use super::{Done, Driver};
use crate::examine::{Examination, main_nat, other_address};
use crate::portmap::PortMapper;
use crate::socket::{canonical, now};

/// Between a login, or a new address, and the questions.
const QUIET: Duration = Duration::from_secs(10);

/// Callers that wait for one look at the network at most.
const MAX_EXAMINING: usize = 16;

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
        let second = other_address(relay, session.welcome.alternate_port);
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

    /// Somebody asks for a thorough look; one at a time serves all who ask meanwhile.
    pub(super) fn on_examine(&mut self, reply: oneshot::Sender<NetworkReport>) {
        if let Some(waiting) = &mut self.examining {
            waiting.retain(|waiting| !waiting.is_closed());
            if waiting.len() < MAX_EXAMINING {
                waiting.push(reply);
            }
            return;
        }
        self.examining = Some(vec![reply]);
        // Where TCP carries the login, what UDP does is still to be seen, at the relay's own address.
        let session = self.session.as_ref();
        let session = session.filter(|session| !session.is_tcp());
        let examination = Examination {
            provider: self.parts.provider.clone(),
            system: self.parts.system,
            relay: self.parts.relay.clone(),
            session: session.map(|session| (session.address, session.welcome.alternate_port)),
            interfaces: self.interfaces.clone(),
            port: self.parts.socket.port(),
            ports: self.parts.ports.as_ref().map(PortMapper::examine),
        };
        self.tasks
            .spawn(async move { Done::Examined(Box::new(examination.run().await)) });
    }

    pub(super) fn on_examined(&mut self, report: NetworkReport) {
        if let Some(nat) = main_nat(&report) {
            self.parts.nat.send_replace(Some(nat));
        }
        for waiting in self.examining.take().into_iter().flatten() {
            let _ = waiting.send(report.clone());
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
