use super::*;

/// A history in which an event comes each second.
fn history(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let events = (0..).zip(events);
    events.map(|(second, event)| Event { at: Duration::from_secs(second), ..event }).collect()
}

fn there(side: Side, pod: Sight) -> Event {
    Event { at: Duration::ZERO, side, change: Change::There, pod }
}

fn proxy(uid: &str, phase: &str) -> Event {
    let text = str::to_owned;
    let pod = Sight { namespace: text("n"), name: text("p"), node: text("v"), uid: text(uid), ..Sight::default() };
    there(Side::Host, Sight { phase: text(phase), ..pod })
}

fn leaving(event: Event) -> Event {
    Event { pod: Sight { terminating: true, ..event.pod }, ..event }
}

fn owned(event: Event) -> Event {
    Event { pod: Sight { controller: "ReplicaSet".into(), ..event.pod }, ..event }
}

fn once(event: Event) -> Event {
    Event { pod: Sight { once: true, ..event.pod }, ..event }
}

fn delegate(uid: &str, proxy: &str) -> Event {
    let text = str::to_owned;
    let pod =
        Sight { uid: text(uid), proxy: text(proxy), phase: text("Running"), namespace: text("n"), ..Sight::default() };
    there(Side::Target(0), Sight { running: true, ..pod })
}

fn ended(event: Event, phase: &str) -> Event {
    Event { pod: Sight { running: false, phase: phase.into(), ..event.pod }, ..event }
}

fn elsewhere(event: Event) -> Event {
    Event { side: Side::Target(1), ..event }
}

fn gone(event: Event) -> Event {
    Event { change: Change::Gone, ..event }
}

fn missed(event: Event) -> Event {
    Event { change: Change::Missed, ..event }
}

fn deleted(uid: &str) -> Deeds {
    Deeds { deleted: [uid.to_owned()].into(), ..Deeds::default() }
}

fn touched(uid: &str) -> Deeds {
    Deeds { touched: [uid.to_owned()].into(), ..Deeds::default() }
}

/// The numbers of the events that show something wrong.
fn verdict(events: impl IntoIterator<Item = Event>, deeds: &Deeds) -> Vec<usize> {
    judge(&history(events), deeds).into_iter().map(|violation| violation.at).collect()
}

const NOBODY: fn() -> Deeds = Deeds::default;
const INNOCENT: [usize; 0] = [];

#[test]
fn an_ordinary_life_is_innocent() {
    let life = || {
        [
            proxy("p", "Pending"),
            ended(delegate("d", "p"), "Pending"),
            delegate("d", "p"),
            proxy("p", "Running"),
            leaving(proxy("p", "Running")),
            ended(delegate("d", "p"), "Succeeded"),
            gone(ended(delegate("d", "p"), "Succeeded")),
            leaving(proxy("p", "Succeeded")),
            gone(leaving(proxy("p", "Succeeded"))),
        ]
    };
    assert_eq!(verdict(life(), &deleted("p")), INNOCENT);
    assert_eq!(verdict(life().map(owned), &NOBODY()), INNOCENT, "its controller has deleted it");
    assert_eq!(verdict(life(), &NOBODY()), [4, 8], "nobody deletes a bare pod");
}

#[test]
fn two_delegates_at_once_are_found_even_without_labels() {
    assert_eq!(verdict([delegate("d", "p"), delegate("e", "p")], &NOBODY()), [1]);
    let bare = Event { pod: Sight { proxy: String::new(), ..delegate("d", "p").pod }, ..delegate("d", "p") };
    assert_eq!(verdict([delegate("d", "p"), bare, delegate("e", "p")], &touched("d")), [2]);
}

#[test]
fn two_delegates_in_two_targets_are_found_unless_the_end_of_one_may_have_been_heard_late() {
    let quick = [delegate("d", "p"), elsewhere(delegate("e", "p")), ended(gone(delegate("d", "p")), "Succeeded")];
    assert_eq!(verdict(quick, &NOBODY()), INNOCENT);
    let filler = || [proxy("x", "Pending"), proxy("y", "Pending"), proxy("z", "Pending"), proxy("w", "Pending")];
    let slow = [delegate("d", "p"), elsewhere(delegate("e", "p"))].into_iter().chain(filler());
    assert_eq!(verdict(slow.chain([ended(gone(delegate("d", "p")), "Succeeded")]), &NOBODY()), [1]);
    assert_eq!(
        verdict([delegate("d", "p"), elsewhere(delegate("e", "p"))].into_iter().chain(filler()), &touched("d")),
        [1]
    );
}

#[test]
fn a_replacement_needs_a_cause() {
    let events = || [delegate("d", "p"), gone(ended(delegate("d", "p"), "Failed")), delegate("e", "p")];
    assert_eq!(verdict(events(), &NOBODY()), [2]);
    assert_eq!(verdict(events(), &touched("d")), INNOCENT);
    let events = [delegate("d", "p"), missed(delegate("d", "p")), delegate("e", "p")];
    assert_eq!(verdict(events, &NOBODY()), [2], "what was not seen is no excuse");
}

