//! The faults of a run, one after the other.

use super::clients::{Clients, watch};
use super::{DRAWS_SCHEDULE, PATIENT_TIMEOUT, Plan};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::Stage;
use crate::probe::Probe;
use crate::random::Random;
use crate::schedule::{Planned, Schedule};
use crate::workload::{Load, WORKLOADS};
use check::report::FaultSpan;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often it is looked whether every workload goes on.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long a run by rounds goes on after its last fault.
const QUIET_AT_END: Duration = Duration::from_secs(2);

/// What was injected.
#[derive(Debug, Default)]
pub(super) struct Injected {
    pub(super) spans: Vec<FaultSpan>,
    /// From when to when something was broken or being repaired, since the load began.
    pub(super) disturbed: Vec<(Duration, Duration)>,
    /// Why a fault did not land, of each that did not.
    pub(super) missed: Vec<String>,
    /// What the cluster did that it must not do: ended by itself, or did not become whole.
    pub(super) trouble: Option<String>,
    /// What this machine refused, so that the run was broken off. What clients had heard by then counts all the same.
    pub(super) refused: Option<Error>,
    /// Kinds for which there was no time.
    pub(super) left_out: Vec<&'static str>,
}

impl Injected {
    /// Whether the run can't go on.
    pub(super) fn is_broken_off(&self) -> bool {
        self.trouble.is_some() || self.refused.is_some()
    }
}

impl Plan<'_> {
    /// Injects one fault after the other until the time is up, or every kind came as often as it is to.
    pub(super) async fn inject(&self, cluster: Option<&mut Cluster>, clients: &Clients, probe: &Probe) -> Injected {
        let mut injected = Injected::default();
        let ends = self.flags.duration().map(|duration| clients.load.began + duration);
        if let Some(cluster) = cluster {
            let schedule = Schedule::new(self.kinds.clone(), Random::part(self.seed, DRAWS_SCHEDULE));
            let count = self.flags.rounds.map_or(usize::MAX, |rounds| rounds as usize * self.kinds.len());
            let mut came = Vec::new();
            for planned in schedule.take(count) {
                if ends.is_some_and(|ends| Instant::now() + planned.quiet + planned.hold > ends) {
                    break;
                }
                clients.sleep(planned.quiet, self.screen).await;
                came.push(planned.kind);
                let one = self.one(cluster, planned, clients, probe, &mut injected);
                if let Err(error) = watch(&clients.load, self.screen, one).await {
                    injected.refused = Some(error);
                }
                if injected.is_broken_off() {
                    return injected;
                }
            }
            let left_out = self.kinds.iter().filter(|kind| !came.contains(kind));
            injected.left_out = left_out.map(|kind| kind.name()).collect();
        }
        let rest = ends.map_or(QUIET_AT_END, |ends| ends.saturating_duration_since(Instant::now()));
        clients.sleep(rest, self.screen).await;
        injected
    }

    async fn one(
        &self,
        cluster: &mut Cluster,
        planned: Planned,
        clients: &Clients,
        probe: &Probe,
        injected: &mut Injected,
    ) -> Result<(), Error> {
        let random = Random::new(planned.seed);
        let (kind, hold, screen) = (planned.kind, planned.hold, self.screen);
        let load = &*clients.load;
        let mut stage = Stage { cluster, random, hold, screen, load, kind, began: None, ended: None };
        let outcome = kind.run(&mut stage).await;
        let Stage { cluster, began, ended, .. } = stage;
        if began.is_none() {
            load.meter.fault_begins();
        }
        load.meter.fault_ends();
        let (target, began) = began.unwrap_or_else(|| ("nobody".to_owned(), Instant::now()));
        let ended = ended.unwrap_or_else(Instant::now);
        let landed = match outcome {
            Ok(landed) => Some(landed),
            Err(Error::NotLanded(why)) => {
                injected.missed.push(format!("{} of {target}: {why}", kind.name()));
                cluster.mend().await?;
                None
            }
            // A cluster that does not do what it is asked, however long one asks, is as bad as one that is not whole.
            Err(error @ (Error::Cluster(_) | Error::Client(_))) => {
                injected.trouble = Some(format!("{} of {target}: {error}", kind.name()));
                None
            }
            Err(error) => return Err(error),
        };
        if injected.trouble.is_none()
            && let Err(error) = cluster.await_whole().await
        {
            injected.trouble = Some(format!("after {} of {target}: {error}", kind.name()));
        }
        let whole = Instant::now();
        let recovery = match injected.trouble {
            None => {
                probe.round_after(whole, PATIENT_TIMEOUT).await;
                probe.recovery(began, whole)
            }
            Some(_) => None,
        };
        if injected.trouble.is_none() && recovery.is_none() {
            let (kind, waited) = (kind.name(), PATIENT_TIMEOUT.as_secs());
            injected.trouble = Some(format!(
                "after {kind} of {target}: the cluster says that it is whole, and for {waited} s some partition accepts no put"
            ));
        }
        if injected.trouble.is_none()
            && let Some(idle) = self.idle(load).await
        {
            let (kind, waited) = (kind.name(), PATIENT_TIMEOUT.as_secs());
            injected.trouble = Some(format!(
                "after {kind} of {target}: the cluster is whole, and for {waited} s nothing that {idle} asks is done"
            ));
        }
        let since = |at: Instant| at.saturating_duration_since(clients.load.began);
        injected.disturbed.push((since(began), since(Instant::now())));
        let back = match (recovery, &injected.trouble) {
            (Some(recovery), _) => format!("served again after {} ms", recovery.as_millis()),
            (None, trouble) => trouble.clone().unwrap_or_default(),
        };
        let what = landed.as_deref().unwrap_or("DID NOT LAND");
        screen.fault_is_over(&format!("{:<19}{target:<28}  {what}; {back}", kind.name()), recovery);
        injected.spans.push(FaultSpan {
            kind: kind.name().to_owned(),
            target,
            began_ms: since(began).as_millis() as u64,
            ended_ms: since(ended).as_millis() as u64,
            landed,
            recovery_ms: recovery.map(|recovery| recovery.as_millis() as u64),
            // Operations of it may still be under way.
            operations: BTreeMap::new(),
        });
        Ok(())
    }

    /// Waits until something that was asked by each workload has been done; names the first of those that wait in vain.
    async fn idle(&self, load: &Load) -> Option<&'static str> {
        let (before, began) = (load.meter.done(), Instant::now());
        loop {
            let now = load.meter.done();
            let idle = self.workloads.iter().zip(before.iter().zip(now)).find(|(_, (before, now))| *before == now);
            let (which, _) = idle?;
            if began.elapsed() > PATIENT_TIMEOUT {
                return Some(WORKLOADS[*which].0);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Adds what was under way during each fault, once everything has been answered.
    pub(super) fn add_operations(&self, injected: &mut Injected, load: &Load) {
        for (span, during) in injected.spans.iter_mut().zip(load.meter.during_faults()) {
            let names = self.workloads.iter().map(|which| WORKLOADS[*which].0.to_owned());
            span.operations = names.zip(during).collect();
        }
    }
}
