//! What must not have happened, read from what the API servers said. Pure.
//!
//! The history is of watches on all API servers, so that it does not depend on what Longshore thinks. What the run itself
//! did (whom it deleted, which delegates it touched) is the only other input. Events of one server are in its own order;
//! those of different servers are in the order in which they arrived, which may be wrong by as much as a watch lags.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Which API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Host,
    /// By its place among the targets.
    Target(usize),
}

/// A pod in a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one pod")]
pub(crate) struct Sight {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) version: u64,
    /// The proxy of a delegate; empty for others, and for a delegate whose labels somebody took off.
    pub(crate) proxy: String,
    /// The kind of its controller; empty for a bare pod.
    pub(crate) controller: String,
    pub(crate) node: String,
    /// Its restart policy is Never.
    pub(crate) once: bool,
    pub(crate) phase: String,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    /// A container runs.
    pub(crate) running: bool,
    pub(crate) restarts: u64,
}

impl Sight {
    pub(crate) fn terminal(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there, like this.
    There,
    /// It has gone; what is shown is its last state.
    Gone,
    /// It was there, and is not in a list that had to stand in for a watch: how it ended nobody has seen.
    Missed,
}

/// Something that an API server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// When it was heard, since the beginning.
    pub(crate) at: Duration,
    pub(crate) side: Side,
    pub(crate) change: Change,
    pub(crate) pod: Sight,
}

/// What the run did on purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deeds {
    /// UIDs of proxies that the user deleted.
    pub(crate) deleted: BTreeSet<String>,
    /// UIDs of delegates that somebody in the target deleted or edited.
    pub(crate) touched: BTreeSet<String>,
    /// How often the user has given another image to a proxy, by UID: its container starts again so many times at most.
    pub(crate) images: BTreeMap<String, u64>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The number of the event that shows it.
    pub(crate) at: usize,
    /// The UID of the proxy that it is about.
    pub(crate) proxy: String,
    pub(crate) what: String,
}

/// How much later an event of one server may be heard than one of another that came after it.
const LAG: Duration = Duration::from_secs(3);

/// Everything wrong in a history, in its order.
pub(crate) fn judge(history: &[Event], deeds: &Deeds) -> Vec<Violation> {
    let mut court = Court { deeds, found: vec![], proxies: BTreeMap::new(), delegates: BTreeMap::new() };
    for (at, event) in history.iter().enumerate() {
        match event.side {
            Side::Host => court.home(at, event),
            Side::Target(_) => court.target(at, event),
        }
    }
    court.conclude(history.last().map_or(Duration::ZERO, |event| event.at));
    court.found.sort_by_key(|violation| violation.at);
    court.found
}

/// What is known of a proxy.
#[derive(Default)]
struct Proxy {
    last: Option<Sight>,
    /// When home first showed that it runs or has ended.
    known_to_run: Option<Duration>,
    /// By the number of the event: home shows this end, and nobody but its delegate can have caused it.
    ended: Option<(usize, String)>,
}

/// What is known of a delegate.
struct Delegate {
    owner: String,
    side: Side,
    last: Sight,
    born: (usize, Duration),
    /// When it was seen to have gone.
    gone: Option<Duration>,
    missed: bool,
    phases: BTreeSet<String>,
    ran: bool,
}

struct Court<'a> {
    deeds: &'a Deeds,
    found: Vec<Violation>,
    proxies: BTreeMap<String, Proxy>,
    delegates: BTreeMap<String, Delegate>,
}

