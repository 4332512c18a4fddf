//! Who needs which copies, and so which are garbage. Pure.
//!
//! A copy is needed by the delegates that name it in an annotation of theirs, which the watch of delegates shows, and by pods
//! that are about to be created or wait for what is missing. A delegate that has ended needs nothing any more. Nothing is
//! garbage before the delegates have been listed completely.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::Key;
use crate::shared::Shared;

/// How long a pod that waits for something counts, since nobody tells of one that is given up: longer than the longest
/// backoff, after which it waits anew.
const WAIT: Duration = Duration::from_secs(150);

/// Keys that a delegate has named, shared by all that name the same.
type Keys = Arc<[Key]>;

/// All needs of one virtual node in one target.
#[derive(Debug, Default)]
pub struct Needs {
    /// Delegates by their proxy: its UID and name.
    delegates: HashMap<Box<str>, Keys>,
    /// Pods that have no delegate that was seen, in the same way.
    pins: HashMap<Box<str>, Pin>,
    count: HashMap<Key, u32>,
    known: Shared<[Key]>,
    /// Delegates seen since a list began.
    listing: Option<HashSet<Box<str>>>,
    lists: u32,
    complete: bool,
    freed: Vec<Key>,
}

#[derive(Debug)]
struct Pin {
    keys: Vec<Key>,
    state: PinState,
}

#[derive(Debug, PartialEq, Eq)]
enum PinState {
    /// It is being created; whether the watch has shown it meanwhile.
    Creating { seen: bool },
    /// It was created in the time of this list, and the watch has not shown it yet.
    Made(u32),
    /// It cannot be created before something is there, and counts until then.
    Waiting(Instant),
}

impl Needs {
    /// Whether anybody needs it.
    pub fn has(&self, key: &Key) -> bool {
        self.count.contains_key(key)
    }