#[test]
fn a_pod_that_may_start_once_starts_once() {
    let start = |known: bool| {
        let shown = if known { "Running" } else { "Pending" };
        let wait = || once(proxy("p", shown));
        let end = gone(ended(once(delegate("d", "p")), "Failed"));
        [once(delegate("d", "p")), wait(), end, wait(), wait(), once(delegate("e", "p"))]
    };
    assert_eq!(verdict(start(true), &touched("d")), [5]);
    assert_eq!(verdict(start(false), &touched("d")), INNOCENT, "nobody could know that it had started");
}

#[test]
fn a_terminal_phase_that_changes_is_found() {
    let its = || ended(delegate("d", "p"), "Succeeded");
    assert_eq!(verdict([its(), proxy("p", "Succeeded"), proxy("p", "Running")], &NOBODY()), [2]);
    assert_eq!(verdict([its(), proxy("p", "Succeeded"), leaving(proxy("p", "Failed"))], &deleted("p")), [2]);
}

#[test]
fn an_end_that_no_delegate_had_is_found() {
    let events = |phase| [delegate("d", "p"), proxy("p", "Succeeded"), ended(delegate("d", "p"), phase)];
    assert_eq!(verdict(events("Succeeded"), &NOBODY()), INNOCENT, "the watches are not in step");
    assert_eq!(verdict(events("Running"), &NOBODY()), [1]);
    let unseen = [delegate("d", "p"), proxy("p", "Succeeded"), missed(delegate("d", "p"))];
    assert_eq!(verdict(unseen, &NOBODY()), INNOCENT, "it may have had it when nobody looked");
}

#[test]
fn a_failure_and_a_removal_need_a_cause() {
    let events = [ended(delegate("d", "p"), "Failed"), proxy("p", "Failed"), gone(proxy("p", "Failed"))];
    assert_eq!(verdict(events, &NOBODY()), [1, 2]);
    let events =
        [delegate("d", "p"), gone(delegate("d", "p")), proxy("p", "Failed"), ended(delegate("d", "p"), "Failed")];
    assert_eq!(verdict(events, &touched("d")), INNOCENT);
    let events = [owned(proxy("p", "Running")), gone(owned(proxy("p", "Running")))];
    assert_eq!(verdict(events, &NOBODY()), [1], "a controller asks first");
}

#[test]
fn a_restart_that_nobody_caused_is_found() {
    let mut later = delegate("d", "p");
    later.pod.restarts = 1;
    assert_eq!(verdict([delegate("d", "p"), later.clone()], &NOBODY()), [1]);
    assert_eq!(verdict([delegate("d", "p"), later.clone()], &touched("d")), INNOCENT);
    let deeds = Deeds { images: [("p".to_owned(), 1)].into(), ..Deeds::default() };
    let mut again = later.clone();
    again.pod.restarts = 2;
    assert_eq!(verdict([delegate("d", "p"), later.clone()], &deeds), INNOCENT, "its image was changed");
    assert_eq!(verdict([delegate("d", "p"), later, again], &deeds), [2], "its image was changed once");
}

#[test]
fn a_delegate_ends_before_it_goes() {
    assert_eq!(verdict([delegate("d", "p"), gone(delegate("d", "p"))], &NOBODY()), [1]);
    assert_eq!(verdict([delegate("d", "p"), gone(delegate("d", "p"))], &touched("d")), INNOCENT);
    assert_eq!(verdict([delegate("d", "p"), missed(delegate("d", "p"))], &NOBODY()), INNOCENT, "nobody has seen it");
}

/// How many disagree, and how many are on their way.
fn count(proxies: &[&Event], delegates: &[&Event]) -> (usize, usize) {
    let pods = |events: &[&Event]| events.iter().map(|event| event.pod.clone()).collect::<Vec<_>>();
    let rest = at_rest(&pods(proxies), &pods(delegates));
    (rest.disagreements.len(), rest.unsettled.len())
}

#[test]
fn at_rest_both_sides_agree() {
    let (one, its) = (proxy("p", "Running"), delegate("d", "p"));
    assert_eq!(count(&[&one], &[&its]), (0, 0));
    assert_eq!(count(&[&one], &[]), (1, 0), "nothing runs");
    assert_eq!(count(&[], &[&its]), (1, 0), "a leak");
    assert_eq!(count(&[&one], &[&its, &delegate("e", "p")]), (1, 0), "two");
    let mut ready = its.clone();
    ready.pod.ready = true;
    assert_eq!(count(&[&one], &[&ready]), (1, 0), "home does not know");
    assert_eq!(count(&[&proxy("p", "Succeeded")], &[]), (0, 0));
    assert_eq!(count(&[&one], &[&leaving(its.clone())]), (1, 0), "to be replaced");
}

#[test]
fn what_is_on_its_way_is_no_disagreement() {
    let (one, its) = (leaving(proxy("p", "Running")), delegate("d", "p"));
    assert_eq!(count(&[&one], &[&leaving(its.clone())]), (0, 1));
    assert_eq!(count(&[&one], &[&its]), (1, 0), "nobody has told the delegate");
    assert_eq!(count(&[&one], &[]), (1, 0), "it should have gone");
    assert_eq!(count(&[], &[&leaving(its.clone())]), (0, 1));
    assert_eq!(count(&[&proxy("p", "Pending")], &[&ended(its, "Pending")]), (0, 1));
    let mut unbound = proxy("p", "Pending");
    unbound.pod.node = String::new();
    assert_eq!(count(&[&unbound], &[]), (0, 1));
}
