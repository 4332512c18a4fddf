//! What a target offers where its nodes may not be read: what its quotas allow, or what the user says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream::{SelectAll, select_all};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::health::Health;
use super::land::Land;
use crate::kubelet::provider::{NodeReport, Obstacle};
use crate::provider::quantity::Quantity;
use crate::provider::requests::Requests;

const WATCH: &str = "resourcequotas";

/// What is said of machines that nobody may look at.
const UNSEEN: (&str, &str) = ("linux", "amd64");

/// The amounts that each quota allows, by namespace and name.
type Quotas = HashMap<(String, String), Requests>;

/// Offers exactly so much.
pub(super) fn fixed(amounts: &Requests, health: &Health) {
    health.resources(report(amounts));
}

/// Follows the quotas of these namespaces, for ever. Where `needed` is false nothing hangs on them: without the right to read
/// them, nothing is capped.
pub(super) async fn watch(client: Client, namespaces: Vec<String>, needed: bool, land: Arc<Land>, health: Arc<Health>) {
    let mut quotas = Quotas::new();
    let mut listed: HashMap<String, Quotas> = HashMap::new();
    let mut complete: HashMap<String, bool> = namespaces.iter().map(|name| (name.clone(), false)).collect();
    let mut all: SelectAll<_> = select_all(namespaces.iter().map(|namespace| {
        let api: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
        let name = namespace.clone();
        let stream = watcher(api, watcher::Config::default()).backoff(crate::backoff::of_watches());
        stream.map_ok(move |event| (name.clone(), event)).boxed()
    }));
    loop {
        let (namespace, event) = match all.try_next().await {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) if needed => {
                health.interrupted(WATCH, &error);
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "the quotas of the target cannot be read; they do not count");
                land.quota(Requests::new());
                continue;
            }
        };
        match event {
            watcher::Event::Init => drop(listed.insert(namespace, Quotas::new())),
            watcher::Event::InitApply(quota) => {
                listed.entry(namespace.clone()).or_default().insert((namespace, quota.name_any()), hard(&quota));
            }
            watcher::Event::InitDone => {
                quotas.retain(|(of, _), _| *of != namespace);
                quotas.extend(listed.remove(&namespace).unwrap_or_default());
                complete.insert(namespace, true);
            }
            watcher::Event::Apply(quota) => drop(quotas.insert((namespace, quota.name_any()), hard(&quota))),
            watcher::Event::Delete(quota) => drop(quotas.remove(&(namespace, quota.name_any()))),
        }
        if complete.values().all(|done| *done) {
            health.works(WATCH);
            land.quota(together(&quotas, &namespaces));
        }
    }
}

/// What a quota bounds, by the names that nodes use.
fn hard(quota: &ResourceQuota) -> Requests {
    let hard = quota.status.as_ref().and_then(|status| status.hard.as_ref());
    let hard = hard.or_else(|| quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
    let mut amounts = Requests::new();
    for (name, amount) in hard.into_iter().flatten() {
        let name = name.strip_prefix("requests.").unwrap_or(name);
        if name.starts_with("limits.") || name.starts_with("count/") || name == "storage" {
            continue;
        }
        if let Ok(amount) = Quantity::try_from(amount) {
            let least = amounts.get(name).map_or(amount, |known: &Quantity| amount.min(*known));
            amounts.insert(name.into(), least);
        }
    }
    amounts
}

/// In one namespace the narrowest quota counts, and what one namespace leaves open is open.
fn together(quotas: &Quotas, namespaces: &[String]) -> Requests {
    let mut total: Option<Requests> = None;
    for namespace in namespaces {
        let mut narrowest = Requests::new();
        for amounts in quotas.iter().filter(|((of, _), _)| of == namespace).map(|(_, amounts)| amounts) {
            for (name, amount) in amounts {
                let least = narrowest.get(name).map_or(*amount, |known| *amount.min(known));
                narrowest.insert(name.clone(), least);
            }
        }
        total = Some(match total {
            None => narrowest,
            Some(before) => {
                let both = before.into_iter().filter_map(|(name, amount)| {
                    let more = narrowest.get(&name)?;
                    Some((name, amount + *more))
                });
                both.collect()
            }
        });
    }
    total.unwrap_or_default()
}

/// What nodes offer, as far as the quotas allow it.
pub(super) fn at_most(mut report: NodeReport, quota: &Requests) -> NodeReport {
    for (name, amount) in quota {
        if let Some(offered) = report.allocatable.get_mut(name)
            && offered.parse::<Quantity>().is_ok_and(|offered| *amount < offered)
        {
            *offered = amount.print(name);
        }
    }
    report
}

/// What is offered where only so much may be used.
pub(super) fn report(amounts: &Requests) -> NodeReport {
    let printed: BTreeMap<_, _> = amounts.iter().map(|(name, amount)| (name.clone(), amount.print(name))).collect();
    NodeReport {
        capacity: printed.clone(),
        allocatable: printed,
        operating_system: UNSEEN.0.into(),
        architecture: UNSEEN.1.into(),
        ..NodeReport::default()
    }
}

/// What the user lets a target offer at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// At most so much.
    pub limits: Requests,
    /// So many percent less.
    pub headroom_percent: u32,
}

