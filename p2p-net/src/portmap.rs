//! Keeps one UDP port open at the router, if it has a protocol for that: one task, which asks beside the login
//! and never before it. What is asked when is [`MappingPlan`]'s, how is in `portmap/router.rs`.

mod router;

use std::num::NonZeroU16;
use std::time::Duration;

use p2p_net_proto::{MappingPlan, PortMapping, PortMappingReport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, trace};

use crate::socket::now;
use router::{Held, Router};

/// Orders that wait at most.
const ORDERS: usize = 16;
/// Callers that wait for a report at most.
const MAX_WAITING: usize = 16;
/// How long an end may take: a router on the LAN answers within milliseconds, or not at all.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
/// A question that is under way at the end gets this much longer, so that what it brings can be given back.
const LAST_WORD: Duration = Duration::from_millis(150);

enum Order {
    NetworkChanged,
    Examine(oneshot::Sender<PortMappingReport>),
    Stop(oneshot::Sender<()>),
}

/// The driver's hold on the task. It ends, and gives back what it has, when this is dropped or stopped.
pub(crate) struct PortMapper {
    orders: mpsc::Sender<Order>,
    granted: watch::Receiver<Option<PortMapping>>,
}

impl PortMapper {
    /// Starts asking for `port`.
    pub(crate) fn start(port: u16) -> Option<Self> {
        let port = NonZeroU16::new(port)?;
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (told, granted) = watch::channel(None);
        tokio::spawn(Task::new(port, told).run(inbox));
        Some(Self { orders, granted })
    }

    /// What the router has granted, if anything.
    pub(crate) fn mapping(&self) -> Option<PortMapping> {
        *self.granted.borrow()
    }

    /// Completes when that has changed.
    pub(crate) async fn changed(&mut self) {
        if self.granted.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The network is another one, perhaps.
    pub(crate) fn network_changed(&self) {
        let _ = self.orders.try_send(Order::NetworkChanged);
    }

    /// What the router offers; takes up to some seconds.
    pub(crate) fn examine(&self) -> oneshot::Receiver<PortMappingReport> {
        let (reply, report) = oneshot::channel();
        let _ = self.orders.try_send(Order::Examine(reply));
        report
    }

    /// Gives the port back; takes [`RELEASE_LIMIT`] at most.
    pub(crate) async fn stop(self) {
        let (reply, done) = oneshot::channel();
        let ordered = self.orders.send(Order::Stop(reply));
        let _ = timeout(RELEASE_LIMIT, async {
            if ordered.await.is_ok() {
                let _ = done.await;
            }
        })
        .await;
    }
}

/// What a question brought.
enum Found {
    Asked(Result<Held, router::Refusal>),
    Surveyed(PortMappingReport),
}

struct Task {
    port: NonZeroU16,
    told: watch::Sender<Option<PortMapping>>,
    plan: MappingPlan,
    held: Option<Held>,
    /// Why the last question brought nothing, and who was asked.
    refusal: Option<router::Refusal>,
    work: JoinSet<Found>,
    asking: bool,
    surveying: bool,
    waiting: Vec<oneshot::Sender<PortMappingReport>>,
}

impl Task {
    fn new(port: NonZeroU16, told: watch::Sender<Option<PortMapping>>) -> Self {
        Self {
            port,
            told,
            plan: MappingPlan::new(now()),
            held: None,
            refusal: None,
            work: JoinSet::new(),
            asking: false,
            surveying: false,
            waiting: Vec::new(),
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let reply = loop {
            let due = sleep_until(self.plan.due().into());
            let end = self.plan.ends_at().map(|at| sleep_until(at.into()));
            let over = async {
                match end {
                    Some(end) => end.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::NetworkChanged) => self.plan.network_changed(now()),
                    Some(Order::Examine(reply)) => self.on_examine(reply),
                    Some(Order::Stop(reply)) => break Some(reply),
                    None => break None,
                },
                Some(found) = self.work.join_next() => match found {
                    Ok(Found::Asked(answer)) => self.on_answer(answer),
                    Ok(Found::Surveyed(report)) => self.on_surveyed(report),
                    Err(error) => {
                        debug!(%error, "asking the router broke off");
                        (self.asking, self.surveying) = (false, false);
                        self.plan.refused(now());
                    }
                },
                () = over => self.lose(),
                () = due, if !self.asking => self.ask(),
            }
        };
        self.finish().await;
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    fn ask(&mut self) {
        self.asking = true;
        self.plan.asked(now());
        let (port, before) = (self.port, self.held.clone());
        self.work
            .spawn(async move { Found::Asked(router::ask(port, before).await) });
    }

    fn on_answer(&mut self, answer: Result<Held, router::Refusal>) {
        self.asking = false;
        match answer {
            Ok(held) => {
                let mapping = held.mapping();
                if self.plan.granted(now(), mapping.lifetime_secs) {
                    debug!(
                        protocol = mapping.protocol.name(),
                        external = %mapping.external,
                        lifetime_secs = mapping.lifetime_secs,
                        "the router has opened a port"
                    );
                    self.refusal = None;
                    self.held = Some(held);
                    self.tell(Some(mapping));
                } else {
                    let words = "it opens ports for moments only".to_owned();
                    self.refusal = Some(router::Refusal::new(Some(held.router()), words));
                    self.lose();
                }
            }
            Err(refusal) => {
                trace!(why = refusal.words(), "no port is opened");
                // Of another network nothing is left; in the same one the grant may hold to its end.
                let moved = self.held.as_ref().map(Held::router) != refusal.router();
                if moved {
                    self.lose();
                }
                self.refusal = Some(refusal);
                self.plan.refused(now());
            }
        }
        if !self.waiting.is_empty() {
            self.survey();
        }
    }

    fn lose(&mut self) {
        self.plan.lost();
        self.held = None;
        self.tell(None);
    }

    fn tell(&self, mapping: Option<PortMapping>) {
        self.told.send_if_modified(|before| {
            let external = |mapping: &Option<PortMapping>| mapping.map(|m| m.external);
            let moved = external(before) != external(&mapping);
            *before = mapping;
            moved
        });
    }

    fn on_examine(&mut self, reply: oneshot::Sender<PortMappingReport>) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(reply);
        }
        // A question that goes on is part of what is asked for.
        if !self.asking {
            self.survey();
        }
    }

    fn survey(&mut self) {
        if std::mem::replace(&mut self.surveying, true) {
            return;
        }
        let (held, refusal) = (self.held.clone(), self.refusal.clone());
        self.work
            .spawn(async move { Found::Surveyed(router::survey(held, refusal).await) });
    }

    fn on_surveyed(&mut self, report: PortMappingReport) {
        self.surveying = false;
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(report.clone());
        }
    }

    /// Gives back what the router has granted.
    async fn finish(mut self) {
        if self.asking {
            let last = timeout(LAST_WORD, async {
                while let Some(found) = self.work.join_next().await {
                    if let Ok(Found::Asked(answer)) = found {
                        return answer.ok();
                    }
                }
                None
            });
            if let Ok(Some(held)) = last.await {
                self.held = Some(held);
            }
        }
        self.work.abort_all();
        if let Some(held) = self.held.take() {
            held.release().await;
        }
    }
}

impl Router {
    /// Whether there is anything to open: behind a public address there is no NAT.
    fn is_worth_asking(&self) -> bool {
        !p2p_net_proto::is_public(self.client)
    }
}
