//! What must not have happened, read from what the API servers said. Pure.
//!
//! The history is of watches on both API servers, so that it does not depend on what Longshore thinks. What the run itself
//! did (whom it deleted, which delegates it touched) is the only other input.

use std::collections::{BTreeMap, BTreeSet};

/// Which API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Host,
    Target,
}

/// A pod in a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The proxy of a delegate; empty for others, and for a delegate whose labels somebody took off.
    pub(crate) proxy: String,
    pub(crate) phase: String,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) restarts: u64,
}

impl Sight {
    pub(crate) fn terminal(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// Something that an API server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) side: Side,
    /// The pod has gone; what is shown is its last state.
    pub(crate) gone: bool,
    pub(crate) pod: Sight,
}

/// What the run did on purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deeds {
    /// UIDs of proxies that the user deleted.
    pub(crate) deleted: BTreeSet<String>,
    /// UIDs of delegates that somebody in the target deleted or edited.
    pub(crate) touched: BTreeSet<String>,
    /// Namespaces that somebody deleted in the target.
    pub(crate) razed: BTreeSet<String>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The number of the event that shows it.
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// Everything wrong in a history, in its order.
pub(crate) fn judge(history: &[Event], deeds: &Deeds) -> Vec<Violation> {
    let mut court = Court::new(deeds);
    for (at, event) in history.iter().enumerate() {
        match event.side {
            Side::Host => court.home(at, event),
            Side::Target => court.target(at, event),
        }
    }
    court.found
}

struct Court<'a> {
    deeds: &'a Deeds,
    found: Vec<Violation>,
    /// Last phase of each proxy.
    phases: BTreeMap<String, String>,
    /// Whose delegate each one is, also after its labels were taken off.
    owners: BTreeMap<String, String>,
    /// The delegates of each proxy that are there now.
    alive: BTreeMap<String, BTreeSet<String>>,
    /// The last delegate of each proxy that has gone.
    former: BTreeMap<String, String>,
    restarts: BTreeMap<String, u64>,
}

impl<'a> Court<'a> {
    fn new(deeds: &'a Deeds) -> Self {
        Self {
            deeds,
            found: vec![],
            phases: BTreeMap::new(),
            owners: BTreeMap::new(),
            alive: BTreeMap::new(),
            former: BTreeMap::new(),
            restarts: BTreeMap::new(),
        }
    }

    fn blame(&mut self, at: usize, what: String) {
        self.found.push(Violation { at, what });
    }

    fn home(&mut self, at: usize, event: &Event) {
        let pod = &event.pod;
        let title = format!("proxy {}/{} ({})", pod.namespace, pod.name, pod.uid);
        if event.gone && !self.deeds.deleted.contains(&pod.uid) {
            self.blame(at, format!("{title} was removed, and nobody had deleted it"));
        }
        if let Some(last) = self.phases.get(&pod.uid)
            && matches!(last.as_str(), "Succeeded" | "Failed")
            && *last != pod.phase
        {
            self.blame(at, format!("{title} had {last} and shows {}", pod.phase));
        }
        let failed = pod.phase == "Failed" && self.phases.get(&pod.uid).is_none_or(|last| last != "Failed");
        let touched = || {
            let former = self.former.get(&pod.uid).into_iter();
            let alive = self.alive.get(&pod.uid).into_iter().flatten();
            former.chain(alive).any(|delegate| self.deeds.touched.contains(delegate))
        };
        if failed && !self.deeds.deleted.contains(&pod.uid) && !self.deeds.razed.contains(&pod.namespace) && !touched()
        {
            self.blame(at, format!("{title} has failed, and nobody had touched its delegate"));
        }
        self.phases.insert(pod.uid.clone(), pod.phase.clone());
    }

    fn target(&mut self, at: usize, event: &Event) {
        let pod = &event.pod;
        if !pod.proxy.is_empty() {
            self.owners.insert(pod.uid.clone(), pod.proxy.clone());
        }
        let Some(owner) = self.owners.get(&pod.uid).cloned() else { return };
        let title = format!("delegate {}/{} ({}) of {owner}", pod.namespace, pod.name, pod.uid);
        if event.gone {
            self.alive.entry(owner.clone()).or_default().remove(&pod.uid);
            self.former.insert(owner, pod.uid.clone());
            return;
        }
        let restarts = self.restarts.insert(pod.uid.clone(), pod.restarts).unwrap_or_default();
        if pod.restarts > restarts && !self.deeds.touched.contains(&pod.uid) {
            self.blame(at, format!("{title} has restarted"));
        }
        let news = self.alive.entry(owner.clone()).or_default().insert(pod.uid.clone());
        if self.alive.get(&owner).is_some_and(|alive| alive.len() > 1) {
            self.blame(at, format!("{title} is there beside another one"));
        }
        if news
            && let Some(former) = self.former.get(&owner)
            && former != &pod.uid
            && !self.deeds.touched.contains(former)
            && !self.deeds.razed.contains(&pod.namespace)
        {
            self.blame(at, format!("{title} replaces {former}, which nobody had touched"));
        }
    }
}

