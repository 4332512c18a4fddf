//! What is read at a scrape of the nodes that this process keeps: queues, pods, targets, capacity, certificates, leadership.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::board::{Board, Kept};
use crate::kubelet::contact::Contact;
use crate::kubelet::pods::Beat;
use crate::kubelet::sites::Index;
use crate::leader::Replica;
use crate::metrics::families::{
    LEADER, NODE_ALLOCATABLE, NODE_CAPACITY, NODE_REQUESTED, PODS, PODS_HELD, QUEUE_AGE, QUEUE_PODS, RECORDS,
    SERVING_CERTIFICATE, TARGET_ANSWERS, TARGET_SILENCE, WORKERS, WORKERS_BUSY, WORKERS_WAITING,
};
use crate::provider::quantity::Quantity;
use crate::provider::requests::{self, Requests};

/// Which replica keeps which node.
#[derive(Clone)]
pub(super) struct Leaders(pub(super) Replica);

/// All else.
#[derive(Clone)]
pub(super) struct Gauges(pub(super) Board);

impl fmt::Debug for Leaders {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaders").finish_non_exhaustive()
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Leaders {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        LEADER.encode(&mut encoder, |samples| {
            self.0.nodes().iter().try_for_each(|(node, ours)| samples.number([node], usize::from(*ours)))
        })
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kept = self.0.all();
        let mut sums = Sums::default();
        for (node, kept) in &kept {
            sums.add(kept.whole.as_deref().unwrap_or(node), kept, &kept.pulse.beat());
        }
        sums.encode(&mut encoder)?;
        for (family, pick) in [
            (&NODE_CAPACITY, capacity as fn(&Kept) -> Requests),
            (&NODE_ALLOCATABLE, allocatable),
            (&NODE_REQUESTED, requested),
        ] {
            family.encode(&mut encoder, |samples| {
                kept.iter().try_for_each(|(node, kept)| {
                    let mut each = pick(kept).into_iter();
                    each.try_for_each(|(name, amount)| samples.gauge([node, &name], units(amount)))
                })
            })?;
        }
        SERVING_CERTIFICATE.encode(&mut encoder, |samples| {
            kept.iter().try_for_each(|(node, kept)| {
                let Ok(described) = kept.serving.describe() else { return Ok(()) };
                let end = described.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                samples.gauge([node], end.as_secs_f64())
            })
        })
    }
}

/// What nodes that are parts of one have together.
#[derive(Default)]
struct Sums {
    /// By virtual node.
    nodes: BTreeMap<String, Sum>,
    pods: BTreeMap<[String; 3], usize>,
    /// By virtual node and target.
    targets: BTreeMap<[String; 2], Target>,
}

#[derive(Default)]
struct Sum {
    records: usize,
    queued: usize,
    age: f64,
    workers: usize,
}

#[derive(Default)]
struct Target {
    held: usize,
    busy: usize,
    waiting: usize,
    /// Whether it answers and for how long it is silent; `None` for what is no target.
    contact: Option<(bool, f64)>,
}

impl Sums {
    fn add(&mut self, whole: &str, kept: &Kept, beat: &Beat) {
        let sum = self.nodes.entry(whole.to_owned()).or_default();
        sum.records += beat.census.records;
        sum.queued += beat.queued;
        sum.age = sum.age.max(beat.age.as_secs_f64());
        sum.workers = beat.workers;
        let name = |site: Option<Index>| {
            let name = site.and_then(|site| kept.sites.get(usize::from(site)));
            name.map(String::as_str).unwrap_or_default().to_owned()
        };
        for ((site, phase), count) in &beat.census.pods {
            *self.pods.entry([whole.to_owned(), name(*site), (*phase).to_owned()]).or_default() += count;
        }
        for target in &kept.sites {
            let Some(served) = kept.targets.get(target) else { continue };
            let (answers, silence) = match &*served.contact.borrow() {
                Contact::Answers => (true, 0.0),
                Contact::Unheard | Contact::Doubtful(_) => (false, 0.0),
                Contact::Silent { since, .. } => (false, since.elapsed().as_secs_f64()),
            };
            let (all, longest) = self.target(whole, target.clone()).contact.unwrap_or((true, 0.0));
            self.target(whole, target.clone()).contact = Some((all && answers, longest.max(silence)));
        }
        for (site, busy, waiting) in &beat.lanes {
            let target = self.target(whole, name(*site));
            (target.busy, target.waiting) = (target.busy + busy, target.waiting + waiting);
        }
        for (site, held) in &beat.census.held {
            self.target(whole, name(*site)).held += held;
        }
    }