    /// Whether what nobody needs is garbage.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What was needed and is not any more, since this was last asked.
    pub fn take_freed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.freed)
    }

    /// Whether this delegate is known.
    pub fn knows(&self, proxy_uid: &str) -> bool {
        self.delegates.contains_key(proxy_uid)
    }

    /// A pod is about to be created.
    pub fn begin(&mut self, uid: &str) {
        self.unpin(uid);
        self.pins.insert(uid.into(), Pin { keys: vec![], state: PinState::Creating { seen: false } });
    }

    /// It will need this.
    pub fn pin(&mut self, uid: &str, key: &Key) {
        let Some(pin) = self.pins.get_mut(uid) else { return };
        if !pin.keys.contains(key) {
            pin.keys.push(key.clone());
            *self.count.entry(key.clone()).or_default() += 1;
        }
    }

    /// It was created and needs these.
    pub fn made(&mut self, uid: &str, keys: &[Key]) {
        if self.pins.get(uid).is_some_and(|pin| pin.state == PinState::Creating { seen: true }) {
            // The watch has shown it, and may have shown its end.
            return self.unpin(uid);
        }
        for key in keys {
            self.pin(uid, key);
        }
        let lists = self.lists;
        if let Some(pin) = self.pins.get_mut(uid) {
            pin.state = PinState::Made(lists);
        }
    }

    /// It was not created and waits for something.
    pub fn wait(&mut self, uid: &str, now: Instant) {
        if let Some(pin) = self.pins.get_mut(uid) {
            pin.state = PinState::Waiting(now + WAIT);
        }
    }

    /// It needs nothing before it is tried again.
    pub fn unpin(&mut self, uid: &str) {
        if let Some(pin) = self.pins.remove(uid) {
            for key in &pin.keys {
                self.drop_one(key);
            }
        }
    }

    /// Those that wait and need this.
    pub fn waiting(&self, key: &Key) -> Vec<Arc<str>> {
        let waits = |pin: &Pin| matches!(pin.state, PinState::Waiting(_)) && pin.keys.contains(key);
        self.pins.iter().filter(|(_, pin)| waits(pin)).map(|(uid, _)| Arc::from(&**uid)).collect()
    }

    /// Forgets those that have waited for too long.
    pub fn expire(&mut self, now: Instant) {
        let late = |pin: &Pin| matches!(pin.state, PinState::Waiting(until) if until < now);
        let late: Vec<_> = self.pins.iter().filter(|(_, pin)| late(pin)).map(|(uid, _)| uid.clone()).collect();
        for uid in late {
            self.unpin(&uid);
        }
    }

    /// A list of the delegates begins.
    pub fn listing(&mut self) {
        self.listing = Some(HashSet::new());
        self.lists = self.lists.wrapping_add(1);
    }

    /// A delegate is there and needs these; `keys` are asked for only if it is new.
    pub fn seen(&mut self, uid: &str, keys: impl FnOnce() -> Vec<Key>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(uid.into());
        }
        if !self.delegates.contains_key(uid) {
            let keys = self.known.one(keys().into());
            for key in &*keys {
                *self.count.entry(key.clone()).or_default() += 1;
            }
            self.delegates.insert(uid.into(), keys);
        }
        match self.pins.get_mut(uid).map(|pin| &mut pin.state) {
            Some(PinState::Creating { seen }) => *seen = true,
            Some(_) => self.unpin(uid),
            None => {}
        }
    }

    /// A delegate has come to need these as well.
    pub fn also(&mut self, uid: &str, more: &[Key]) {
        let Some(mut keys) = self.delegates.get(uid).map(|keys| keys.to_vec()) else { return };
        let new: Vec<Key> = more.iter().filter(|key| !keys.contains(key)).cloned().collect();
        if new.is_empty() {
            return;
        }
        keys.extend(new);
        // Counted anew before it is forgotten: nothing is freed meanwhile.
        for key in &keys {
            *self.count.entry(key.clone()).or_default() += 1;
        }
        if let Some(before) = self.delegates.remove(uid) {
            self.forget(&before);
        }
        let keys = self.known.one(keys.into());
        self.delegates.insert(uid.into(), keys);
    }

    /// A delegate has ended, and needs nothing any more although it is there.
    pub fn ended(&mut self, uid: &str) {
        if let Some(Pin { state: PinState::Creating { seen }, .. }) = self.pins.get_mut(uid) {
            *seen = true;
        }
        self.gone(uid);
    }

    /// A delegate has gone.
    pub fn gone(&mut self, uid: &str) {
        match self.pins.get_mut(uid).map(|pin| &mut pin.state) {
            // What is being created is another one, unless it was seen already.
            Some(PinState::Creating { .. } | PinState::Waiting(_)) | None => {}
            Some(PinState::Made(_)) => self.unpin(uid),
        }
        if let Some(keys) = self.delegates.remove(uid) {
            self.forget(&keys);
        }
    }

    /// The keys of a delegate that was taken out.
    fn forget(&mut self, keys: &Keys) {
        for key in &**keys {
            self.drop_one(key);
        }
    }

    /// The list is complete: what it did not show has gone.
    pub fn listed(&mut self) {
        let Some(seen) = self.listing.take() else { return };
        let gone: Vec<_> = self.delegates.keys().filter(|uid| !seen.contains(*uid)).cloned().collect();
        let lists = self.lists;
        // What was made before the list began would be in it.
        let over = |pin: &Pin| matches!(pin.state, PinState::Made(list) if list != lists);
        let over: Vec<_> = self.pins.iter().filter(|(_, pin)| over(pin)).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.gone(&uid);
        }
        for uid in over {
            self.unpin(&uid);
        }
        self.complete = true;
    }

    fn drop_one(&mut self, key: &Key) {
        if let Some(count) = self.count.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(key);
                self.freed.push(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::CopyKind;
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "shop".into(), kind: CopyKind::ConfigMap, name: name.into() }
    }

    fn list(needs: &mut Needs, delegates: &[(&str, &str)]) {
        needs.listing();
        for (uid, name) in delegates {
            needs.seen(uid, || vec![key(name)]);
        }
        needs.listed();
    }

    #[test]
    fn the_last_delegate_lets_go() {
        let mut needs = Needs::default();
        assert!(!needs.is_complete());
        list(&mut needs, &[("u-1", "a"), ("u-2", "a")]);
        assert!(needs.is_complete() && needs.has(&key("a")));
        let alike = Arc::ptr_eq(&needs.delegates["u-1"], &needs.delegates["u-2"]);
        assert!(alike, "delegates of one kind share what they need");
        needs.gone("u-1");
        needs.gone("u-1");
        assert!(needs.has(&key("a")), "told twice, gone once");
        needs.gone("u-2");
        assert!(!needs.has(&key("a")));
        assert_eq!((needs.take_freed(), needs.take_freed()), (vec![key("a")], vec![]));
    }

    #[test]
    fn a_delegate_comes_to_need_more() {
        let mut needs = Needs::default();
        list(&mut needs, &[("u-1", "a"), ("u-2", "a")]);
        needs.also("u-1", &[key("a"), key("b")]);
        needs.also("u-1", &[key("b")]);
        needs.also("u-3", &[key("c")]);
        assert!(needs.has(&key("b")) && !needs.has(&key("c")), "of one that is not there nothing is known");
        assert_eq!(needs.take_freed(), []);
        needs.gone("u-2");
        assert!(needs.has(&key("a")));
        needs.gone("u-1");
        assert_eq!(needs.take_freed(), [key("a"), key("b")]);
    }

    #[test]
    fn what_a_later_list_does_not_show_has_gone() {
        let mut needs = Needs::default();
        list(&mut needs, &[("u-1", "a"), ("u-2", "b")]);
        needs.listing();
        needs.seen("u-2", Vec::new);
        assert!(needs.has(&key("a")), "the list is not complete");
        needs.listed();
        assert!(!needs.has(&key("a")) && needs.has(&key("b")));
    }

    #[test]
    fn a_pod_in_the_making_holds_what_it_needs_until_the_watch_shows_it() {
        let mut needs = Needs::default();
        list(&mut needs, &[]);
        needs.begin("u-1");
        needs.pin("u-1", &key("a"));
        needs.pin("u-1", &key("a"));
        // A list that began before it was made does not show it.
        needs.listing();
        needs.made("u-1", &[key("a")]);
        needs.listed();
        assert!(needs.has(&key("a")));
        needs.seen("u-1", || vec![key("a")]);
        needs.gone("u-1");
        assert!(!needs.has(&key("a")));
    }

    #[test]
    fn an_answer_after_the_end_holds_nothing() {
        let mut needs = Needs::default();
        list(&mut needs, &[]);
        needs.begin("u-1");
        needs.pin("u-1", &key("a"));
        needs.seen("u-1", || vec![key("a")]);
        needs.gone("u-1");
        assert!(needs.has(&key("a")), "the answer is still to come");
        needs.made("u-1", &[key("a")]);
        assert!(!needs.has(&key("a")));
    }

    #[test]
    fn one_that_has_ended_needs_nothing() {
        let mut needs = Needs::default();
        list(&mut needs, &[("u-1", "a")]);
        needs.ended("u-1");
        assert!(!needs.has(&key("a")));
        needs.begin("u-2");
        needs.pin("u-2", &key("a"));
        needs.ended("u-2");
        needs.made("u-2", &[key("a")]);
        assert!(!needs.has(&key("a")), "it has ended before the answer came");
    }

    #[test]
    fn one_that_was_made_and_never_shown_is_dropped_by_the_next_list() {
        let mut needs = Needs::default();
        list(&mut needs, &[]);
        needs.begin("u-1");
        needs.made("u-1", &[key("a")]);
        assert!(needs.has(&key("a")));
        list(&mut needs, &[]);
        assert!(!needs.has(&key("a")));
    }

    #[test]
    fn one_that_waits_is_known_and_forgotten_in_time() {
        let mut needs = Needs::default();
        let now = Instant::now();
        needs.begin("u-1");
        needs.pin("u-1", &key("a"));
        assert!(needs.waiting(&key("a")).is_empty());
        needs.wait("u-1", now);
        assert_eq!(needs.waiting(&key("a")), [Arc::from("u-1")]);
        needs.expire(now);
        assert!(needs.has(&key("a")));
        needs.expire(now + WAIT + Duration::from_secs(1));
        assert!(!needs.has(&key("a")));
    }
}