impl Court<'_> {
    fn blame(&mut self, at: usize, proxy: &str, what: String) {
        self.found.push(Violation { at, proxy: proxy.to_owned(), what });
    }

    fn touched(&self, delegate: &str) -> bool {
        self.deeds.touched.contains(delegate)
    }

    /// The delegates that a proxy has ever had.
    fn delegates_of<'s>(&'s self, proxy: &'s str) -> impl Iterator<Item = (&'s String, &'s Delegate)> {
        self.delegates.iter().filter(move |(_, delegate)| delegate.owner == proxy)
    }

    fn home(&mut self, at: usize, event: &Event) {
        let pod = &event.pod;
        let title = format!("proxy {}/{}", pod.namespace, pod.name);
        let deleted = self.deeds.deleted.contains(&pod.uid);
        let was = self.proxies.get(&pod.uid).and_then(|proxy| proxy.last.clone());
        let was_terminal = was.as_ref().is_some_and(Sight::terminal);

        if was_terminal && was.as_ref().is_some_and(|was| was.phase != pod.phase) {
            let last = was.as_ref().map_or("", |was| &was.phase);
            self.blame(at, &pod.uid, format!("{title} had {last} and shows {}", pod.phase));
        }
        // Controllers delete pods too, but those that are bound are told to go first, unless they have ended.
        let bare = pod.controller.is_empty();
        let told = was.as_ref().is_some_and(|was| was.terminating);
        if event.change == Change::Gone && !deleted && (bare || !(told || was_terminal || pod.node.is_empty())) {
            self.blame(at, &pod.uid, format!("{title} was removed, and nobody had deleted it"));
        } else if event.change == Change::There && bare && pod.terminating && !told && !deleted {
            self.blame(at, &pod.uid, format!("{title} was told to go, and nobody had deleted it"));
        }
        let touched = || self.delegates_of(&pod.uid).any(|(uid, _)| self.touched(uid));
        let its_own_end = pod.terminal() && !was_terminal && !deleted && !pod.terminating && !touched();
        if its_own_end && pod.phase == "Failed" {
            self.blame(at, &pod.uid, format!("{title} has failed, and nobody had touched its delegate"));
        }
        let proxy = self.proxies.entry(pod.uid.clone()).or_default();
        if its_own_end {
            proxy.ended = Some((at, pod.phase.clone()));
        }
        if proxy.known_to_run.is_none() && (pod.phase == "Running" || pod.terminal()) {
            proxy.known_to_run = Some(event.at);
        }
        proxy.last = Some(pod.clone());
    }

    fn target(&mut self, at: usize, event: &Event) {
        let pod = &event.pod;
        let known = self.delegates.get(&pod.uid);
        let owner = known.map_or_else(|| pod.proxy.clone(), |known| known.owner.clone());
        if owner.is_empty() {
            return;
        }
        let title = format!("delegate {}/{} ({})", pod.namespace, pod.name, pod.uid);
        let ran = known.is_some_and(|known| known.last.running);
        let restarts = known.map_or(0, |known| known.last.restarts);
        let news = known.is_none();
        let allowed = self.deeds.images.get(&owner).copied().unwrap_or_default();
        if pod.restarts > restarts.max(allowed) && !self.touched(&pod.uid) {
            self.blame(at, &owner, format!("a container of {title} has restarted"));
        }
        match event.change {
            Change::Gone if ran && pod.running && !self.touched(&pod.uid) => {
                self.blame(at, &owner, format!("{title} was removed while its containers ran"));
            }
            Change::There if news => self.born(at, event, &owner, &title),
            _ => {}
        }
        let delegate = self.delegates.entry(pod.uid.clone()).or_insert_with(|| Delegate {
            owner,
            side: event.side,
            last: pod.clone(),
            born: (at, event.at),
            gone: None,
            missed: false,
            phases: BTreeSet::new(),
            ran: false,
        });
        delegate.phases.insert(pod.phase.clone());
        delegate.ran |= pod.running || pod.terminal();
        delegate.last = pod.clone();
        if event.change != Change::There {
            delegate.gone = Some(event.at);
            delegate.missed = event.change == Change::Missed;
        }
    }

    /// A delegate has come: was there reason for it?
    fn born(&mut self, at: usize, event: &Event, owner: &str, title: &str) {
        let mut wrong = vec![];
        for (uid, former) in self.delegates_of(owner) {
            if former.gone.is_none() && former.side == event.side {
                wrong.push(format!("{title} is there beside {uid}"));
            } else if !self.touched(uid) && former.side == event.side {
                wrong.push(format!("{title} replaces {uid}, which nobody had touched"));
            }
            let known = self.proxies.get(owner).and_then(|proxy| proxy.known_to_run);
            if event.pod.once && former.ran && known.is_some_and(|known| known + LAG < event.at) {
                wrong.push(format!("{title} is the second start of a pod that home has shown to run once"));
            }
        }
        for what in wrong {
            self.blame(at, owner, what);
        }
    }

    /// What can only be said when all is known.
    fn conclude(&mut self, end: Duration) {
        let mut wrong = vec![];
        // Two servers: how long did both have one?
        let all: Vec<(&String, &Delegate)> = self.delegates.iter().collect();
        let mut by_owner: BTreeMap<&str, Vec<(&String, &Delegate)>> = BTreeMap::new();
        for (uid, delegate) in all {
            by_owner.entry(&delegate.owner).or_default().push((uid, delegate));
        }
        for (owner, all) in &by_owner {
            for (uid, one) in all {
                for (other, later) in all.iter().filter(|(_, later)| later.side != one.side && later.born > one.born) {
                    if one.gone.unwrap_or(end) > later.born.1 + LAG {
                        let what =
                            format!("delegates {uid} and {other} of one proxy were there at once, in two targets");
                        wrong.push((later.born.0, (*owner).to_owned(), what));
                    }
                }
            }
        }
        for (uid, proxy) in &self.proxies {
            let Some((at, phase)) = &proxy.ended else { continue };
            let its = by_owner.get(uid.as_str()).map(Vec::as_slice).unwrap_or_default();
            let seen = its.iter().any(|(_, delegate)| delegate.missed || delegate.phases.contains(phase));
            if !seen {
                wrong.push((*at, uid.clone(), format!("home shows {phase}, which no delegate of it ever had")));
            }
        }
        for (at, owner, what) in wrong {
            self.blame(at, &owner, what);
        }
    }
}