    fn target(&mut self, whole: &str, target: String) -> &mut Target {
        self.targets.entry([whole.to_owned(), target]).or_default()
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        RECORDS.encode(encoder, |samples| {
            self.nodes.iter().try_for_each(|(node, sum)| samples.number([node], sum.records))
        })?;
        QUEUE_PODS.encode(encoder, |samples| {
            self.nodes.iter().try_for_each(|(node, sum)| samples.number([node], sum.queued))
        })?;
        QUEUE_AGE
            .encode(encoder, |samples| self.nodes.iter().try_for_each(|(node, sum)| samples.gauge([node], sum.age)))?;
        WORKERS.encode(encoder, |samples| {
            self.nodes.iter().try_for_each(|(node, sum)| samples.number([node], sum.workers))
        })?;
        PODS.encode(encoder, |samples| {
            self.pods
                .iter()
                .try_for_each(|(labels, count)| samples.number(labels.each_ref().map(String::as_str), *count))
        })?;
        for (family, pick) in [
            (&PODS_HELD, (|target| target.held) as fn(&Target) -> usize),
            (&WORKERS_BUSY, |target| target.busy),
            (&WORKERS_WAITING, |target| target.waiting),
        ] {
            family.encode(encoder, |samples| {
                self.targets.iter().try_for_each(|([node, target], one)| samples.number([node, target], pick(one)))
            })?;
        }
        let contacts =
            || self.targets.iter().filter_map(|([node, target], one)| Some(([node.as_str(), target], one.contact?)));
        TARGET_ANSWERS.encode(encoder, |samples| {
            contacts().try_for_each(|(labels, (answers, _))| samples.number(labels, usize::from(answers)))
        })?;
        TARGET_SILENCE
            .encode(encoder, |samples| contacts().try_for_each(|(labels, (_, silence))| samples.gauge(labels, silence)))
    }
}

fn capacity(kept: &Kept) -> Requests {
    amounts(&kept.report.borrow().capacity)
}

fn allocatable(kept: &Kept) -> Requests {
    amounts(&kept.report.borrow().allocatable)
}

fn requested(kept: &Kept) -> Requests {
    // What nobody asks for is asked for nothing.
    let mut sum: Requests = allocatable(kept).into_keys().map(|name| (name, Quantity::ZERO)).collect();
    for served in kept.targets.values() {
        requests::add(&mut sum, &served.provider.committed());
    }
    sum
}

fn amounts(report: &BTreeMap<String, String>) -> Requests {
    report.iter().filter_map(|(name, amount)| Some((name.clone(), amount.parse().ok()?))).collect()
}

/// An amount in its resource's own unit, for people and graphs.
#[expect(clippy::cast_precision_loss, reason = "the largest of clusters is known to some bytes")]
fn units(amount: Quantity) -> f64 {
    let nanos = amount.nanos();
    if nanos == u64::MAX { amount.units() as f64 } else { nanos as f64 / 1e9 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_in_their_own_units() {
        let units = |text: &str| units(text.parse().unwrap());
        assert!((units("1500m") - 1.5).abs() < 1e-9);
        assert!((units("8Gi") - 8_589_934_592.0).abs() < 1.0);
        assert!((units("64Ti") - 70_368_744_177_664.0).abs() < 1e6, "more than fits in billionths");
        assert!((units("110") - 110.0).abs() < 1e-9);
    }
}
