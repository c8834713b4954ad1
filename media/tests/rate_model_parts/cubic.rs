//! A bulk flow under CUBIC (RFC 9438), as far as a neighbour feels it: window, acknowledgements, one decrease a
//! round trip.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const PACKET: usize = 1_258;
const SCALE: f64 = 0.4;
const BETA: f64 = 0.7;

enum Fate {
    Acknowledged,
    Lost,
}

/// The flow.
pub(crate) struct Cubic {
    one_way: Duration,
    starts_after: Duration,
    first: Option<Instant>,
    window: f64,
    threshold: f64,
    most: f64,
    epoch: Option<Instant>,
    decreased: Option<Instant>,
    flying: f64,
    /// When the sender learns of each packet, in that order, and when it left.
    fates: VecDeque<(Instant, Instant, Fate)>,
    last_arrival: Option<Instant>,
    arrived: f64,
}

impl Cubic {
    pub(crate) fn new(one_way: Duration, starts_after: Duration) -> Self {
        Self {
            one_way,
            starts_after,
            first: None,
            window: 10.0,
            threshold: f64::INFINITY,
            most: 0.0,
            epoch: None,
            decreased: None,
            flying: 0.0,
            fates: VecDeque::new(),
            last_arrival: None,
            arrived: 0.0,
        }
    }

    /// It leaves slow start at so many packets, before the queue has filled, as kernels do (HyStart, RFC 9406).
    pub(crate) fn leaving_slow_start_at(self, window: f64) -> Self {
        Self {
            threshold: window,
            most: window,
            ..self
        }
    }

    /// From when on its share is counted, seconds: five after its start.
    pub(crate) fn settled(&self) -> f64 {
        self.starts_after.as_secs_f64() + 5.0
    }

    /// Bytes that arrived since then.
    pub(crate) fn arrived_bytes(&self) -> f64 {
        self.arrived
    }

    /// Sends what it may; `send` takes a packet of so many bytes on the wire, and says when it arrives, if it does.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        mut send: impl FnMut(Instant, usize) -> Option<Instant>,
    ) {
        let first = *self.first.get_or_insert(now);
        if now - first < self.starts_after {
            return;
        }
        while let Some((at, _, _)) = self.fates.front()
            && *at <= now
        {
            match self.fates.pop_front() {
                Some((_, left, Fate::Acknowledged)) => self.on_acknowledged(now, left),
                Some((_, left, Fate::Lost)) => self.on_lost(now, left),
                None => {}
            }
        }
        while self.flying + 1.0 <= self.window {
            self.flying += 1.0;
            let arrives = send(now, PACKET);
            let settled = now - first >= Duration::from_secs_f64(self.settled());
            if arrives.is_some() && settled {
                self.arrived += PACKET as f64;
            }
            // A loss is learnt when the packets around it are acknowledged.
            let base = arrives.or(self.last_arrival).unwrap_or(now + self.one_way);
            let known = base.max(now + self.one_way) + self.one_way;
            if arrives.is_some() {
                self.last_arrival = arrives;
            }
            let fate = if arrives.is_some() {
                Fate::Acknowledged
            } else {
                Fate::Lost
            };
            self.fates.push_back((known, now, fate));
        }
    }

    fn on_acknowledged(&mut self, now: Instant, left: Instant) {
        self.flying -= 1.0;
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let inflection = (self.most * (1.0 - BETA) / SCALE).cbrt();
        let since = (now - epoch).as_secs_f64() + 2.0 * self.one_way.as_secs_f64();
        let round = (now - left).as_secs_f64().max(1e-3);
        let friendly = BETA * self.most + 3.0 * (1.0 - BETA) / (1.0 + BETA) * since / round;
        let target = (SCALE * (since - inflection).powi(3) + self.most).max(friendly);
        let target = target.clamp(self.window, 1.5 * self.window);
        self.window += ((target - self.window) / self.window).max(0.01 / self.window);
    }

    fn on_lost(&mut self, now: Instant, left: Instant) {
        self.flying -= 1.0;
        // Once for all that left before.
        if self.decreased.is_some_and(|at| left < at) {
            return;
        }
        self.decreased = Some(now);
        self.most = if self.window < self.most {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
    }
}