/// A pair of lists, and what they disagree in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// By the proxy's UID: both sides do not say the same, or Longshore has left something undone.
    pub(crate) disagreements: Vec<(String, String)>,
    /// Both sides say the same, and it is not the end: schedulers, nodes and controllers have work left.
    pub(crate) unsettled: Vec<(String, String)>,
}

/// Whether the world is as it should be. `proxies` and `delegates` are complete lists of all sides.
pub(crate) fn at_rest(proxies: &[Sight], delegates: &[Sight]) -> Rest {
    let mut rest = Rest::default();
    let mut owned: BTreeMap<&str, Vec<&Sight>> = BTreeMap::new();
    for delegate in delegates {
        owned.entry(&delegate.proxy).or_default().push(delegate);
    }
    for (owner, all) in &owned {
        if !proxies.iter().any(|proxy| proxy.uid == *owner) {
            for delegate in all {
                let title =
                    format!("delegate {}/{} ({}) has no proxy", delegate.namespace, delegate.name, delegate.uid);
                let list = if delegate.terminating { &mut rest.unsettled } else { &mut rest.disagreements };
                list.push(((*owner).to_owned(), title));
            }
        }
    }
    for proxy in proxies.iter().filter(|proxy| !proxy.node.is_empty()) {
        let title = format!("proxy {}/{} ({})", proxy.namespace, proxy.name, proxy.uid);
        let mut disagree = |what: String| rest.disagreements.push((proxy.uid.clone(), format!("{title} {what}")));
        match (owned.get(proxy.uid.as_str()).map(Vec::as_slice).unwrap_or_default(), proxy.terminating) {
            ([delegate], true) if delegate.terminating => {
                rest.unsettled.push((proxy.uid.clone(), format!("{title} is still terminating")));
            }
            ([_], true) => disagree("is told to go, and its delegate is not".into()),
            ([], true) => disagree("is told to go, has no delegate any more, and is still there".into()),
            ([delegate], false) if delegate.phase != proxy.phase || delegate.ready != proxy.ready => disagree(format!(
                "shows {} (ready: {}), its delegate {} {} ({})",
                proxy.phase, proxy.ready, delegate.uid, delegate.phase, delegate.ready
            )),
            ([delegate], false) if delegate.terminating && !delegate.terminal() => disagree("is being replaced".into()),
            ([delegate], false) if delegate.phase == "Pending" => {
                rest.unsettled.push((proxy.uid.clone(), format!("{title} is pending on both sides")));
            }
            ([_], false) => {}
            ([], false) if proxy.terminal() => {}
            ([], false) => disagree(format!("shows {} and has no delegate", proxy.phase)),
            (all, _) => disagree(format!("has {} delegates", all.len())),
        }
    }
    for proxy in proxies.iter().filter(|proxy| proxy.node.is_empty()) {
        let title = format!("proxy {}/{} ({}) is not bound to a node", proxy.namespace, proxy.name, proxy.uid);
        rest.unsettled.push((proxy.uid.clone(), title));
    }
    rest
}

#[cfg(test)]
mod tests;