impl Ceiling {
    /// The report as it is shown.
    pub(super) fn apply(&self, mut report: NodeReport) -> NodeReport {
        for (name, limit) in &self.limits {
            let known = report.allocatable.get(name).and_then(|amount| amount.parse::<Quantity>().ok());
            let least = known.map_or(*limit, |known| known.min(*limit));
            report.allocatable.insert(name.clone(), least.print(name));
            report.capacity.entry(name.clone()).or_insert_with(|| limit.print(name));
        }
        if self.headroom_percent > 0 {
            for (name, amount) in &mut report.allocatable {
                if let Ok(whole) = amount.parse::<Quantity>() {
                    *amount = whole.percent(100 - self.headroom_percent.min(100), name).print(name);
                }
            }
        }
        for name in ["cpu", "memory", "pods"] {
            report.capacity.entry(name.into()).or_insert_with(|| "0".into());
            if !report.allocatable.contains_key(name) {
                report.allocatable.insert(name.into(), "0".into());
                let message = format!(
                    "nothing says how much {name} it has: no ResourceQuota in each of its namespaces bounds it; add it to \
                     spec.capacity.limits"
                );
                report.trouble.get_or_insert(Obstacle { reason: "CapacityUnknown".into(), message });
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn amounts(amounts: &[(&str, &str)]) -> Requests {
        amounts.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect()
    }

    #[test]
    fn the_narrowest_quota_of_each_namespace_counts() {
        let quota = json!({"spec": {"hard": {"requests.cpu": "4", "cpu": "3", "limits.cpu": "9", "pods": "10"}}});
        let wide = hard(&serde_json::from_value(quota).unwrap());
        assert_eq!(wide, amounts(&[("cpu", "3"), ("pods", "10")]));
        let key = |space: &str, name: &str| (space.to_owned(), name.to_owned());
        let quotas = Quotas::from([
            (key("a", "wide"), wide),
            (key("a", "narrow"), amounts(&[("cpu", "2")])),
            (key("b", "only"), amounts(&[("cpu", "1"), ("memory", "1Gi")])),
        ]);
        assert_eq!(together(&quotas, &["a".into(), "b".into()]), amounts(&[("cpu", "3")]));
    }

    #[test]
    fn a_quota_lowers_and_never_lifts() {
        let offered = report(&amounts(&[("cpu", "8"), ("memory", "4Gi"), ("pods", "100")]));
        let shown = at_most(offered, &amounts(&[("cpu", "3"), ("memory", "8Gi"), ("gpu", "1")])).allocatable;
        assert_eq!(json!(shown), json!({"cpu": "3", "memory": "4Gi", "pods": "100"}));
    }

    #[test]
    fn a_ceiling_lowers_and_never_lifts() {
        let offered = report(&amounts(&[("cpu", "8"), ("memory", "4Gi"), ("pods", "100")]));
        let ceiling = Ceiling { limits: amounts(&[("cpu", "4"), ("memory", "8Gi")]), headroom_percent: 25 };
        let shown = ceiling.apply(offered).allocatable;
        assert_eq!((shown["cpu"].as_str(), shown["memory"].as_str(), shown["pods"].as_str()), ("3", "3Gi", "75"));
        let unknown = Ceiling::default().apply(report(&amounts(&[("cpu", "1")])));
        assert!(unknown.trouble.unwrap().message.contains("memory"));
    }
}