/// What is wrong with the world when all is healed: nothing if it is as it should be. `proxies` and `delegates` are complete
/// lists of both sides.
pub(crate) fn at_rest(proxies: &[Sight], delegates: &[Sight]) -> Vec<String> {
    let mut wrong = vec![];
    let mut owned: BTreeMap<&str, Vec<&Sight>> = BTreeMap::new();
    for delegate in delegates {
        owned.entry(&delegate.proxy).or_default().push(delegate);
        if !proxies.iter().any(|proxy| proxy.uid == delegate.proxy) {
            wrong.push(format!("delegate {}/{} has no proxy", delegate.namespace, delegate.name));
        }
    }
    for proxy in proxies {
        let title = format!("proxy {}/{} ({})", proxy.namespace, proxy.name, proxy.uid);
        if proxy.terminating {
            wrong.push(format!("{title} is still terminating"));
            continue;
        }
        match owned.get(proxy.uid.as_str()).map(Vec::as_slice) {
            Some([delegate]) if delegate.phase != proxy.phase || delegate.ready != proxy.ready => wrong.push(format!(
                "{title} shows {} (ready: {}), its delegate {} ({})",
                proxy.phase, proxy.ready, delegate.phase, delegate.ready
            )),
            Some([delegate]) if delegate.phase == "Pending" => wrong.push(format!("{title} is pending on both sides")),
            Some([_]) => {}
            None if proxy.terminal() => {}
            None => wrong.push(format!("{title} shows {} and has no delegate", proxy.phase)),
            Some(all) => wrong.push(format!("{title} has {} delegates", all.len())),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(uid: &str, phase: &str) -> Event {
        let pod =
            Sight { namespace: "n".into(), name: "p".into(), uid: uid.into(), phase: phase.into(), ..Sight::default() };
        Event { side: Side::Host, gone: false, pod }
    }

    fn delegate(uid: &str, proxy: &str) -> Event {
        let pod = Sight {
            uid: uid.into(),
            proxy: proxy.into(),
            phase: "Running".into(),
            namespace: "n".into(),
            ..Sight::default()
        };
        Event { side: Side::Target, gone: false, pod }
    }

    fn gone(event: Event) -> Event {
        Event { gone: true, ..event }
    }

    fn deleted(uid: &str) -> Deeds {
        Deeds { deleted: [uid.to_owned()].into(), ..Deeds::default() }
    }

    fn touched(uid: &str) -> Deeds {
        Deeds { touched: [uid.to_owned()].into(), ..Deeds::default() }
    }

    fn verdict(history: &[Event], deeds: &Deeds) -> Vec<usize> {
        judge(history, deeds).into_iter().map(|violation| violation.at).collect()
    }

    #[test]
    fn an_ordinary_life_is_innocent() {
        let history = [
            proxy("p", "Pending"),
            delegate("d", "p"),
            proxy("p", "Running"),
            gone(delegate("d", "p")),
            proxy("p", "Failed"),
            gone(proxy("p", "Failed")),
        ];
        assert_eq!(verdict(&history, &deleted("p")), [0; 0]);
    }

    #[test]
    fn two_delegates_at_once_are_found_even_without_labels() {
        assert_eq!(verdict(&[delegate("d", "p"), delegate("e", "p")], &Deeds::default()), [1]);
        let bare = Event { pod: Sight { proxy: String::new(), ..delegate("d", "p").pod }, ..delegate("d", "p") };
        assert_eq!(verdict(&[delegate("d", "p"), bare, delegate("e", "p")], &Deeds::default()), [2]);
    }

    #[test]
    fn a_replacement_needs_a_cause() {
        let history = [delegate("d", "p"), gone(delegate("d", "p")), delegate("e", "p")];
        assert_eq!(verdict(&history, &Deeds::default()), [2]);
        assert_eq!(verdict(&history, &touched("d")), [0; 0]);
        let razed = Deeds { razed: ["n".to_owned()].into(), ..Deeds::default() };
        assert_eq!(verdict(&history, &razed), [0; 0]);
    }

    #[test]
    fn a_terminal_phase_that_changes_is_found() {
        assert_eq!(verdict(&[proxy("p", "Succeeded"), proxy("p", "Running")], &Deeds::default()), [1]);
        assert_eq!(verdict(&[proxy("p", "Succeeded"), proxy("p", "Failed")], &deleted("p")), [1]);
    }

    #[test]
    fn a_failure_and_a_removal_need_a_cause() {
        let history = [proxy("p", "Running"), proxy("p", "Failed"), gone(proxy("p", "Failed"))];
        assert_eq!(verdict(&history, &Deeds::default()), [1, 2]);
        let history = [delegate("d", "p"), gone(delegate("d", "p")), proxy("p", "Failed")];
        assert_eq!(verdict(&history, &touched("d")), [0; 0]);
    }

    #[test]
    fn a_restart_that_nobody_caused_is_found() {
        let mut later = delegate("d", "p");
        later.pod.restarts = 1;
        assert_eq!(verdict(&[delegate("d", "p"), later.clone()], &Deeds::default()), [1]);
        assert_eq!(verdict(&[delegate("d", "p"), later], &touched("d")), [0; 0]);
    }

    #[test]
    fn at_rest_both_sides_agree() {
        let one = proxy("p", "Running").pod;
        let its = delegate("d", "p").pod;
        assert_eq!(at_rest(std::slice::from_ref(&one), std::slice::from_ref(&its)), [""; 0]);
        assert_eq!(at_rest(std::slice::from_ref(&one), &[]).len(), 1, "nothing runs");
        assert_eq!(at_rest(&[], std::slice::from_ref(&its)).len(), 1, "a leak");
        assert_eq!(
            at_rest(std::slice::from_ref(&one), &[its.clone(), Sight { uid: "e".into(), ..its.clone() }]).len(),
            1
        );
        let ready = Sight { ready: true, ..its };
        assert_eq!(at_rest(&[one], &[ready]).len(), 1, "home does not know");
        assert_eq!(at_rest(&[proxy("p", "Succeeded").pod], &[]), [""; 0]);
    }
}
